package audit_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// marked is what arguments hold that must not be found anywhere.
const marked = "Ünlisted-Merger-4711"

var (
	markedArgs = json.RawMessage(`{"channel":"#deals","text":"` + marked + `","n":[1,{"a":null}]}`)
	officer    = audit.Change{By: "dpo@example.com", Reason: "DSR-12"}
)

// act is an intent or a denial with marked arguments.
func act(agent, user string, class audit.Class) audit.Intent {
	in := intent(agent, "slack__post")
	in.Actor.User, in.Class, in.Args = user, class, markedArgs
	return in
}

// A keeper is a log in memory that keeps values.
type keeper struct {
	t      testing.TB
	key    *audit.Key
	kek    audit.KEK
	st, vs *audittest.Memory
	opts   audit.Options
	*audit.Log
}

func newKeeper(t testing.TB, opts audit.Options) *keeper {
	k := &keeper{t: t, key: must(audit.NewKey("audit.test/values")), kek: audit.NewKEK(), st: new(audittest.Memory), vs: new(audittest.Memory), opts: opts}
	k.open()
	return k
}

func (k *keeper) open() {
	o := k.opts
	o.Key, o.KEK, o.Values = k.key, k.kek, k.vs
	k.Log = must(audit.New(k.st, &o))
	k.t.Cleanup(func() { _ = k.Close() })
}

// begin records an act and returns the record.
func (k *keeper) begin(in audit.Intent) audit.Record {
	c, err := k.Begin(ctx, in)
	require.NoError(k.t, err)
	return k.record(c.Record())
}

func (k *keeper) deny(agent, user string, args json.RawMessage) audit.Record {
	ev := denial(agent, "slack__delete")
	ev.Actor.User, ev.Args = user, args
	require.NoError(k.t, k.Append(ctx, ev))
	return k.record(k.Size())
}

func (k *keeper) record(seq uint64) audit.Record {
	for r, err := range k.Query(ctx, audit.Filter{Seq: seq}) {
		require.NoError(k.t, err)
		return r
	}
	k.t.Fatalf("no record %d", seq)
	return audit.Record{}
}

func (k *keeper) values() *audit.Values {
	return must(audit.OpenValues(ctx, k.vs.FS(), k.kek))
}

// shown is what of each record can be read: "shown", "gone", "-" or an error.
func (k *keeper) shown() string {
	var words []string
	v := k.values()
	for r, err := range k.Query(ctx, audit.Filter{}) {
		require.NoError(k.t, err)
		if r.Args == nil {
			continue
		}
		d, err := v.Reveal(ctx, r)
		switch {
		case errors.Is(err, audit.ErrNotKept):
			words = append(words, "-")
		case errors.Is(err, audit.ErrGone):
			words = append(words, "gone")
		case err != nil:
			words = append(words, err.Error())
		default:
			assert.NoError(k.t, audit.VerifyDisclosure(d, must(r.MarshalJSON())))
			words = append(words, "shown")
		}
	}
	return strings.Join(words, " ")
}

func (k *keeper) check() audit.ValueReport {
	return must(k.values().Check(ctx, k.Query(ctx, audit.Filter{})))
}

func (k *keeper) verify() audit.VerifyReport {
	return must(audit.Verify(ctx, k.st.FS(), &audit.VerifyOptions{Key: k.key.VerifierKey()}))
}

// encodings are spellings of a text that a search for a leak must know.
func encodings(text string) map[string][]byte {
	ascii := strings.Trim(fmt.Sprintf("%+q", text), `"`)
	m := map[string][]byte{
		"plain": []byte(text), "hex": []byte(hex.EncodeToString([]byte(text))), "HEX": []byte(strings.ToUpper(hex.EncodeToString([]byte(text)))),
		"url": []byte(url.QueryEscape(text)), "escaped": []byte(ascii), "reversed": nil,
		// The part that needs no escape in any of them.
		"inner": []byte("nlisted-Merger-4711"),
	}
	delete(m, "reversed")
	for i := range 3 { // the three ways in which base64 can be aligned
		padded := append(bytes.Repeat([]byte{'x'}, i), text...)
		std := base64.RawStdEncoding.EncodeToString(padded)
		from, to := []int{0, 2, 3}[i], len(std)-2
		m[fmt.Sprint("base64-", i)] = []byte(std[from:to])
		m[fmt.Sprint("base64url-", i)] = []byte(base64.RawURLEncoding.EncodeToString(padded)[from:to])
	}
	return m
}

// leaks names the encodings of the marked text in files.
func leaks(t testing.TB, dir fs.FS) (found []string) {
	require.NoError(t, fs.WalkDir(dir, ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := fs.ReadFile(dir, name)
		for enc, text := range encodings(marked) {
			if bytes.Contains(data, text) {
				found = append(found, name+": "+enc)
			}
		}
		return err
	}))
	return found
}

// No byte of marked arguments is in any file of a log, at any level and in any
// encoding; and the search finds each encoding where it is.
func TestValuesDoNotLeak(t *testing.T) {
	for enc, text := range encodings(marked) {
		assert.NotEmpty(t, leaks(t, fstest.MapFS{"f": {Data: append([]byte("..."), text...)}}), enc)
	}
	for level := audit.LevelMetadata; level <= audit.LevelFull; level++ {
		base := t.TempDir()
		log := openLog(t, filepath.Join(base, "log"), &audit.Options{Level: func(audit.Record) audit.Level { return level }})
		for i := range 20 {
			c, err := log.Begin(ctx, act("standup", fmt.Sprint("user", i%3), audit.ClassWrite))
			require.NoError(t, err)
			require.NoError(t, c.End(ctx, audit.Outcome{Status: audit.StatusOK}))
			ev := denial("standup", "slack__delete")
			ev.Args = markedArgs
			require.NoError(t, log.Append(ctx, ev))
		}
		_, err := log.Erase(ctx, audit.Subject{User: "user1"}, officer)
		require.NoError(t, err)
		require.NoError(t, log.Close())
		assert.Empty(t, leaks(t, os.DirFS(base)), level)
		rep, err := audit.Verify(ctx, os.DirFS(filepath.Join(base, "log")), &audit.VerifyOptions{Key: log.VerifierKey()})
		require.NoError(t, err)
		for _, c := range rep.Caveats {
			assert.NotContains(t, c, "not part of the log")
		}
	}
}

func TestDefaultLevels(t *testing.T) {
	k := newKeeper(t, audit.Options{})
	for _, class := range []audit.Class{audit.ClassRead, "", audit.ClassWrite, audit.ClassDestructive} {
		k.begin(act("a", "u", class))
	}
	k.deny("a", "u", markedArgs)
	ev := probe("a", "x")
	ev.Args = markedArgs
	require.NoError(t, k.Append(ctx, ev))
	assert.Equal(t, "- - shown shown shown -", k.shown())
	for r, err := range k.Query(ctx, audit.Filter{}) {
		require.NoError(t, err)
		require.NotNil(t, r.Args)
		if !r.Args.Kept { // the log's key opens it
			d := audit.Disclosure{Seq: r.Seq, Value: markedArgs, Opening: k.key.Opening(*r.Args)}
			assert.NoError(t, audit.VerifyDisclosure(d, must(r.MarshalJSON())))
		} else { // it does not
			assert.False(t, r.Args.Matches(markedArgs, k.key.Opening(*r.Args)))
		}
	}
}

func TestLevelsThatTheHostSays(t *testing.T) {
	levels := map[string]audit.Level{"none": audit.LevelMetadata, "some": audit.LevelCommitted, "all": audit.LevelFull, "bad": 9}
	k := newKeeper(t, audit.Options{Level: func(r audit.Record) audit.Level {
		switch {
		case r.Event != nil:
			return audit.LevelMetadata
		case r.Intent.Action == "panics":
			panic("no")
		}
		return levels[r.Intent.Action]
	}})
	for _, name := range []string{"none", "some", "all", "default"} {
		in := act("a", "u", audit.ClassWrite)
		in.Action = name
		k.begin(in)
	}
	k.deny("a", "u", markedArgs)
	assert.Equal(t, "- shown shown", k.shown())
	assert.Nil(t, k.record(1).Args)
	assert.Nil(t, k.record(5).Args)
	for _, name := range []string{"bad", "panics"} {
		in := act("a", "u", audit.ClassWrite)
		in.Action = name
		_, err := k.Begin(ctx, in)
		assert.ErrorIs(t, err, audit.ErrInvalid, name)
	}
	assert.EqualValues(t, 5, k.Size())
}

// A door may say how much is kept at most; what the host says is never exceeded.
func TestLevelsThatTheDoorSays(t *testing.T) {
	k := newKeeper(t, audit.Options{Level: func(r audit.Record) audit.Level {
		if r.Intent != nil && r.Intent.Action == "quiet" {
			return audit.LevelMetadata
		}
		return audit.LevelDefault
	}})
	begin := func(action string, class audit.Class, keep audit.Level) *audit.Commitment {
		in := act("a", "u", class)
		in.Action, in.Keep = action, keep
		return k.begin(in).Args
	}
	assert.False(t, begin("x", audit.ClassWrite, audit.LevelCommitted).Kept)
	assert.True(t, begin("x", audit.ClassRead, audit.LevelFull).Kept)
	assert.Nil(t, begin("x", audit.ClassWrite, audit.LevelMetadata))
	assert.Nil(t, begin("quiet", audit.ClassWrite, audit.LevelFull))
	d := audit.Refusal(audit.NewID(), audit.GuardContent)
	require.NoError(t, k.Append(ctx, audit.Event{Kind: audit.KindDenial, Door: audit.DoorModel, Action: "x", Resource: "y", Decision: &d, Args: markedArgs, Keep: audit.LevelCommitted}))
	assert.False(t, k.record(5).Args.Kept, "who is denied is no reason to keep a prompt")
	in := act("a", "u", audit.ClassRead)
	in.Keep = 9
	_, err := k.Begin(ctx, in)
	assert.ErrorIs(t, err, audit.ErrInvalid)
}

// Arguments that are no object, are empty, or are too large.
func TestOddValues(t *testing.T) {
	k := newKeeper(t, audit.Options{})
	for _, args := range []string{"", "7", `{"a":1,"a":2}`, `{"a":1}{}`, "\xff\x00\n\r", strings.Repeat("x", audit.MaxDeniedValue)} {
		r := k.deny("a\x1b\u202e\n", "u\"\\", json.RawMessage(args))
		d, err := k.values().Reveal(ctx, r)
		require.NoError(t, err)
		assert.Equal(t, args, string(d.Value))
		_, err = d.Only("a")
		assert.ErrorIs(t, err, audit.ErrDisclosure)
		assert.Nil(t, r.Args.Fields)
	}
	assert.False(t, k.deny("a", "", make([]byte, audit.MaxDeniedValue+1)).Args.Kept)
	in := act("a", "", audit.ClassWrite)
	in.Args = make([]byte, audit.MaxValue)
	assert.True(t, k.begin(in).Args.Kept)
	in.Args = make([]byte, audit.MaxValue+1)
	assert.False(t, k.begin(in).Args.Kept)
	assert.Equal(t, "shown shown shown shown shown shown - shown -", k.shown())
	var denied audit.Record
	require.NoError(t, json.Unmarshal(must(k.record(1).MarshalJSON()), &denied))
	assert.Equal(t, "u\"\\", denied.Actor().User)
}

func TestValueFilesOfAFolder(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "log")
	log := openLog(t, dir, nil)
	c, err := log.Begin(ctx, act("a", "u", audit.ClassWrite))
	require.NoError(t, err)
	require.NoError(t, c.End(ctx, audit.Outcome{}))
	require.NoError(t, log.Close())
	st, err := os.Stat(dir + ".kek")
	require.NoError(t, err)
	assert.Equal(t, fs.FileMode(0o600), st.Mode().Perm())
	rec := collect(t, dir, audit.Filter{})[0]
	v := must(audit.OpenValues(ctx, os.DirFS(dir+".values"), must(audit.LoadKEK(dir+".kek"))))
	d, err := v.Reveal(ctx, rec)
	require.NoError(t, err)
	assert.Equal(t, string(markedArgs), string(d.Value))

	// Lost or open to others, it is refused; without values the log goes on.
	require.NoError(t, os.Chmod(dir+".kek", 0o644))
	_, err = audit.Open(dir, nil)
	assert.ErrorIs(t, err, audit.ErrKey)
	require.NoError(t, os.Remove(dir+".kek"))
	_, err = audit.Open(dir, nil)
	assert.ErrorIs(t, err, audit.ErrKey)
	log = openLog(t, dir, &audit.Options{NoValues: true})
	_, err = log.Begin(ctx, act("a", "u", audit.ClassWrite))
	require.NoError(t, err)
	assert.False(t, collect(t, dir, audit.Filter{})[2].Args.Kept)
	_, err = log.Erase(ctx, audit.Subject{User: "u"}, officer)
	assert.ErrorIs(t, err, audit.ErrNoValues)
	require.NoError(t, log.Close())

	for _, o := range []audit.Options{
		{ValuesDir: filepath.Join(dir, "values")}, {KEKFile: filepath.Join(dir, "kek")},
		{KEKFile: filepath.Join(base, "v", "kek"), ValuesDir: filepath.Join(base, "v")}, {ValuesDir: dir},
	} {
		_, err = audit.Open(dir, &o)
		assert.ErrorIs(t, err, audit.ErrKey)
	}
	// A log that is in no folder can have its values in one.
	for _, o := range []audit.Options{{Values: new(audittest.Memory)}, {ValuesDir: base}, {ValuesDir: base, KEKFile: filepath.Join(base, "kek")}} {
		o.Key = must(audit.NewKey("x"))
		_, err = audit.New(new(audittest.Memory), &o)
		assert.ErrorIs(t, err, audit.ErrKey)
	}
	elsewhere := audit.Options{Key: must(audit.NewKey("x")), ValuesDir: filepath.Join(base, "pg.values"), KEKFile: filepath.Join(base, "pg.kek")}
	log = must(audit.New(new(audittest.Memory), &elsewhere))
	_, err = log.Begin(ctx, act("a", "u", audit.ClassWrite))
	require.NoError(t, err)
	e, err := log.Erase(ctx, audit.Subject{User: "u"}, officer)
	require.NoError(t, err)
	assert.Equal(t, audit.Erased{Values: 1, Keys: 1}, e)
	require.NoError(t, log.Close())
}

// Whoever changes, swaps or copies values is found when they are read.
func TestTamperedValues(t *testing.T) {
	k := newKeeper(t, audit.Options{})
	a, b := k.begin(act("a", "u", audit.ClassWrite)), k.begin(act("a", "u", audit.ClassWrite))
	require.NoError(t, k.Close())
	dir := k.vs.FS()
	name := "values.v1.00000001.jsonl"
	var lines [2]map[string]string
	for i, text := range strings.Split(strings.TrimSpace(string(dir[name].Data)), "\n") {
		require.NoError(t, json.Unmarshal([]byte(text), &lines[i]))
	}
	write := func(ls ...map[string]string) fstest.MapFS {
		var out []byte
		for _, l := range ls {
			out = fmt.Appendf(out, `{"salt":"%s","key":"%s","sealed":"%s"}`+"\n", l["salt"], l["key"], l["sealed"])
		}
		return fstest.MapFS{name: {Data: out}, "keys.v1.jsonl": dir["keys.v1.jsonl"]}
	}
	with := func(l map[string]string, key, value string) map[string]string {
		c := map[string]string{"salt": l["salt"], "key": l["key"], "sealed": l["sealed"]}
		c[key] = value
		return c
	}
	reveal := func(dir fs.FS, r audit.Record) error {
		_, err := must(audit.OpenValues(ctx, dir, k.kek)).Reveal(ctx, r)
		return err
	}
	assert.NoError(t, reveal(write(lines[0], lines[1]), a))
	swapped := write(with(lines[0], "sealed", lines[1]["sealed"]), with(lines[1], "sealed", lines[0]["sealed"]))
	assert.ErrorIs(t, reveal(swapped, a), audit.ErrTampered)
	assert.ErrorIs(t, reveal(swapped, b), audit.ErrTampered)
	flipped := []byte(lines[0]["sealed"])
	if flipped[10]++; !strings.ContainsAny(string(flipped[10:11]), "BCDEFGHIJKLMNOPQRSTUVWXYZbcdefghijklmnopqrstuvwxyz123456789") {
		flipped[10] = 'A' // still base64
		if lines[0]["sealed"][10] == 'A' {
			flipped[10] = 'B'
		}
	}
	assert.ErrorIs(t, reveal(write(with(lines[0], "sealed", string(flipped)), lines[1]), a), audit.ErrTampered)
	assert.ErrorIs(t, reveal(write(with(lines[0], "sealed", "")), a), audit.ErrTampered)
	assert.ErrorIs(t, reveal(write(lines[1]), a), audit.ErrGone)
	assert.ErrorIs(t, reveal(write(with(lines[0], "key", "0000000000000000")), a), audit.ErrGone)
	rep := must(must(audit.OpenValues(ctx, write(with(lines[1], "sealed", "AAAA")), k.kek)).Check(ctx, audit.Scan(ctx, k.st.FS(), audit.Filter{})))
	assert.Equal(t, audit.ValueReport{Kept: 2, Missing: []uint64{1}, Damaged: []uint64{2}}, rep)

	// A data key passed off as another agent's.
	keys := fstest.MapFS{name: dir[name], "keys.v1.jsonl": {Data: bytes.Replace(dir["keys.v1.jsonl"].Data, []byte(`"user":"u"`), []byte(`"user":"v"`), 1)}}
	assert.ErrorIs(t, reveal(keys, a), audit.ErrTampered)
	// The record itself with another commitment.
	other := a
	c := *a.Args
	c.MAC = b.Args.MAC
	other.Args = &c
	assert.ErrorIs(t, reveal(dir, other), audit.ErrTampered)
}

// The value is on the disk no later than the record that commits to it.
func TestValueIsDurableBeforeItsRecord(t *testing.T) {
	for _, op := range []string{"write", "sync", "names", "create", "truncate"} {
		for point := 0; ; point++ {
			k := newKeeper(t, audit.Options{SegmentSize: 1500})
			n, hit := -1, false
			k.vs.FailOn(func(o string) error {
				if o == op {
					n++
				}
				if hit = hit || o == op && n == point; hit {
					return errors.New("disk")
				}
				return nil
			})
			begun := 0
			for i := range 8 {
				if _, err := k.Begin(ctx, act(fmt.Sprint("a", i%3), "u", audit.ClassWrite)); err == nil {
					begun++
				}
			}
			if hit {
				_, err := k.Begin(ctx, act("a", "u", audit.ClassRead))
				assert.ErrorIs(t, err, audit.ErrFailed)
			}
			_ = k.Close()
			k.st, k.vs = k.st.PowerCut(1<<20), k.vs.PowerCut(0)
			k.open()
			rep := k.check()
			assert.GreaterOrEqual(t, rep.Kept, begun)
			assert.Equal(t, audit.ValueReport{Kept: rep.Kept, Readable: rep.Kept}, rep, "%s %d", op, point)
			k.begin(act("b", "u", audit.ClassWrite))
			assert.Equal(t, rep.Kept+1, k.check().Readable)
			if !hit {
				break
			}
		}
	}
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
