package fsuser

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestDo(t *testing.T) {
	dir := t.TempDir()
	open := dir + "/open"
	require.NoError(t, os.Mkdir(open, 0o777))
	require.NoError(t, os.Chmod(open, 0o777))
	d, err := os.Open(open)
	require.NoError(t, err)
	defer d.Close()
	make := func(name string) error { return unix.Mkdirat(int(d.Fd()), name, 0o755) }
	var inner error
	require.NoError(t, Do(-1, -1, func() { inner = make("mine") }))
	require.NoError(t, inner)
	if os.Getuid() != 0 {
		ran := false
		assert.ErrorIs(t, Do(4242, 4243, func() { ran = true }), unix.EPERM)
		assert.False(t, ran, "another user's rights are not to be had")
		return
	}
	require.NoError(t, Do(4242, 4243, func() { inner = make("theirs") }))
	require.NoError(t, inner)
	var st unix.Stat_t
	require.NoError(t, unix.Stat(open+"/theirs", &st))
	assert.Equal(t, []uint32{4242, 4243}, []uint32{st.Uid, st.Gid})
	require.NoError(t, Do(4242, 4243, func() { inner = unix.Chmod(open+"/mine", 0o700) }))
	assert.Error(t, inner, "root's own is not theirs")
	assert.NoError(t, unix.Chmod(open+"/theirs", 0o700), "and this process is root again")
	assert.True(t, is(0, 0))
}
