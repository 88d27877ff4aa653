//go:build linux && (amd64 || arm64)

package sandbox

import (
	"bytes"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twinward-dev/twinward/sandbox/internal/escape"
)

func init() {
	// The probes in namespaces that os/exec has made. In a mount namespace of its
	// own, a file system covers what the host has laid out.
	roles["bare"] = func() {
		if dir := os.Getenv("SANDBOX_TEST_COVER"); dir != "" {
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				panic(err)
			}
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
				panic(err)
			}
		}
		roles["probes"]()
	}
}

// bare runs probes in namespaces alone, without any other layer.
func bare(t *testing.T, tg escape.Target, flags uintptr, only ...string) map[string]escape.Finding {
	t.Helper()
	env, err := escape.Env(tg, only...)
	require.NoError(t, err)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(append(os.Environ(), env...), roleVar+"=bare")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	if flags&unix.CLONE_NEWNS != 0 {
		cmd.Env = append(cmd.Env, "SANDBOX_TEST_COVER="+tg.Dir)
	}
	if flags&unix.CLONE_NEWUSER != 0 {
		outside := os.Getuid()
		if outside == 0 {
			outside = 0x70000000 // as a session has it: nobody's
		}
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 1000, HostID: outside, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 1000, HostID: outside, Size: 1}}
		if os.Getuid() != 0 {
			cmd.SysProcAttr.GidMappings[0].HostID = os.Getgid()
		}
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 1000, Gid: 1000, NoSetGroups: true}
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN}
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	found, err := escape.ReadFindings(bytes.NewReader(out))
	require.NoError(t, err)
	return found
}

// TestNamespacesThatEverySessionHas shows what the three namespaces stop that no
// session can be without, not even in a test: each alone, with nothing else on
// top, against a process that has the others.
func TestNamespacesThatEverySessionHas(t *testing.T) {
	tg := lay(t)
	// The test's binary must be there for a user that is nobody's.
	exe, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(tg.Open+"/exe", exe, 0o755))
	// An ordinary user needs a user namespace to have any other.
	const user = unix.CLONE_NEWUSER
	base := uintptr(0)
	if os.Getuid() != 0 {
		base = user
	}
	for _, c := range []struct {
		probe         string
		without, with uintptr
		root          bool
	}{
		{"signal a process of the host", base, base | unix.CLONE_NEWPID, false},
		{"open a process of the host", base, base | unix.CLONE_NEWPID, false},
		{"change the limits of a process of the host", base, base | unix.CLONE_NEWPID, false},
		{"share the host's pid-namespace", base, base | unix.CLONE_NEWPID, false},
		{"read a secret of the host", base, base | unix.CLONE_NEWNS, false},
		{"write in a directory of the host", base, base | unix.CLONE_NEWNS, false},
		{"share the host's mount-namespace", base, base | unix.CLONE_NEWNS, false},
		{"share the host's user-namespace", 0, user, false},
		{"set core_pattern", 0, user, true},
		{"read kernel addresses", 0, user, true},
		{"be root of the host", 0, user, true},
	} {
		if c.root && os.Getuid() != 0 {
			continue // an ordinary user has no more than this without
		}
		assert.True(t, bare(t, tg, c.without, c.probe)[c.probe].Open, "%s: blocked without the namespace", c.probe)
		assert.False(t, bare(t, tg, c.with, c.probe)[c.probe].Open, "%s: open in the namespace", c.probe)
	}
}
