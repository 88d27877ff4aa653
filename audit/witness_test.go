package audit_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// A witnessServer is a C2SP witness, as its specification has it.
type witnessServer struct {
	*httptest.Server
	name string
	key  ed25519.PrivateKey
	// hook answers instead of the witness, if it returns true.
	hook func(w http.ResponseWriter, old int64) bool

	mu     sync.Mutex
	logs   map[string]note.Verifier // by origin
	size   map[string]int64
	root   map[string]tlog.Hash
	status []int // of the answers
}

func newWitnessServer(t testing.TB, name string, vkeys ...string) *witnessServer {
	_, key, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	w := &witnessServer{name: name, key: key, logs: map[string]note.Verifier{}, size: map[string]int64{}, root: map[string]tlog.Hash{}}
	for _, vkey := range vkeys {
		v := must(note.NewVerifier(vkey))
		w.logs[v.Name()] = v
	}
	w.Server = httptest.NewServer(http.HandlerFunc(w.add))
	t.Cleanup(w.Close)
	return w
}

func (w *witnessServer) id() []byte {
	typed := append([]byte{4}, w.key.Public().(ed25519.PublicKey)...)
	sum := sha256.Sum256(append([]byte(w.name+"\n"), typed...))
	return sum[:4]
}

func (w *witnessServer) vkey() string {
	typed := append([]byte{4}, w.key.Public().(ed25519.PublicKey)...)
	return fmt.Sprintf("%s+%08x+%s", w.name, binary.BigEndian.Uint32(w.id()), base64.StdEncoding.EncodeToString(typed))
}

// cosign returns the signature line for the body of a checkpoint.
func (w *witnessServer) cosign(body string, at int64) string {
	sig := ed25519.Sign(w.key, fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", uint64(at), body))
	raw := append(binary.BigEndian.AppendUint64(w.id(), uint64(at)), sig...)
	return "— " + w.name + " " + base64.StdEncoding.EncodeToString(raw) + "\n"
}

func (w *witnessServer) add(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	say := func(status int, text string) {
		w.status = append(w.status, status)
		rw.WriteHeader(status)
		_, _ = io.WriteString(rw, text)
	}
	body, _ := io.ReadAll(r.Body)
	head, cp, ok := strings.Cut(string(body), "\n\n")
	lines := strings.Split(head, "\n")
	old, err := strconv.ParseInt(strings.TrimPrefix(lines[0], "old "), 10, 64)
	if r.Method != "POST" || r.URL.Path != "/sub/add-checkpoint" || !ok || err != nil || len(lines) > 64 {
		say(400, "")
		return
	}
	if w.hook != nil && w.hook(rw, old) {
		return
	}
	origin, _, _ := strings.Cut(cp, "\n")
	v, known := w.logs[origin]
	if !known {
		say(404, "")
		return
	}
	n, err := note.Open([]byte(cp), note.VerifierList(v))
	if err != nil {
		say(403, "")
		return
	}
	text := strings.Split(n.Text, "\n")
	size, _ := strconv.ParseInt(text[1], 10, 64)
	root := must(tlog.ParseHash(text[2]))
	var proof tlog.TreeProof
	for _, line := range lines[1:] {
		proof = append(proof, must(tlog.ParseHash(line)))
	}
	switch {
	case old > size:
		say(400, "")
	case old != w.size[origin]:
		rw.Header().Set("Content-Type", "text/x.tlog.size")
		say(409, fmt.Sprintln(w.size[origin]))
	case old == size && old > 0 && root != w.root[origin]:
		say(409, "")
	case old > 0 && old < size && tlog.CheckTree(proof, size, root, old, w.root[origin]) != nil, (old == 0 || old == size) && len(proof) > 0:
		say(422, "")
	default:
		w.size[origin], w.root[origin] = size, root
		say(200, w.cosign(n.Text, 1_700_000_000+size))
	}
}

func (w *witnessServer) anchor(t testing.TB, file string) audit.ProofAnchor {
	t.Helper()
	return must(audit.Witness(w.URL+"/sub/", w.vkey(), audit.WitnessOptions{File: file}))
}

// A witness signs what only grew, at sizes of all kinds, also after the log was
// opened again and when the witness has forgotten or somebody else told it.
func TestWitness(t *testing.T) {
	base := t.TempDir()
	dir, file := filepath.Join(base, "log"), filepath.Join(base, "cosigned")
	key := must(audit.NewKey("audit.test/witnessed"))
	w := newWitnessServer(t, "witness.test/w1", key.VerifierKey())
	anchor := w.anchor(t, file)
	opts := &audit.Options{Key: key, Anchors: []audit.Anchor{anchor}, AnchorEvery: -1, AnchorRecords: -1, SegmentSize: 4000}
	size := 0
	for range 3 {
		log, err := audit.Open(dir, opts)
		require.NoError(t, err)
		for i := range 20 {
			for range i % 5 {
				require.NoError(t, log.Append(ctx, probe("s", "x")))
				size++
			}
			_, err := log.Checkpoint(ctx)
			require.NoError(t, err)
		}
		require.NoError(t, log.Close())
		opts.Anchors = []audit.Anchor{w.anchor(t, file)} // a new process
	}
	assert.NotContains(t, w.status, 422)
	assert.NotContains(t, w.status, 409, "the file says what the witness knows")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	verify := func(text string, opts audit.VerifyOptions) (audit.VerifyReport, error) {
		opts.Key, opts.Anchors = key.VerifierKey(), []string{text}
		return audit.Verify(ctx, os.DirFS(dir), &opts)
	}
	rep, err := verify(string(text), audit.VerifyOptions{Witnesses: []string{w.vkey()}})
	require.NoError(t, err)
	assert.EqualValues(t, size, rep.Anchored)
	assert.EqualValues(t, size, rep.Cosigned)
	assert.Equal(t, []audit.Cosignature{{Witness: w.name, Records: uint64(size), Time: time.Unix(1_700_000_000+int64(size), 0).UTC()}}, rep.Cosignatures)

	// Without the file, the witness itself says how far it is.
	require.NoError(t, os.Remove(file))
	log, err := audit.Open(dir, &audit.Options{Key: key, Anchors: []audit.Anchor{w.anchor(t, file)}, AnchorEvery: -1})
	require.NoError(t, err)
	require.NoError(t, log.Append(ctx, probe("s", "x")))
	require.NoError(t, log.Close())
	assert.Equal(t, []int{409, 200}, w.status[len(w.status)-2:])

	// The one change of a cosignature that nobody else can make.
	stranger := newWitnessServer(t, "witness.test/w1", key.VerifierKey())
	_, err = verify(string(text), audit.VerifyOptions{Witnesses: []string{stranger.vkey()}})
	assert.ErrorIs(t, err, audit.ErrAnchor)
	_, err = verify(strings.Replace(string(text), "\nbatch ", "\nbatch 1", 1), audit.VerifyOptions{Witnesses: []string{w.vkey()}})
	assert.Error(t, err)
	other := newWitnessServer(t, "witness.test/w2")
	_, err = verify(string(text), audit.VerifyOptions{Witnesses: []string{w.vkey(), other.vkey()}})
	assert.ErrorIs(t, err, audit.ErrAnchor, "all must have signed")
	_, err = verify(string(text), audit.VerifyOptions{Witnesses: []string{w.vkey(), other.vkey()}, Quorum: 1})
	assert.NoError(t, err)
	_, err = verify(string(text), audit.VerifyOptions{Witnesses: []string{w.vkey(), w.vkey()}})
	assert.ErrorIs(t, err, audit.ErrKey, "one witness is no two")
	_, err = verify(string(text), audit.VerifyOptions{Witnesses: []string{key.VerifierKey()}})
	assert.ErrorIs(t, err, audit.ErrKey, "a log is no witness")
}

// Root on the host has the signing key and all files. It rewrites what the
// witness signed, and puts the file beside the log in order as far as it can.
func TestWitnessFindsTheHolderOfTheKey(t *testing.T) {
	key := must(audit.NewKey("audit.test/sample"))
	s := newSample(t, key, 4, "standup")
	w := newWitnessServer(t, "witness.test/w1", key.VerifierKey())
	file := filepath.Join(t.TempDir(), "cosigned")
	tell := func(data []byte) error {
		log, _, err := sample{key: key}.reopenWith(data, w.anchor(t, file))
		if err != nil {
			return err
		}
		return log.Close()
	}
	require.NoError(t, tell(s.data))
	cosigned := string(must(os.ReadFile(file)))
	auditor := &audit.VerifyOptions{Key: key.VerifierKey(), Anchors: []string{cosigned}, Witnesses: []string{w.vkey()}}

	forgeries := notFoundWithoutAnchor(t, s)
	forgeries["grown, with another past"] = newSample(t, key, 12, "nobody").data
	for name, data := range forgeries {
		_, err := audit.Verify(ctx, folder(data), &audit.VerifyOptions{Key: key.VerifierKey()})
		require.NoError(t, err, "%s: the key alone finds nothing", name)
		_, err = audit.Verify(ctx, folder(data), auditor)
		assert.ErrorIs(t, err, audit.ErrTampered, name)
		// The host starts again, with the file as it was and without it.
		require.NoError(t, os.WriteFile(file, []byte(cosigned), 0o600))
		assert.ErrorIs(t, tell(data), audit.ErrTampered, name)
		require.NoError(t, os.Remove(file))
		err = tell(data)
		assert.ErrorIs(t, err, audit.ErrTampered, name)
		assert.ErrorIs(t, err, audit.ErrAnchor, name)
		// An anchor that the forger signed alone has no cosignature.
		own := &audit.VerifyOptions{Key: key.VerifierKey(), Anchors: []string{string(lastNote(t, data))}, Witnesses: []string{w.vkey()}}
		_, err = audit.Verify(ctx, folder(data), own)
		assert.ErrorIs(t, err, audit.ErrAnchor, name)
	}
	require.NoError(t, tell(s.data), "the witness still takes the true log")
}

func (s sample) reopenWith(data []byte, a audit.Anchor) (*audit.Log, *audittest.Memory, error) {
	m := audittest.NewMemory(data)
	log, err := audit.New(m, &audit.Options{Key: s.key, Anchors: []audit.Anchor{a}, AnchorEvery: -1})
	return log, m, err
}

// lastNote is the newest checkpoint in a log.
func lastNote(t testing.TB, data []byte) []byte {
	rep, err := audit.Verify(ctx, folder(data), &audit.VerifyOptions{Key: keyIn(t, data)})
	require.NoError(t, err)
	return rep.Newest.Text
}

// keyIn is the verifier key that a log names itself.
func keyIn(t testing.TB, data []byte) string {
	_, rest, ok := bytes.Cut(data, []byte(`"key":"`))
	require.True(t, ok)
	key, _, _ := bytes.Cut(rest, []byte(`"`))
	return string(key)
}

// What a witness answers is not believed.
func TestWitnessAnswers(t *testing.T) {
	key := must(audit.NewKey("audit.test/answers"))
	w := newWitnessServer(t, "witness.test/w1", key.VerifierKey())
	file := filepath.Join(t.TempDir(), "cosigned")
	var m audittest.Memory
	log := must(audit.New(&m, &audit.Options{Key: key, AnchorEvery: -1}))
	defer log.Close()
	require.NoError(t, log.Append(ctx, probe("s", "x")))
	cp := must(log.Checkpoint(ctx))
	body, _, _ := strings.Cut(string(cp.Text), "\n\n")
	body += "\n"
	good := w.cosign(body, 1)
	grown := func(uint64) ([]tlog.Hash, error) { return nil, nil }
	for name, c := range map[string]struct {
		status   int
		answer   string
		tampered bool
	}{
		"nothing":                     {200, "", false},
		"another's signature":         {200, newWitnessServer(t, "witness.test/w1").cosign(body, 1), false},
		"a signature of more":         {200, w.cosign(body+"more\n", 1), false},
		"cut off":                     {200, good[:len(good)-9] + "\n", false},
		"no end of line":              {200, strings.TrimSuffix(good, "\n"), false},
		"text before":                 {200, "hello\n" + good, false},
		"a time beyond all":           {200, w.cosign(body, -1), false},
		"a redirect":                  {307, "", false},
		"an error":                    {500, "", false},
		"no trust":                    {403, "", false},
		"a stranger":                  {404, "", false},
		"a conflict about nothing":    {409, "", false},
		"a conflict, spelled oddly":   {409, "01\n", false},
		"a conflict at the same size": {409, "0\n", false},
		"knows more":                  {409, "7\n", true},
		"knows more than there is":    {409, "9223372036854775807\n", false},
		"sees no growth":              {422, "", true},
		"much":                        {200, strings.Repeat(good, 10_000), false},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			w.hook = func(rw http.ResponseWriter, _ int64) bool {
				asked++
				rw.Header().Set("Location", w.URL+"/sub/add-checkpoint")
				rw.WriteHeader(c.status)
				_, _ = io.WriteString(rw, c.answer)
				return true
			}
			err := w.anchor(t, file).PublishProof(ctx, cp.Text, grown)
			require.Error(t, err)
			if c.tampered {
				assert.ErrorIs(t, err, audit.ErrTampered)
			} else {
				assert.NotErrorIs(t, err, audit.ErrTampered)
			}
			assert.NoFileExists(t, file)
			if c.status != 409 {
				assert.Equal(t, 1, asked)
			}
		})
	}
	// Beside its own, an answer may hold signatures of keys that nobody here knows.
	stranger := newWitnessServer(t, "witness.test/w9").cosign(body, 5)
	w.hook = func(rw http.ResponseWriter, _ int64) bool {
		_, _ = io.WriteString(rw, stranger+good)
		return true
	}
	a := w.anchor(t, file)
	require.NoError(t, a.Publish(ctx, cp.Text))
	assert.Equal(t, string(cp.Text)+good, string(must(os.ReadFile(file))))
	latest, err := a.(audit.AnchorReader).Latest(ctx)
	require.NoError(t, err)
	assert.Equal(t, string(cp.Text)+good, string(latest))
	ended, cancel := context.WithCancel(ctx)
	cancel()
	assert.ErrorIs(t, a.PublishProof(ended, cp.Text, grown), context.Canceled)
}

func TestWitnessOptions(t *testing.T) {
	w := newWitnessServer(t, "witness.test/w1")
	typed := func(b ...byte) string { return base64.StdEncoding.EncodeToString(b) }
	for _, c := range [][3]string{
		{"ftp://witness.test", w.vkey(), "f"}, {"witness.test", w.vkey(), "f"}, {w.URL, "", "f"}, {w.URL, w.vkey(), ""},
		{w.URL, "a+00000000+" + typed(4), "f"}, {w.URL, "a+00000000+" + typed(make([]byte, 33)...), "f"},
		{w.URL, must(audit.NewKey("a")).VerifierKey(), "f"}, {w.URL, strings.Replace(w.vkey(), "w1", "w2", 1), "f"},
		{w.URL, strings.ToUpper(w.vkey()), "f"}, {w.URL, w.vkey() + "\n", "f"},
	} {
		_, err := audit.Witness(c[0], c[1], audit.WitnessOptions{File: c[2]})
		assert.Error(t, err, c)
	}
	dir := t.TempDir()
	_, err := audit.Open(dir, &audit.Options{Anchors: []audit.Anchor{w.anchor(t, filepath.Join(dir, "cosigned"))}})
	assert.ErrorIs(t, err, audit.ErrAnchor, "not in the log's folder")
}

// cutNote splits a signed note after its body.
func cutNote(text string) (body, signatures string, ok bool) {
	body, signatures, ok = strings.Cut(text, "\n\n")
	return body + "\n", signatures, ok
}

// A witness that signs something of its own choice, made to look like the
// checkpoint with more in it, has signed nothing.
func TestWitnessThatSignsAnotherText(t *testing.T) {
	t.Parallel()
	k := newKeeper(t, audit.Options{})
	w := newWitnessServer(t, "witness.example/w", k.VerifierKey())
	cp, err := k.Checkpoint(ctx)
	require.NoError(t, err)
	w.hook = func(rw http.ResponseWriter, _ int64) bool {
		_, _ = rw.Write([]byte("\n" + w.cosign(string(cp.Text), 1)))
		return true
	}
	file := filepath.Join(t.TempDir(), "cosigned")
	require.Error(t, w.anchor(t, file).Publish(ctx, cp.Text))
	assert.NoFileExists(t, file)
}

// A time that no calendar has is no time: a report with it could not be printed.
func TestWitnessWithoutACalendar(t *testing.T) {
	t.Parallel()
	k := newKeeper(t, audit.Options{})
	w := newWitnessServer(t, "witness.example/w")
	cp, err := k.Checkpoint(ctx)
	require.NoError(t, err)
	body, _, _ := strings.Cut(string(cp.Text), "\n\n")
	for at, want := range map[int64]bool{1: true, 253402300799: true, 253402300800: false, 1 << 62: false} {
		anchor := string(cp.Text) + w.cosign(body+"\n", at)
		rep, err := audit.Verify(ctx, k.st.FS(), &audit.VerifyOptions{Key: k.VerifierKey(), Anchors: []string{anchor}, Witnesses: []string{w.vkey()}})
		if !want {
			assert.ErrorIs(t, err, audit.ErrAnchor)
		} else if assert.NoError(t, err) {
			_, err = json.Marshal(rep)
			assert.NoError(t, err)
		}
	}
}
