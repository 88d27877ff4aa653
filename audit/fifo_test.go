//go:build unix

package audit_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// Nobody who reads a log that others send waits for a pipe in its folder.
func TestPipesAreNotRead(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	pipe := filepath.Join(base, "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	read := func(f func() error) error {
		done := make(chan error, 1)
		go func() { done <- f() }()
		select {
		case err := <-done:
			return err
		case <-time.After(time.Minute):
			t.Fatal("it waits")
			return nil
		}
	}
	for i, place := range []func(name string) error{
		func(name string) error { return syscall.Mkfifo(name, 0o600) },
		func(name string) error { return os.Symlink(pipe, name) },
	} {
		dir := filepath.Join(base, []string{"a", "b"}[i])
		log := openLog(t, dir, nil)
		for range 300 { // a file of hashes of hashes, too
			require.NoError(t, log.Append(ctx, probe("a", "x")))
		}
		require.NoError(t, log.Close())
		prove := func() error { _, err := audit.Prove(ctx, os.DirFS(dir), 7); return err }
		for _, hashes := range []string{"tree.1", "tree.0"} {
			require.NoError(t, os.Remove(filepath.Join(dir, hashes)))
			require.NoError(t, place(filepath.Join(dir, hashes)))
			assert.NoError(t, read(prove), "nobody needs %s", hashes)
		}
		require.NoError(t, place(filepath.Join(dir, audit.SegmentName(2))))
		assert.ErrorIs(t, read(prove), audit.ErrTampered)
		_, err := audit.OpenValues(ctx, os.DirFS(dir+".values"), nil)
		require.NoError(t, err)
		require.NoError(t, place(filepath.Join(dir+".values", "values.v1.00000002.jsonl")))
		assert.ErrorContains(t, read(func() error {
			_, err := audit.OpenValues(ctx, os.DirFS(dir+".values"), nil)
			return err
		}), "not a regular file")
	}
}
