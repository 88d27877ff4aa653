//go:build linux && (amd64 || arm64)

package confine

import (
	"context"
	"os"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestNobodyWaits has calls put to the host by a caller that does not wait any
// more. Its number and its descriptors may be somebody else's by now, here this
// very process's: nothing is done with them.
func TestNobodyWaits(t *testing.T) {
	if err := ProbeShared(); err != nil {
		if os.Getenv("TWINWARD_FULL") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	side := tempDir(t)
	for _, d := range []string{"/tmp", "/etc", "/work"} {
		require.NoError(t, os.Mkdir(side+d, 0o755))
	}
	b := standing(t, &Spec{Tier: TierNoNamespaces, Side: side, ProxyPort: 3128, Workspace: side + "/work", OwnWorkspace: true})
	require.NotNil(t, b.denials)

	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	addr := &unix.RawSockaddrInet4{Family: unix.AF_INET, Port: 3128>>8 | 3128&0xff<<8, Addr: [4]byte{127, 0, 0, 1}}
	gone := &notification{id: 12345, pid: uint32(os.Getpid()), nr: unix.SYS_CONNECT,
		args: [6]uint64{uint64(fd), uint64(uintptr(unsafe.Pointer(addr))), unix.SizeofSockaddrInet4}}
	assert.False(t, b.shared.valid(gone))
	assert.Equal(t, unix.EACCES, b.shared.connect(gone))
	_, err = unix.Getpeername(fd)
	assert.ErrorIs(t, err, unix.ENOTCONN)

	file, err := os.OpenFile(side+"/tmp/file", os.O_CREATE|os.O_RDWR, 0o644)
	require.NoError(t, err)
	defer file.Close()
	change := &notification{id: 12345, pid: uint32(os.Getpid()), nr: unix.SYS_FCHMOD, args: [6]uint64{uint64(file.Fd()), 0o600}}
	assert.Equal(t, unix.EPERM, b.shared.setAttributes(change))
	info, err := file.Stat()
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o644), info.Mode())
}

// TestNothingSharedIsLeft ends a launch in the middle.
func TestNothingSharedIsLeft(t *testing.T) {
	if err := ProbeShared(); err != nil {
		t.Skip(err)
	}
	side := tempDir(t)
	for _, d := range []string{"/tmp", "/etc", "/work"} {
		require.NoError(t, os.Mkdir(side+d, 0o755))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	fds := openFiles(t)
	_, err := Launch(ctx, &Spec{Tier: TierNoNamespaces, Side: side, ProxyPort: 3128, Workspace: side + "/work", OwnWorkspace: true})
	require.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, fds, openFiles(t))
	assert.Empty(t, children(t))
}
