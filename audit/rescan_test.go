package audit_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/twinward-dev/twinward/audit"
)

// What is read after a verification is what was verified, or an error.
func TestScanOfWhatWasVerified(t *testing.T) {
	key, err := audit.NewKey("rescan")
	require.NoError(t, err)
	write := func(dir string, records int, agent string) {
		log, err := audit.Open(dir, &audit.Options{Key: key})
		require.NoError(t, err)
		for range records {
			require.NoError(t, log.Append(t.Context(), audit.Event{Kind: audit.KindProbe, Action: "x", Actor: audit.Actor{Agent: agent}}))
		}
		require.NoError(t, log.Close())
	}
	read := func(dir string, rep audit.VerifyReport, f audit.Filter) (seqs []uint64, err error) {
		for r, err := range rep.Scan(t.Context(), os.DirFS(dir), f) {
			if err != nil {
				return seqs, err
			}
			seqs = append(seqs, r.Seq)
		}
		return seqs, nil
	}
	fresh := func() (string, audit.VerifyReport) {
		dir := filepath.Join(t.TempDir(), "log")
		write(dir, 3, "a")
		rep, err := audit.Verify(t.Context(), os.DirFS(dir), &audit.VerifyOptions{Key: key.VerifierKey()})
		require.NoError(t, err)
		return dir, rep
	}

	dir, rep := fresh()
	seqs, err := read(dir, rep, audit.Filter{})
	require.NoError(t, err)
	assert.Equal(t, []uint64{1, 2, 3}, seqs)
	seqs, err = read(dir, rep, audit.Filter{Agent: "nobody"})
	require.NoError(t, err)
	assert.Empty(t, seqs)

	// A log goes on while it is read about: what came later is not in it.
	write(dir, 2, "a")
	seqs, err = read(dir, rep, audit.Filter{})
	require.NoError(t, err)
	assert.Equal(t, []uint64{1, 2, 3}, seqs)
	for range rep.Scan(t.Context(), os.DirFS(dir), audit.Filter{}) {
		break // and may be left
	}

	// Another log of the same key, as long, longer or shorter, in its place. Each
	// holds for itself: only the verification knows better.
	for _, records := range []int{1, 2, 3, 5} {
		dir, rep := fresh()
		require.NoError(t, os.RemoveAll(dir))
		write(dir, records, "b")
		_, err := audit.Verify(t.Context(), os.DirFS(dir), &audit.VerifyOptions{Key: key.VerifierKey()})
		require.NoError(t, err)
		for _, f := range []audit.Filter{{}, {Agent: "b"}, {Agent: "nobody"}} {
			_, err := read(dir, rep, f)
			assert.ErrorIs(t, err, audit.ErrTampered, "%d records, %v", records, f)
		}
	}
	require.NoError(t, os.RemoveAll(dir))
	_, err = read(dir, rep, audit.Filter{})
	assert.Error(t, err)
}

// A record that a later version wrote is handed on as it is stored.
func TestLineIsWhatIsStored(t *testing.T) {
	key, err := audit.NewKey("lines")
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "log")
	log, err := audit.Open(dir, &audit.Options{Key: key})
	require.NoError(t, err)
	require.NoError(t, log.Append(t.Context(), audit.Event{Kind: audit.KindProbe, Action: "x"}))
	require.NoError(t, log.Close())
	name := filepath.Join(dir, audit.SegmentName(1))
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	// The checkpoint that would sign it is left out: this is about reading.
	lines := strings.SplitAfter(string(text), "\n")
	later := strings.Replace(lines[1], `"action":"x"`, `"action":"x","of_later":{"b":1, "a":2}`, 1)
	require.NotEqual(t, lines[1], later)
	require.NoError(t, os.WriteFile(name, []byte(lines[0]+later), 0o600))
	var got []audit.Record
	for r, err := range audit.Scan(t.Context(), os.DirFS(dir), audit.Filter{}) {
		require.NoError(t, err)
		got = append(got, r)
	}
	require.Len(t, got, 1)
	line, err := got[0].Line()
	require.NoError(t, err)
	assert.Equal(t, strings.TrimSuffix(later, "\n"), string(line))
	again, err := got[0].MarshalJSON()
	require.NoError(t, err)
	assert.False(t, bytes.Contains(again, []byte("of_later")))
	assert.NotEqual(t, tlog.RecordHash(line), tlog.RecordHash(again))

	made := audit.Record{Seq: 1, Time: got[0].Time, Event: got[0].Event}
	line, err = made.Line()
	require.NoError(t, err)
	again, err = made.MarshalJSON()
	require.NoError(t, err)
	assert.Equal(t, string(again), string(line))
}
