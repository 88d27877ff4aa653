//go:build linux && (amd64 || arm64)

package confine

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A room whose init has died has ended, also before anybody has noticed.
func TestSendToADeadInit(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	require.NoError(t, err)
	b := &Box{sock: os.NewFile(uintptr(pair[0]), "host")}
	defer b.sock.Close()
	require.NoError(t, b.send([]byte("hello")))
	require.NoError(t, unix.Close(pair[1]))
	assert.ErrorIs(t, b.send([]byte("hello")), ErrEnded)
}
