//go:build linux && (amd64 || arm64)

package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twinward-dev/twinward/audit/audittest"
)

// lay puts everything that probes look for on the host, in reach of anybody.
func lay(t *testing.T) target {
	dir, err := os.MkdirTemp("", "canaries-")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	tg := target{
		Secret: dir + "/secret", Open: dir + "/open", ReadOnly: dir + "/readonly", Unix: dir + "/open/socket",
		Abstract: filepath.Base(dir), PID: os.Getpid(), Marker: "canary", Namespaces: map[string]string{},
	}
	for _, d := range []string{tg.Open, tg.ReadOnly} {
		require.NoError(t, os.Mkdir(d, 0o777))
		require.NoError(t, os.Chmod(d, 0o777))
	}
	for _, f := range []string{tg.Secret, tg.ReadOnly + "/file"} {
		require.NoError(t, os.WriteFile(f, []byte("secret"), 0o666))
		require.NoError(t, os.Chmod(f, 0o666))
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	tg.TCP = ln.Addr().String()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("host"))
			c.Close()
		}
	}()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	tg.UDP = udp.LocalAddr().String()
	go func() {
		for b := make([]byte, 64); ; {
			_, from, err := udp.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo([]byte("host"), from)
		}
	}()
	path, err := net.Listen("unix", tg.Unix)
	require.NoError(t, err)
	require.NoError(t, os.Chmod(tg.Unix, 0o777))
	abstract, err := net.Listen("unix", "@"+tg.Abstract)
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close(); udp.Close(); path.Close(); abstract.Close() })

	tg.Shm = 0x54570000 | os.Getpid()&0xffff
	id, err := unix.SysvShmGet(tg.Shm, 4096, unix.IPC_CREAT|0o666)
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil) })
	tg.PosixShm = "/dev/shm/" + tg.Abstract
	require.NoError(t, os.WriteFile(tg.PosixShm, nil, 0o666))
	t.Cleanup(func() { os.Remove(tg.PosixShm) })

	tg.HostName, _ = os.Hostname()
	for _, k := range []string{"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"} {
		tg.Namespaces[k], _ = os.Readlink("/proc/self/ns/" + k)
	}
	t.Setenv("CANARY", tg.Marker+"-env")
	root, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	require.NoError(t, err)
	tg.FD = 177
	require.NoError(t, unix.Dup3(root, tg.FD, 0)) // stays open in children
	unix.Close(root)
	t.Cleanup(func() { unix.Close(tg.FD) })
	return tg
}

// attack runs the probes inside and returns what they found, by name.
func attack(t *testing.T, tg target, only string, without ...Layer) map[string]finding {
	needSandbox(t)
	s, err := Start(context.Background(), &Policy{Filesystem: Filesystem{ReadOnly: append(SystemPaths(), tg.ReadOnly)}}, agent,
		audittest.NewLog(t), &Options{Self: true, without: without})
	require.NoError(t, err)
	defer s.Close()
	conf, err := json.Marshal(tg)
	require.NoError(t, err)
	cmd := s.Command(context.Background(), Self)
	cmd.Env = []string{roleVar + "=probes", "SANDBOX_TEST_TARGET=" + string(conf), "SANDBOX_TEST_ONLY=" + only}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	found := map[string]finding{}
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var f finding
		require.NoError(t, dec.Decode(&f))
		require.NotContains(t, found, f.Name, "two probes have one name")
		found[f.Name] = f
	}
	return found
}

// TestEscapes runs every probe inside a session; none may get through. Run it
// with -v for the table.
func TestEscapes(t *testing.T) {
	tg := lay(t)
	found := attack(t, tg, "")
	all := append(boundaryProbes(), surfaceProbes()...)
	require.GreaterOrEqual(t, len(all), 150)
	var table strings.Builder
	open := 0
	for _, p := range all {
		f, ok := found[p.name]
		if !ok {
			t.Errorf("%s: the probe did not report", p.name)
			continue
		}
		state := "blocked"
		if f.Open {
			open++
			state = "OPEN"
			t.Errorf("%s: got through; %s should have stopped it", p.name, p.layer)
		}
		fmt.Fprintf(&table, "%-50s %-8s %-45s %s\n", p.name, state, p.layer, f.Seen)
	}
	t.Logf("%d of %d probes open, uid %d\n%s", open, len(all), os.Getuid(), table.String())
}

// TestProbesAreReal runs outside what must fail inside: a probe that cannot
// succeed anywhere proves nothing.
func TestProbesAreReal(t *testing.T) {
	tg := lay(t)
	for _, name := range []string{
		"read a secret of the host", "write in a directory of the host", "write in a read-only tree", "open a read-only file for writing",
		"use an inherited directory descriptor", "read the host's environment", "signal a process of the host",
		"connect to a server on the host's loopback", "send a datagram to the host's loopback", "connect to an abstract socket of the host",
		"connect to a socket in the host's file system", "attach a shared memory segment of the host", "open POSIX shared memory of the host",
		"learn the host's name", "find /sys", "be in a namespace of the host", "be without no_new_privs",
	} {
		for _, p := range boundaryProbes() {
			if p.name == name {
				assert.NoError(t, attempt(p, tg), name)
			}
		}
	}
}

// TestEachLayerHolds takes one layer away and sees the probe that it alone
// stops succeed, and all others fail as before.
func TestEachLayerHolds(t *testing.T) {
	tg := lay(t)
	for _, c := range []struct {
		without []Layer
		probe   string
	}{
		{[]Layer{LayerLandlock}, "read a file that only Landlock guards"},
		{[]Layer{LayerLandlock}, "signal init"},
		{[]Layer{LayerSeccomp}, "unshare: user namespace"},
		{[]Layer{LayerSeccomp}, "leave a set-id file in the workspace"},
		{[]Layer{LayerSeccomp}, "socket: netlink: sock_diag"},
		{[]Layer{LayerCaps}, "bind a privileged port"},
		{[]Layer{LayerRlimits}, "dump core"},
		{[]Layer{LayerIPC}, "attach a shared memory segment of the host"},
		{[]Layer{LayerUTS}, "learn the host's name"},
		{[]Layer{LayerCgroup}, "be in a namespace of the host"},
		// Without a network of its own there is nothing to listen in.
		{[]Layer{LayerNet, LayerNetwork}, "connect to a server on the host's loopback"},
		{[]Layer{LayerNet, LayerNetwork}, "send a datagram to the host's loopback"},
		// Landlock and an unprivileged filter need no_new_privs.
		{[]Layer{LayerNoNewPrivs, LayerLandlock, LayerSeccomp}, "be without no_new_privs"},
	} {
		t.Run(fmt.Sprint(c.without, c.probe), func(t *testing.T) {
			f := attack(t, tg, c.probe, c.without...)[c.probe]
			assert.True(t, f.Open, "still blocked without the layer: %s", f.Seen)
		})
	}
}
