package audit_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// A sample is a small closed log, its key and its closing checkpoint.
type sample struct {
	data   []byte
	key    *audit.Key
	anchor string
}

// newSample writes n denials in batches of one, then closes the log.
func newSample(t testing.TB, key *audit.Key, n int, agent string) sample {
	t.Helper()
	if key == nil {
		var err error
		key, err = audit.NewKey("audit.test/sample")
		require.NoError(t, err)
	}
	var m audittest.Memory
	log, err := audit.New(&m, &audit.Options{Key: key})
	require.NoError(t, err)
	for i := range n {
		require.NoError(t, log.Append(ctx, denial(agent, fmt.Sprint("act", i))))
	}
	require.NoError(t, log.Close())
	cp, err := log.Checkpoint(ctx)
	require.NoError(t, err)
	require.True(t, cp.Closed)
	return sample{m.Bytes(), key, string(cp.Text)}
}

func folder(data []byte) fstest.MapFS {
	return fstest.MapFS{audit.SegmentName(1): &fstest.MapFile{Data: data}}
}

func (s sample) verify(data []byte, anchors ...string) (audit.VerifyReport, error) {
	return audit.Verify(ctx, folder(data), &audit.VerifyOptions{Key: s.key.VerifierKey(), Anchors: anchors})
}

func (s sample) lines() [][]byte {
	return bytes.SplitAfter(s.data, []byte("\n"))[:bytes.Count(s.data, []byte("\n"))]
}

// reopen opens a log that holds data, as its owner would.
func (s sample) reopen(data []byte) (*audit.Log, *audittest.Memory, error) {
	m := audittest.NewMemory(data)
	log, err := audit.New(m, &audit.Options{Key: s.key})
	return log, m, err
}

func TestEveryChangedByteIsFound(t *testing.T) {
	t.Parallel()
	s := newSample(t, nil, 2, "standup")
	_, err := s.verify(s.data)
	require.NoError(t, err)
	for i := range s.data {
		for _, mask := range []byte{0x01, 0xff, 0x20, 0x80}[:soak(2, 4, 4)] {
			data := bytes.Clone(s.data)
			data[i] ^= mask
			_, err := s.verify(data)
			require.ErrorIs(t, err, audit.ErrTampered, "byte %d (%q) ^ %#x", i, s.data[i], mask)
			if mask != 1 {
				continue
			}
			if _, _, err = s.reopen(data); err == nil {
				// Open trusts the last signature for all before it.
				line := bytes.Count(s.data[:i], []byte("\n"))
				require.Contains(t, string(s.lines()[line]), `{"checkpoint":`, "open: byte %d ^ %#x", i, mask)
				require.Less(t, line, len(s.lines())-1)
			}
		}
	}
}

func TestEveryInsertedByteIsFound(t *testing.T) {
	t.Parallel()
	s := newSample(t, nil, 1, "standup")
	for i := range len(s.data) + 1 {
		for _, c := range []byte{'\n', ' ', 0, 'x', '"'}[:soak(3, 5, 5)] {
			data := slices.Insert(bytes.Clone(s.data), i, c)
			_, err := s.verify(data)
			require.ErrorIs(t, err, audit.ErrTampered, "%q at %d", c, i)
		}
	}
}

func TestLinesDeletedReorderedDuplicatedSpliced(t *testing.T) {
	s := newSample(t, nil, 4, "standup")
	other := newSample(t, s.key, 4, "somebody")
	lines, theirs := s.lines(), other.lines()
	check := func(what string, lines [][]byte) {
		t.Helper()
		data := bytes.Join(lines, nil)
		if bytes.Equal(data, s.data) {
			return
		}
		_, err := s.verify(data, s.anchor)
		assert.ErrorIs(t, err, audit.ErrTampered, what)
	}
	for i := range lines {
		check(fmt.Sprint("delete line ", i), slices.Delete(slices.Clone(lines), i, i+1))
		check(fmt.Sprint("duplicate line ", i), slices.Insert(slices.Clone(lines), i, lines[i]))
		check(fmt.Sprint("splice line ", i), slices.Replace(slices.Clone(lines), i, i+1, theirs[i]))
		check(fmt.Sprint("continue with the other from ", i), append(slices.Clone(lines[:i]), theirs[i:]...))
		for j := range i {
			swapped := slices.Clone(lines)
			swapped[i], swapped[j] = swapped[j], swapped[i]
			check(fmt.Sprint("swap lines ", j, " and ", i), swapped)
		}
	}
	check("both logs in one", append(slices.Clone(lines), theirs...))
}

func TestAnchorFindsWhatTheKeyCannot(t *testing.T) {
	s := newSample(t, nil, 4, "standup")
	for name, forged := range notFoundWithoutAnchor(t, s) {
		t.Run(name, func(t *testing.T) {
			_, err := s.verify(forged, s.anchor)
			assert.ErrorIs(t, err, audit.ErrTampered)
		})
	}
}

// This is the list of what cannot be excluded without an anchor. The report
// says so in words.
func TestNotFoundWithoutAnchor(t *testing.T) {
	s := newSample(t, nil, 4, "standup")
	for name, forged := range notFoundWithoutAnchor(t, s) {
		t.Run(name, func(t *testing.T) {
			rep, err := s.verify(forged)
			require.NoError(t, err)
			require.NotEmpty(t, rep.Caveats)
			for _, words := range []string{"No anchor", "cut off", "older state", "rewrote"} {
				assert.Contains(t, rep.Caveats[0], words)
			}
		})
	}
}

func notFoundWithoutAnchor(t *testing.T, s sample) map[string][]byte {
	lines := s.lines()
	require.Len(t, lines, 10) // first checkpoint, 4 × (record, checkpoint), closing
	atCheckpoint := bytes.Join(lines[:5], nil)
	return map[string][]byte{
		"cut off at a checkpoint":        atCheckpoint,
		"cut off between":                bytes.Join(lines[:4], nil),
		"cut off inside a line":          s.data[:len(atCheckpoint)+40],
		"all records removed":            lines[0],
		"rolled back, closed":            newSample(t, s.key, 3, "standup").data,
		"rewritten with the stolen key":  newSample(t, s.key, 4, "somebody-else").data,
		"rewritten, longer":              newSample(t, s.key, 9, "somebody-else").data,
		"forged records after a removal": append(bytes.Clone(atCheckpoint), bytes.Replace(lines[5], []byte("act2"), []byte("act9"), 1)...),
	}
}

func TestLogLongerThanAnchorIsFine(t *testing.T) {
	s := newSample(t, nil, 3, "standup")
	log, m, err := s.reopen(s.data)
	require.NoError(t, err)
	require.NoError(t, log.Append(ctx, denial("standup", "more")))
	require.NoError(t, log.Close())
	rep, err := s.verify(m.Bytes(), s.anchor)
	require.NoError(t, err)
	assert.Equal(t, uint64(3), rep.Anchored)
	assert.Equal(t, uint64(4), rep.Records)
	assert.Contains(t, rep.Caveats[0], "covers records 1 to 3")
}

func TestBadAnchorsAndKeys(t *testing.T) {
	s := newSample(t, nil, 2, "standup")
	stranger := newSample(t, nil, 2, "standup") // same origin, other key
	_, err := s.verify(s.data, stranger.anchor)
	assert.ErrorIs(t, err, audit.ErrTampered)
	_, err = s.verify(s.data, s.anchor, "")
	assert.ErrorIs(t, err, audit.ErrTampered)
	_, err = s.verify(s.data, strings.Replace(s.anchor, "\n2\n", "\n3\n", 1))
	assert.ErrorIs(t, err, audit.ErrTampered)
	_, err = stranger.verify(s.data)
	assert.ErrorIs(t, err, audit.ErrTampered)
	_, _, err = stranger.reopen(s.data)
	assert.ErrorIs(t, err, audit.ErrTampered)
	_, err = audit.Verify(ctx, folder(s.data), nil)
	assert.ErrorIs(t, err, audit.ErrNoKey)
	_, err = audit.Verify(ctx, folder(s.data), &audit.VerifyOptions{Key: "rubbish"})
	assert.ErrorIs(t, err, audit.ErrKey)
	_, err = audit.Verify(ctx, fstest.MapFS{}, &audit.VerifyOptions{Key: s.key.VerifierKey()})
	assert.ErrorIs(t, err, audit.ErrTampered)
	_, err = s.verify(nil)
	assert.ErrorIs(t, err, audit.ErrEmpty)
	_, err = s.verify(nil, s.anchor)
	assert.ErrorIs(t, err, audit.ErrTampered)
}

// A checkpoint spelled differently says the same, but it is not what was written.
func TestOneSpelling(t *testing.T) {
	s := newSample(t, nil, 1, "standup")
	for _, c := range [][2]string{
		{`"audit.test`, `"\u0061udit.test`}, {`{"checkpoint":"`, `{"checkpoint": "`}, {`\n0\n`, `\n00\n`},
		{`batch 1\n`, `batch 01\n`}, {`batch 1\n`, `batch 1\nmore\n`}, {`=\n"}`, `=\n— x AAAAAAAA\n"}`},
	} {
		data := bytes.Replace(s.data, []byte(c[0]), []byte(c[1]), 1)
		require.NotEqual(t, s.data, data, c[0])
		_, err := s.verify(data)
		assert.ErrorIs(t, err, audit.ErrTampered, c[1])
	}
}

// The last letter of a base64 text has bits that say nothing.
func TestUnusedBitsOfASignature(t *testing.T) {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	s := newSample(t, nil, 1, "standup")
	i := bytes.Index(s.data, []byte(`=\n"}`)) - 1
	data := bytes.Clone(s.data)
	data[i] = letters[strings.IndexByte(letters, data[i])^1]
	_, err := s.verify(data)
	assert.ErrorIs(t, err, audit.ErrTampered)
}

func TestOpenWithTheKeyOfAnotherLog(t *testing.T) {
	s := newSample(t, nil, 1, "standup")
	var err error
	s.key, err = audit.NewKey("audit.test/another")
	require.NoError(t, err)
	_, _, err = s.reopen(s.data)
	assert.ErrorIs(t, err, audit.ErrKey)
}

func TestOpenNamesTheDamagedRecord(t *testing.T) {
	s := newSample(t, nil, 5, "standup")
	data := bytes.Replace(s.data, []byte("act2"), []byte("actX"), 1)
	_, _, err := s.reopen(data)
	require.ErrorIs(t, err, audit.ErrTampered)
	assert.ErrorContains(t, err, "records 3 to 3 are not those that were signed")
	data = bytes.Replace(s.data, []byte(`{"seq":3`), []byte(`{"sEq":3`), 1)
	_, _, err = s.reopen(data)
	require.ErrorIs(t, err, audit.ErrTampered)
	assert.ErrorContains(t, err, "record 3 ")
}

// The owner's own anchor stops a rolled back or deleted log from being used as
// if nothing had happened.
func TestOpenComparesWithItsAnchor(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "log")
	opts := &audit.Options{Anchors: []audit.Anchor{audit.FileAnchor(filepath.Join(base, "anchor"))}}
	log := openLog(t, dir, opts)
	require.NoError(t, log.Append(ctx, denial("standup", "one")))
	require.NoError(t, log.Close())
	old, err := os.ReadFile(filepath.Join(dir, audit.SegmentName(1)))
	require.NoError(t, err)
	log = openLog(t, dir, opts)
	require.NoError(t, log.Append(ctx, denial("standup", "two")))
	require.NoError(t, log.Close())

	require.NoError(t, os.WriteFile(filepath.Join(dir, audit.SegmentName(1)), old, 0o600))
	_, err = audit.Open(dir, opts)
	require.ErrorIs(t, err, audit.ErrTampered)
	assert.ErrorContains(t, err, "ends at record 1, its anchor knows 2")
	require.NoError(t, os.Remove(filepath.Join(dir, audit.SegmentName(1))))
	_, err = audit.Open(dir, opts)
	require.ErrorIs(t, err, audit.ErrTampered)
	require.NoError(t, os.WriteFile(filepath.Join(base, "anchor"), []byte("rubbish"), 0o600))
	_, err = audit.Open(dir, opts)
	require.ErrorIs(t, err, audit.ErrAnchor)
}

func TestOtherFilesAreMentioned(t *testing.T) {
	s := newSample(t, nil, 1, "standup")
	fsys := folder(s.data)
	fsys["notes.txt"] = &fstest.MapFile{Data: []byte("x"), ModTime: time.Now()}
	rep, err := audit.Verify(ctx, fsys, &audit.VerifyOptions{Key: s.key.VerifierKey(), Anchors: []string{s.anchor}})
	require.NoError(t, err)
	assert.Contains(t, strings.Join(rep.Caveats, "\n"), "notes.txt")
}

// Records that no key signed are believed only where a crash can have left them.
func TestForgedRecords(t *testing.T) {
	s := newSample(t, nil, 2, "standup")
	lines := s.lines()
	forged := func(seq int) []byte {
		return fmt.Appendf(nil, `{"seq":%d,"time":"2026-01-01T00:00:00.000000000Z","event":{"kind":"probe","door":"","action":"forged","resource":""}}`+"\n", seq)
	}
	open := bytes.Join(lines[:5], nil) // not closed
	for name, data := range map[string][]byte{
		"after the closing checkpoint": append(bytes.Clone(s.data), forged(3)...),
		"torn, after closing":          append(bytes.Clone(s.data), forged(3)[:20]...),
		"out of order":                 append(bytes.Clone(open), forged(4)...),
		"repeated":                     append(bytes.Clone(open), forged(2)...),
		"before any checkpoint":        forged(1),
		"a line broken in two":         append(bytes.Clone(open), "{\"seq\":3,\n\"time\":"...),
		"alone and torn":               append(forged(1), `{"seq":`...),
	} {
		_, err := s.verify(data)
		assert.ErrorIs(t, err, audit.ErrTampered, name)
		_, _, err = s.reopen(data)
		assert.ErrorIs(t, err, audit.ErrTampered, name)
	}
	rep, err := s.verify(append(bytes.Clone(open), forged(3)...))
	require.NoError(t, err, "nobody can tell it from a crash")
	assert.Equal(t, uint64(2), rep.Signed)
	assert.Contains(t, strings.Join(rep.Caveats, "\n"), "Records 3 to 3 are not signed")
}
