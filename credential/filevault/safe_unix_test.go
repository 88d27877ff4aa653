//go:build unix

package filevault

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/credential"
)

// Files that others could have read or changed.
func TestUnsafe(t *testing.T) {
	kek := newKEK(t)
	for what, spoil := range map[string]func(path string) error{
		"group may read":    func(path string) error { return os.Chmod(path, 0o640) },
		"all may read":      func(path string) error { return os.Chmod(path, 0o604) },
		"group may write":   func(path string) error { return os.Chmod(path, 0o620) },
		"all may replace":   func(path string) error { return os.Chmod(filepath.Dir(path), 0o777) },
		"group may replace": func(path string) error { return os.Chmod(filepath.Dir(path), 0o770) },
		"symbolic link": func(path string) error {
			if err := os.Rename(path, path+".real"); err != nil {
				return err
			}
			return os.Symlink(path+".real", path)
		},
		"not a file": func(path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.Mkdir(path, 0o700)
		},
	} {
		t.Run(what, func(t *testing.T) {
			s, path := seeded(t, kek, nil)
			require.NoError(t, spoil(path))
			_, err := Open(t.Context(), path, kek, nil)
			assert.ErrorIs(t, err, ErrUnsafe)
			_, err = s.Put(t.Context(), "three", credential.NewSecret([]byte("a value")), 0, "")
			assert.ErrorIs(t, err, ErrUnsafe, "also while it is open")
		})
	}
	t.Run("the modes", func(t *testing.T) {
		_, path := seeded(t, kek, nil)
		files, err := filepath.Glob(path + "*")
		require.NoError(t, err)
		assert.Len(t, files, 3, "the vault, the generation before, the lock: %v", files)
		for _, f := range files {
			st, err := os.Stat(f)
			require.NoError(t, err)
			assert.Equal(t, os.FileMode(0o600), st.Mode().Perm(), f)
		}
	})
	t.Run("another user's", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("only root can give a file away")
		}
		_, path := seeded(t, kek, nil)
		require.NoError(t, os.Chown(path, 65534, -1))
		_, err := Open(t.Context(), path, kek, nil)
		assert.ErrorIs(t, err, ErrUnsafe)
		require.NoError(t, os.Chown(path, 0, -1))
		require.NoError(t, os.Chown(filepath.Dir(path), 65534, -1))
		_, err = Open(t.Context(), path, kek, nil)
		assert.ErrorIs(t, err, ErrUnsafe, "the folder's owner can put an old file there")
	})
}
