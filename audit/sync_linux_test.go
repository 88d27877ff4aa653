package audit

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The file's Sync really asks the kernel: a pipe cannot be synced, and only the
// kernel says so.
func TestSyncReachesTheKernel(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	assert.ErrorIs(t, lockedFile{File: w}.Sync(), syscall.EINVAL)
	assert.ErrorIs(t, syncDir("/proc/self/no-such-folder"), os.ErrNotExist)
}

// The log syncs its file after every write and before it acknowledges, counted
// in a layer over the file.
func TestOpenSyncsTheFile(t *testing.T) {
	var counter *countingStorage
	opts := &Options{layer: func(st Storage) Storage {
		counter = &countingStorage{Storage: st}
		return counter
	}}
	log, err := Open(filepath.Join(t.TempDir(), "log"), opts)
	require.NoError(t, err)
	require.NoError(t, log.Append(t.Context(), Event{Kind: KindProbe}))
	assert.Equal(t, []string{"open", "names", "write", "write", "sync", "write", "sync"}, counter.ops, "zeros and the first checkpoint; the record")
	require.NoError(t, log.Close())
	assert.Equal(t, []string{"truncate", "sync", "write", "sync"}, counter.ops[7:])
}

type countingStorage struct {
	Storage
	ops []string
}

func (c *countingStorage) Open(name string) (StorageFile, error) {
	c.ops = append(c.ops, "open")
	f, err := c.Storage.Open(name)
	return countingFile{f, c}, err
}

func (c *countingStorage) SyncNames() error {
	c.ops = append(c.ops, "names")
	return c.Storage.SyncNames()
}

type countingFile struct {
	StorageFile
	c *countingStorage
}

func (f countingFile) WriteAt(p []byte, off int64) (int, error) {
	f.c.ops = append(f.c.ops, "write")
	return f.StorageFile.WriteAt(p, off)
}

func (f countingFile) Truncate(size int64) error {
	f.c.ops = append(f.c.ops, "truncate")
	return f.StorageFile.Truncate(size)
}

func (f countingFile) Sync() error {
	f.c.ops = append(f.c.ops, "sync")
	return f.StorageFile.Sync()
}
