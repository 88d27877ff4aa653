package egress

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A file that can be written is a program by its digest only, and a copy of a
// program is another file.
func TestProgramFile(t *testing.T) {
	m := newRoom(os.Getpid())
	h, err := m.process(os.Getpid(), m.init)
	require.NoError(t, err)
	exe, err := os.Executable()
	require.NoError(t, err)
	h.fixed = true
	assert.True(t, m.is(&h, Program{Path: exe}))
	assert.False(t, m.is(&h, Program{Path: "/bin/sh"}))
	assert.False(t, m.is(&h, Program{Path: exe + ".gone"}))
	h.fixed = false
	assert.False(t, m.is(&h, Program{Path: exe}))

	bad := Program{Path: exe, SHA256: strings.Repeat("0", 64)}
	assert.False(t, m.is(&h, bad), "not hashed yet")
	m.hashFor([]Rule{{Programs: []Program{bad}}}, []holder{h})
	assert.False(t, m.is(&h, bad))
	good := Program{Path: exe, SHA256: strings.ToUpper(m.known(h.file))}
	require.Len(t, good.SHA256, 64)
	assert.True(t, m.is(&h, good))
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(exe, link))
	assert.True(t, m.is(&h, Program{Path: link, SHA256: good.SHA256}), "where a link leads")
	h.file.mtime++
	assert.False(t, m.is(&h, good), "it has changed since")
}

// Connections are found in the table of sockets that a process sees.
func TestProgramSocket(t *testing.T) {
	near, far, err := tcpPair()
	require.NoError(t, err)
	defer near.Close()
	defer far.Close()
	m := newRoom(os.Getpid())
	inode, err := m.socket(far)
	require.NoError(t, err)
	raw, err := near.SyscallConn()
	require.NoError(t, err)
	var link string
	raw.Control(func(fd uintptr) { link, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)) })
	require.NoError(t, err)
	assert.Equal(t, link, "socket:["+inode+"]", "the other side's, not the door's own")
	s, ok := procAddr(netip.MustParseAddrPort("[::1]:80"), false)
	assert.False(t, ok, s)
	_, err = m.socket(&dialled{far, near.LocalAddr()})
	assert.ErrorIs(t, err, errHolders)
}
