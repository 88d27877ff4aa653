//go:build linux

package filecopy

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestWhatIsMadeIsTheOwnersFromTheStart has something of root's lie where a file
// was made a moment ago: it stays as it is.
func TestWhatIsMadeIsTheOwnersFromTheStart(t *testing.T) {
	const uid, gid = 4242, 4243
	if os.Getuid() != 0 {
		t.Skip("only root makes files for others")
	}
	owner := func(name string) [3]uint32 {
		var st unix.Stat_t
		require.NoError(t, unix.Lstat(name, &st))
		return [3]uint32{st.Uid, st.Gid, st.Mode & 0o7777}
	}
	work := t.TempDir()
	require.NoError(t, os.Chown(work, uid, gid))
	f, err := os.Open(work)
	require.NoError(t, err)
	d := NewDir(f, uid, gid)
	defer d.Close()
	sub, err := d.MakeAll("a/b")
	require.NoError(t, err)
	file, err := sub.Create("file", 0o666)
	require.NoError(t, err)
	file.Close()
	sub.Close()
	assert.Equal(t, [3]uint32{uid, gid, 0o755}, owner(work+"/a/b"))
	assert.Equal(t, [3]uint32{uid, gid, 0o644}, owner(work+"/a/b/file"))

	require.NoError(t, os.Mkdir(work+"/root", 0o700))
	swapped, err := os.Open(work + "/root")
	require.NoError(t, err)
	defer swapped.Close()
	assert.ErrorIs(t, d.finish(swapped, 0o755), unix.EPERM)
	assert.Equal(t, [3]uint32{0, 0, 0o700}, owner(work+"/root"))
	into, err := d.Open("root")
	require.NoError(t, err)
	defer into.Close()
	_, err = into.Make("x", 0o755)
	assert.ErrorIs(t, err, unix.EACCES, "the owner of the workspace could not make it either")
}
