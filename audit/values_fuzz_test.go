package audit_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// Whatever is in the files of values, it is read as what was sealed for the
// record, or not at all; and a log goes on in them.
func FuzzValues(f *testing.F) {
	k := newKeeper(f, audit.Options{})
	r := k.begin(act("a", "u", audit.ClassWrite))
	k.begin(act("b", "u", audit.ClassWrite))
	require.NoError(f, k.Close())
	dir := k.vs.FS()
	keys, values := dir["keys.v1.jsonl"].Data, dir["values.v1.00000001.jsonl"].Data
	f.Add(keys, values)
	f.Add(keys[:len(keys)-4], values[:len(values)/2])
	f.Add(keys, append(bytes.Repeat([]byte(" "), 20), values[20:]...))
	f.Add([]byte("{}\n"), append([]byte("{}\n\x00\x00\n"), values...))
	f.Fuzz(func(t *testing.T, keys, values []byte) {
		dir := fstest.MapFS{"keys.v1.jsonl": {Data: keys}, "values.v1.00000001.jsonl": {Data: values}}
		v, err := audit.OpenValues(ctx, dir, k.kek)
		require.NoError(t, err)
		if d, err := v.Reveal(ctx, r); err == nil {
			require.Equal(t, string(markedArgs), string(d.Value))
		}
		m := audittest.NewMemoryFS(dir)
		log, err := audit.New(new(audittest.Memory), &audit.Options{Key: k.key, Values: m, KEK: k.kek})
		require.NoError(t, err)
		_, err = log.Begin(ctx, act("c", "u", audit.ClassWrite))
		require.NoError(t, err)
		for r, err := range log.Query(ctx, audit.Filter{}) {
			require.NoError(t, err)
			_, err = must(audit.OpenValues(ctx, m.FS(), k.kek)).Reveal(ctx, r)
			require.NoError(t, err)
		}
		require.NoError(t, log.Close())
		_, err = audit.ParseValueLine(values)
		if err == nil {
			require.NotContains(t, string(values), "\n")
		}
		if key, err := audit.ParseKeyLine(keys); err == nil {
			_, err := key.Encode()
			require.NoError(t, err)
		}
	})
}

func FuzzDisclosure(f *testing.F) {
	k := newKeeper(f, audit.Options{})
	r := k.begin(act("a", "u", audit.ClassWrite))
	line := must(r.MarshalJSON())
	d := must(k.values().Reveal(ctx, r))
	f.Add(must(json.Marshal(d)))
	f.Add(must(json.Marshal(must(d.Only("channel")))))
	fields := map[string]json.RawMessage{}
	require.NoError(f, json.Unmarshal(markedArgs, &fields))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := audit.ParseDisclosure(text)
		if err != nil || audit.VerifyDisclosure(d, line) != nil {
			return
		}
		if len(d.Fields) == 0 {
			require.Equal(t, string(markedArgs), string(d.Value))
		} else {
			require.Equal(t, string(fields[d.Field]), string(d.Value))
		}
	})
}

// What a subject is on record is read as the same.
func FuzzSubject(f *testing.F) {
	f.Add("a", "u", "1 2 3")
	f.Add("", "", "0")
	f.Add("", "", "18446744073709551616")
	f.Fuzz(func(t *testing.T, agent, user, records string) {
		s, err := audit.ParseSubject(map[string]string{"agent": agent, "user": user, "records": records})
		if err != nil {
			return
		}
		detail, err := audit.SubjectDetail(s)
		require.NoError(t, err)
		again, err := audit.ParseSubject(detail)
		require.NoError(t, err)
		require.Equal(t, s, again)
	})
}

func FuzzKEKFile(f *testing.F) {
	path := filepath.Join(f.TempDir(), "log")
	require.NoError(f, openLog(f, path, nil).Close())
	good := must(os.ReadFile(path + ".kek"))
	f.Add(string(good))
	f.Add(string(good[:len(good)-1]))
	f.Add(string(good) + "\n")
	f.Add(string(good) + string(good[bytes.IndexByte(good, '\n')+1:]))
	f.Fuzz(func(t *testing.T, text string) {
		keks, err := audit.ParseKEKs(text)
		if err != nil {
			return
		}
		kek := keks[0]
		require.Contains(t, text, "twinward-kek-v1+")
		wrapped := must(kek.Wrap(ctx, []byte("k"), []byte("b")))
		require.Equal(t, "k", string(must(kek.Unwrap(ctx, wrapped, []byte("b")))))
		_, err = kek.Unwrap(ctx, wrapped, []byte("c"))
		require.Error(t, err)
	})
}
