//go:build unix

package sandbox

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestRemoveTree removes what a hostile program leaves: more levels than the
// process has descriptors, links to the host, and folders without permissions.
func TestRemoveTree(t *testing.T) {
	var before unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &before))
	few := before
	few.Cur = 200
	kept := t.TempDir()
	require.NoError(t, os.WriteFile(kept+"/file", nil, 0o600))
	dir := filepath.Join(t.TempDir(), "workspace")
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.Symlink(kept, dir+"/link"))
	require.NoError(t, unix.Mkfifo(dir+"/fifo", 0o600))

	at, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	for range 1000 {
		require.NoError(t, unix.Mkdirat(at, "deep", 0o700))
		require.NoError(t, unix.Symlinkat(kept, at, "link2"))
		next, err := unix.Openat(at, "deep", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		require.NoError(t, err)
		unix.Close(at)
		at = next
	}
	unix.Close(at)
	require.NoError(t, os.MkdirAll(dir+"/shut/shut/in", 0o700))
	require.NoError(t, os.Chmod(dir+"/shut/shut", 0))
	require.NoError(t, os.Chmod(dir+"/shut", 0))
	require.NoError(t, os.Chmod(dir, 0))

	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &few))
	err = removeTree(dir)
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &before))
	require.NoError(t, err)
	assert.NoDirExists(t, dir)
	assert.FileExists(t, kept+"/file", "a link was followed")
	assert.NoError(t, removeTree(dir), "it is gone already")
}
