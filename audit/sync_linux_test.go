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
	assert.ErrorIs(t, (&fileStorage{f: w}).Sync(), syscall.EINVAL)
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
	assert.Equal(t, []string{"write", "sync", "write", "sync"}, counter.ops)
	require.NoError(t, log.Close())
	assert.Equal(t, []string{"write", "sync"}, counter.ops[4:])
}

type countingStorage struct {
	Storage
	ops []string
}

func (c *countingStorage) Write(p []byte) (int, error) {
	c.ops = append(c.ops, "write")
	return c.Storage.Write(p)
}

func (c *countingStorage) Sync() error {
	c.ops = append(c.ops, "sync")
	return c.Storage.Sync()
}
