package audit_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"golang.org/x/mod/sumdb/note"
)

func TestKeyFile(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "log")
	log := openLog(t, dir, nil)
	key := log.VerifierKey()
	require.NoError(t, log.Close())
	file := dir + ".key"
	st, err := os.Stat(file)
	require.NoError(t, err)
	if runtime.GOOS != "windows" {
		assert.Equal(t, os.FileMode(0o600), st.Mode().Perm())
	}
	k, err := audit.LoadKey(file)
	require.NoError(t, err)
	assert.Equal(t, key, k.VerifierKey())

	_, err = audit.Open(dir, &audit.Options{Origin: "audit.test/another"})
	assert.ErrorIs(t, err, audit.ErrKey)
	_, err = audit.Open(dir, &audit.Options{KeyFile: filepath.Join(base, "absent")})
	assert.ErrorIs(t, err, audit.ErrKey, "an old log is not signed with a new key")
	assert.NoFileExists(t, filepath.Join(base, "absent"))

	good, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, bad := range []string{"", "x", string(good[:len(good)-10]), string(good) + "x\n", strings.Repeat("x", 5000), strings.Replace(string(good), "KEY+", "KEY+x", 1)} {
		require.NoError(t, os.WriteFile(file, []byte(bad), 0o600))
		_, err = audit.Open(dir, nil)
		assert.ErrorIs(t, err, audit.ErrKey)
	}
	require.NoError(t, os.WriteFile(file, good, 0o600))
	if runtime.GOOS != "windows" {
		require.NoError(t, os.Chmod(file, 0o640))
		_, err = audit.Open(dir, nil)
		assert.ErrorIs(t, err, audit.ErrKey)
		assert.ErrorContains(t, err, "chmod 0600")
		require.NoError(t, os.Chmod(file, 0o600))
	}
	log = openLog(t, dir, nil)
	require.NoError(t, log.Close())
}

func TestKeyAndAnchorMustBeOutside(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "log")
	require.NoError(t, os.Mkdir(dir, 0o700))
	link := filepath.Join(base, "link")
	require.NoError(t, os.Symlink(dir, link))
	for _, path := range []string{filepath.Join(dir, "x"), filepath.Join(dir, "sub", "x"), filepath.Join(link, "x"), filepath.Join(base, "no", "..", "log", "x"), dir} {
		_, err := audit.Open(dir, &audit.Options{KeyFile: path})
		assert.ErrorIs(t, err, audit.ErrKey, path)
		_, err = audit.Open(dir, &audit.Options{Anchors: []audit.Anchor{audit.FileAnchor(path)}})
		assert.ErrorIs(t, err, audit.ErrAnchor, path)
	}
	assert.NoFileExists(t, filepath.Join(dir, audit.SegmentName(1)))
	log := openLog(t, dir, &audit.Options{KeyFile: filepath.Join(base, "log-key"), Anchors: []audit.Anchor{audit.FileAnchor(filepath.Join(base, "..log"))}})
	require.NoError(t, log.Close())
}

func TestKeyDoesNotPrint(t *testing.T) {
	file := filepath.Join(t.TempDir(), "k")
	require.NoError(t, os.WriteFile(file, []byte(exampleKey), 0o600))
	k, err := audit.LoadKey(file)
	require.NoError(t, err)
	secret := exampleKey[strings.LastIndex(exampleKey, "+")+2 : len(exampleKey)-1]
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		for _, v := range []any{k, *k, struct{ K *audit.Key }{k}, audit.Options{Key: k}} {
			assert.NotContains(t, fmt.Sprintf(verb, v), secret, verb)
		}
	}
}

func TestOriginsThatCannotBe(t *testing.T) {
	for _, origin := range []string{"a b", "a+b", "a\nb", "a\u2028b", "\x1b[0m"} {
		_, err := audit.NewKey(origin)
		assert.ErrorIs(t, err, audit.ErrKey, "%q", origin)
	}
}

func TestCommitment(t *testing.T) {
	key, err := audit.NewKey("audit.test/commit")
	require.NoError(t, err)
	var m audittest.Memory
	log, err := audit.New(&m, &audit.Options{Key: key})
	require.NoError(t, err)
	args := json.RawMessage(`{"channel":"#executive"}`)
	ev := denial("a", "b")
	ev.Args = args
	require.NoError(t, log.Append(ctx, ev))
	require.NoError(t, log.Append(ctx, ev))
	ev.Args = nil
	require.NoError(t, log.Append(ctx, ev))
	require.NoError(t, log.Close())
	var c []*audit.Commitment
	for r, err := range audit.Scan(ctx, m.FS(), audit.Filter{}) {
		require.NoError(t, err)
		c = append(c, r.Args)
	}
	require.Len(t, c, 3)
	assert.Nil(t, c[2])
	assert.NotEqual(t, c[0].MAC, c[1].MAC, "equal arguments do not look equal")
	opening := key.Opening(*c[0])
	assert.True(t, c[0].Matches(args, opening))
	assert.False(t, c[0].Matches(json.RawMessage(`{"channel":"#executivf"}`), opening))
	assert.False(t, c[0].Matches(append(args, ' '), opening))
	assert.False(t, c[0].Matches(args, nil))
	assert.False(t, c[1].Matches(args, opening), "an opening opens one record")
	other, err := audit.NewKey("audit.test/commit")
	require.NoError(t, err)
	assert.False(t, c[0].Matches(args, other.Opening(*c[0])))
	assert.NotContains(t, string(m.Bytes()), "executive")
}

func TestRelativeFolders(t *testing.T) {
	t.Chdir(t.TempDir())
	require.NoError(t, os.Mkdir("here", 0o700))
	t.Chdir("here")
	log := openLog(t, ".", nil)
	require.NoError(t, log.Close())
	assert.FileExists(t, "../here.key")
	_, err := audit.Open("", nil)
	assert.ErrorIs(t, err, audit.ErrInvalid)
}

// Who stole an old key and can write to the folder cannot put it in force again
// with a record that nobody signed.
func TestOldKeyStaysOld(t *testing.T) {
	a, b := must(audit.NewKey("audit.test/x")), must(audit.NewKey("audit.test/x"))
	var m audittest.Memory
	log := must(audit.New(&m, &audit.Options{Key: a}))
	require.NoError(t, log.Rotate(ctx, b, change))
	dir := m.PowerCut(0).FS()
	f := dir[audit.SegmentName(1)]
	f.Data = fmt.Appendf(bytes.TrimRight(f.Data, "\x00"), `{"seq":2,"time":"2026-11-25T09:00:00.000000000Z","event":{"kind":"key","door":"admin","action":"rotate_log_key","resource":"log","change":{"by":"ops","reason":"x"},"detail":{"new":%q,"old":%q}}}`+"\n", a.VerifierKey(), b.VerifierKey())
	_, err := audit.New(audittest.NewMemoryFS(dir), &audit.Options{Key: b, OldKeys: []*audit.Key{a}})
	assert.ErrorIs(t, err, audit.ErrKey)
}

// Nor with a start of the last segment that the old key signed.
func TestOldKeyInAHeader(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	log := openLog(t, dir, &audit.Options{SegmentSize: 3000, Origin: "audit.test/x"})
	stolen := must(os.ReadFile(dir + ".key"))
	a := log.VerifierKey()
	require.NoError(t, log.Rotate(ctx, must(audit.NewKey("audit.test/x")), change))
	second := filepath.Join(dir, audit.SegmentName(2))
	for {
		require.NoError(t, log.Append(ctx, probe("s", "x")))
		if _, err := os.Stat(second); err == nil {
			break
		}
	}
	require.NoError(t, log.Close())
	line, _, _ := bytes.Cut(must(os.ReadFile(second)), []byte("\n"))
	var v struct {
		Checkpoint string            `json:"checkpoint"`
		Key        string            `json:"key"`
		Tree       []json.RawMessage `json:"tree"`
	}
	require.NoError(t, json.Unmarshal(line, &v))
	signer := must(note.NewSigner(strings.TrimSpace(strings.SplitN(string(stolen), "\n", 2)[1])))
	text, _, _ := strings.Cut(v.Checkpoint, "\n\n")
	v.Checkpoint, v.Key = string(must(note.Sign(&note.Note{Text: text + "\n"}, signer))), a
	require.NoError(t, os.WriteFile(second, append(must(json.Marshal(v)), '\n'), 0o600))
	_, err := audit.Open(dir, nil) // starts at the last segment
	assert.ErrorIs(t, err, audit.ErrTampered)
}
