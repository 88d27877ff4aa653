package audit

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"
)

// A segment says which key it goes on with, and which segment it is. Neither can
// be another, even if the log's key signed it.
func TestHeaderSaysWhatIsBefore(t *testing.T) {
	key, err := NewKey("audit.test/header")
	require.NoError(t, err)
	stranger, err := NewKey("audit.test/header")
	require.NoError(t, err)
	file := func(batch uint64, segment int, vkey string) *fstest.MapFile {
		cp := Checkpoint{Origin: key.Origin(), Root: new(tree).root(), Batch: batch, Segment: segment}
		require.NoError(t, cp.sign(key.secret.signer))
		return &fstest.MapFile{Data: append(cp.appendLine(nil, &header{Key: vkey, Tree: []tlog.Hash{}}), '\n')}
	}
	first := file(1, 1, key.VerifierKey())
	for what, c := range map[string]struct {
		second *fstest.MapFile
		ok     bool
	}{
		"good":            {file(2, 2, key.VerifierKey()), true},
		"another key":     {file(2, 2, stranger.VerifierKey()), false},
		"another segment": {file(2, 3, key.VerifierKey()), false},
	} {
		_, err := Verify(t.Context(), fstest.MapFS{SegmentName(1): first, SegmentName(2): c.second}, &VerifyOptions{Key: key.VerifierKey()})
		if c.ok {
			assert.NoError(t, err, what)
		} else {
			assert.ErrorIs(t, err, ErrTampered, what)
		}
	}
}

// What nobody signed is decoded in full, and no more of it accepted than a crash
// can leave.
func TestUnsignedRecords(t *testing.T) {
	key, err := NewKey("audit.test/unsigned")
	require.NoError(t, err)
	cp := Checkpoint{Origin: key.Origin(), Root: new(tree).root(), Batch: 1, Segment: 1}
	require.NoError(t, cp.sign(key.secret.signer))
	head := append(cp.appendLine(nil, &header{Key: key.VerifierKey(), Tree: []tlog.Hash{}}), '\n')
	verify := func(records []byte) error {
		dir := fstest.MapFS{SegmentName(1): {Data: append(bytes.Clone(head), records...)}}
		_, err := Verify(t.Context(), dir, &VerifyOptions{Key: key.VerifierKey()})
		return err
	}
	record := func(seq uint64, rest string) []byte {
		return append(appendRecord(nil, seq, fixed, []byte(`{"event":{"kind":"probe","door":"","action":"","resource":""`+rest)), '\n')
	}
	assert.NoError(t, verify(record(1, "}}")))
	assert.ErrorIs(t, verify(record(1, "}")), ErrTampered)
	assert.ErrorIs(t, verify(record(1, `},"intent":{}}`)), ErrTampered)
	var many []byte
	for seq := uint64(1); len(many) <= maxTail; seq++ {
		many = append(many, record(seq, fmt.Sprintf(`,"trace":"%s"}}`, strings.Repeat("x", 60_000)))...)
	}
	assert.ErrorIs(t, verify(many), ErrTampered)
}

// A line may begin as a rotation and take that back: of a member that is there twice
// the last counts.
func TestRotationThatIsNone(t *testing.T) {
	key, err := NewKey("audit.test/none")
	require.NoError(t, err)
	cp := Checkpoint{Origin: key.Origin(), Root: new(tree).root(), Batch: 1, Segment: 1}
	require.NoError(t, cp.sign(key.secret.signer))
	head := append(cp.appendLine(nil, &header{Key: key.VerifierKey(), Tree: []tlog.Hash{}}), '\n')
	for _, body := range []string{
		`{"event":{"kind":"key","door":""},"event":null,"intent":{"door":""}}`,
		`{"event":{"kind":"key","door":"","kind":"probe"}}`,
	} {
		line := append(appendRecord(nil, 1, fixed, []byte(body)), '\n')
		_, err := parseRecord(bytes.TrimSuffix(line, []byte("\n")))
		require.NoError(t, err)
		dir := fstest.MapFS{SegmentName(1): {Data: append(bytes.Clone(head), line...)}}
		_, err = Verify(t.Context(), dir, &VerifyOptions{Key: key.VerifierKey()})
		assert.ErrorIs(t, err, ErrTampered)
		assert.ErrorContains(t, err, "is none")
	}
}

// Between looking for the last segment and locking it, its writer may have gone
// on in the next.
func TestLockLooksAgain(t *testing.T) {
	dir := folder(t.TempDir())
	first, err := dir.Open(SegmentName(1))
	require.NoError(t, err)
	require.NoError(t, first.Close())
	var second StorageFile
	st := hookedStorage{dir, func() {
		if second == nil {
			second, err = dir.Open(SegmentName(2)) // the other writer
			require.NoError(t, err)
		}
	}}
	_, _, err = lockLast(st)
	assert.ErrorIs(t, err, ErrLocked)
	require.NoError(t, second.Close())
	f, high, err := lockLast(dir)
	require.NoError(t, err)
	assert.Equal(t, 2, high)
	require.NoError(t, f.Close())
}

type hookedStorage struct {
	Storage
	beforeOpen func()
}

func (s hookedStorage) Open(name string) (StorageFile, error) {
	s.beforeOpen()
	return s.Storage.Open(name)
}

// fileOf is a file whose size is asked before it is cut.
type fileOf struct {
	bytesReader
	sizes []int64
}

func (f *fileOf) Size() (int64, error) {
	n := f.sizes[0]
	if len(f.sizes) > 1 {
		f.sizes = f.sizes[1:]
	}
	return n, nil
}

// Zeros at the end are bounded, and may go while they are counted.
func TestContentEnd(t *testing.T) {
	f := func(data string, sizes ...int64) *fileOf {
		return &fileOf{bytesReader{bytes.NewReader([]byte(data))}, sizes}
	}
	end, padded, err := contentEnd(f("a\x00\x00", 3))
	require.NoError(t, err)
	assert.Equal(t, []int64{1, 2}, []int64{end, padded})
	end, padded, err = contentEnd(f("abc", 9, 3)) // cut since it was asked
	require.NoError(t, err)
	assert.Equal(t, []int64{3, 0}, []int64{end, padded})
	_, _, err = contentEnd(f("abc", 9)) // it says that it has more
	assert.ErrorIs(t, err, io.EOF)

	name := filepath.Join(t.TempDir(), "sparse")
	require.NoError(t, os.WriteFile(name, []byte("a"), 0o600))
	require.NoError(t, os.Truncate(name, 1<<40))
	_, err = isEmpty(folder(filepath.Dir(name)).Read, "sparse")
	assert.ErrorIs(t, err, ErrTampered)
}
