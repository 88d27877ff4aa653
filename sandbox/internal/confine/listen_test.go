//go:build linux && (amd64 || arm64)

package confine

import (
	"context"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// standing returns a room for a test, or skips where there can be none.
func standing(t testing.TB, spec *Spec) *Box {
	if missing, _ := Probe(); len(missing) > 0 {
		if os.Getenv("TWINWARD_FULL") == "1" {
			t.Fatalf("this system cannot have a sandbox: %v", missing)
		}
		t.Skipf("this system cannot have a sandbox: %v", missing)
	}
	if spec.Workspace == "" {
		spec.Workspace, spec.OwnWorkspace = t.TempDir(), true
	}
	if spec.Hostname == "" {
		spec.Hostname = "sandbox"
	}
	spec.Binds = append(spec.Binds, Bind{Source: "/usr"}, Bind{Source: "/bin", Optional: true}, Bind{Source: "/lib", Optional: true}, Bind{Source: "/lib64", Optional: true})
	spec.Env = append(spec.Env, "PATH=/usr/bin:/bin")
	b, err := Launch(context.Background(), spec)
	require.NoError(t, err)
	t.Cleanup(func() { b.Close(); b.closeListeners() })
	return b
}

func openFiles(t testing.TB) int {
	all, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(all)
}

// TestListen opens ports in a living room, and sees a program inside reach them
// and none of them on the host.
func TestListen(t *testing.T) {
	b := standing(t, &Spec{Ports: []uint16{80}})
	got, err := b.Listen([]uint16{443, 8443})
	require.NoError(t, err)
	require.Len(t, got, 2)
	p, err := b.Exec(Exec{Path: "bash", Args: []string{"bash", "-c", "echo hello >/dev/tcp/192.0.2.1/443"}}, []*os.File{nil, nil, nil})
	require.NoError(t, err)
	c, err := got[443].Accept()
	require.NoError(t, err)
	hello := make([]byte, 6)
	_, err = c.Read(hello)
	require.NoError(t, err)
	assert.Equal(t, "hello\n", string(hello))
	c.Close()
	assert.Equal(t, 0, p.Wait().Code)

	before := openFiles(t)
	_, err = b.Listen([]uint16{9000, 443})
	assert.ErrorIs(t, err, unix.EADDRINUSE)
	var le *LayerError
	require.ErrorAs(t, err, &le)
	assert.Equal(t, "bind port 443", le.Step)
	assert.Equal(t, before, openFiles(t), "what was opened is closed")
	again, err := b.Listen([]uint16{9000})
	require.NoError(t, err, "none of them stayed")
	again[9000].Close()

	packets, err := b.Packets()
	require.NoError(t, err)
	packets.Close()
	for _, ln := range got {
		ln.Close()
	}
	b.Close()
	_, err = b.Listen([]uint16{9001})
	assert.ErrorIs(t, err, ErrEnded)
}
