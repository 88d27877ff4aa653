package audit

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// newValues opens values in a folder.
func newValues(t *testing.T, dir string, clock func() time.Time) *valueStore {
	t.Helper()
	st, err := openFolder(dir)
	require.NoError(t, err)
	s, err := openValueStore(st, Options{KEK: NewKEK(), Clock: clock, SegmentSize: DefaultSegmentSize})
	require.NoError(t, err)
	return s
}

func keepOne(t *testing.T, s *valueStore, agent, value string) []byte {
	t.Helper()
	_, line, release, err := s.keep(context.Background(), Actor{Agent: agent}, []byte(value))
	release()
	require.NoError(t, err)
	require.NoError(t, s.write(line, 0))
	return line
}

// What a writer is at work on is not read: an erasure would take half a line for
// what an erasure before it left.
func TestValuesAreReadAsFarAsTheyAreWritten(t *testing.T) {
	s := newValues(t, t.TempDir(), time.Now)
	keepOne(t, s, "a", "one")
	half := []byte("{\"salt\":\"half of a line\n")
	require.NoError(t, writeAll(s.seg.f, half, s.seg.used))
	require.NoError(t, writeAll(s.keys.f, half, s.keys.used))
	n, _, err := s.eraseValues(context.Background(), func(valueLine) bool { return false })
	require.NoError(t, err)
	assert.Zero(t, n)
	_, _, err = s.eraseKeys(func(keyLine) bool { return false })
	require.NoError(t, err)
	for _, seg := range []struct {
		name string
		used int64
	}{{valuesName(1), s.seg.used}, {keysFile, s.keys.used}} {
		r, err := s.st.Read(seg.name)
		require.NoError(t, err)
		got := make([]byte, len(half))
		_, err = r.ReadAt(got, seg.used)
		require.NoError(t, err)
		assert.Equal(t, string(half), string(got), seg.name)
		require.NoError(t, r.Close())
	}
	require.NoError(t, s.close())
}

// What a crash tore off is cut off, so that nothing of it follows what is written
// next.
func TestTornValuesAreCutOff(t *testing.T) {
	dir := t.TempDir()
	s := newValues(t, dir, time.Now)
	line := keepOne(t, s, "a", "one")
	require.NoError(t, s.close())
	torn := bytes.Repeat([]byte("torn"), 1000)
	for _, name := range []string{valuesName(1), keysFile} {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_APPEND|os.O_WRONLY, 0)
		require.NoError(t, err)
		_, err = f.Write(torn)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	s = newValues(t, dir, time.Now)
	next := keepOne(t, s, "a", "two")
	require.NoError(t, s.close())
	data, err := os.ReadFile(filepath.Join(dir, valuesName(1)))
	require.NoError(t, err)
	assert.Equal(t, string(line)+string(next), string(data))
	data, err = os.ReadFile(filepath.Join(dir, keysFile))
	require.NoError(t, err)
	assert.NotContains(t, string(data), "torn")
	assert.Equal(t, 2, bytes.Count(data, []byte("\n")))
}

// What is remembered of data keys is forgotten when it is of no more use.
func TestKeysAreForgotten(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := newValues(t, t.TempDir(), func() time.Time { return now })
	for i := range 50 {
		keepOne(t, s, fmt.Sprint("a", i), "x")
	}
	assert.Len(t, s.current, 50)
	now = now.Add(keyLife)
	keepOne(t, s, "b", "x")
	assert.Len(t, s.current, 1)
	assert.Len(t, s.mine, 51)
	now = now.Add(keyLife)
	keepOne(t, s, "c", "x")
	assert.Len(t, s.current, 1)
	assert.Len(t, s.mine, 2)
	for i := range maxCurrent {
		s.current[pair{agent: fmt.Sprint("x", i)}] = &dataKey{keyLine: keyLine{Made: now}}
	}
	keepOne(t, s, "d", "x")
	assert.Len(t, s.current, 1)
	require.NoError(t, s.close())
}

// An opening knows what the last checkpoint covers: the segment that is full stays
// as it is, and the next one is begun.
func TestOpeningGoesOnInTheNextSegment(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	opts := &Options{NoValues: true}
	log, err := Open(dir, opts)
	require.NoError(t, err)
	for range 5 {
		require.NoError(t, log.Append(context.Background(), Event{Kind: KindProbe}))
	}
	full := log.seg.used
	opts.SegmentSize = full + 1
	require.NoError(t, log.st.Close())
	require.NoError(t, log.seg.f.Close()) // killed
	log, err = Open(dir, opts)
	require.NoError(t, err)
	assert.Equal(t, 2, log.seg.n)
	require.NoError(t, log.Close())
	st, err := os.Stat(filepath.Join(dir, SegmentName(1)))
	require.NoError(t, err)
	assert.Equal(t, full, st.Size())
}

// A key that an erasure takes while a value waits to be sealed is not used.
func TestErasedKeyIsNotUsed(t *testing.T) {
	s := newValues(t, t.TempDir(), time.Now)
	s.gate.Lock()
	lines := make(chan []byte)
	go func() { lines <- keepOne(t, s, "a", "one") }()
	var erased string
	for erased == "" {
		s.keying.Lock()
		if k := s.current[pair{agent: "a"}]; k != nil {
			erased = k.ID
		}
		s.keying.Unlock()
		time.Sleep(time.Millisecond)
	}
	_, _, err := s.eraseKeys(func(k keyLine) bool { return k.ID == erased })
	require.NoError(t, err)
	s.gate.Unlock()
	v, err := parseValueLine(bytes.TrimSuffix(<-lines, []byte("\n")))
	require.NoError(t, err)
	assert.NotEqual(t, erased, v.Key)
	require.NoError(t, s.close())
}
