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

// harmless is a device that no room has by itself and that anybody may use.
func harmless(t *testing.T) string {
	for _, p := range []string{"/dev/fuse", "/dev/net/tun", "/dev/kvm", "/dev/rfkill", "/dev/hwrng", "/dev/rtc0"} {
		if checkDevice(p, os.Geteuid() == 0) == nil {
			return p
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("no device that this user may use and no room has")
	}
	// A node of /dev/zero by another name.
	path := "/dev/twinward-test"
	require.NoError(t, unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))))
	t.Cleanup(func() { os.Remove(path) })
	require.NoError(t, os.Chmod(path, 0o666))
	return path
}

func init() {
	roles["devices"] = func() {
		path := os.Args[2]
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		say("open", err)
		if err == nil {
			_, err = f.Read(make([]byte, 8))
			say("read", err)
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), 0x5441, 0) // TIOCGDEV-like: the driver's answer, not Landlock's
			say("ioctl", errno)
		}
		_, err = os.Stat("/dev/mem")
		say("mem", err)
	}
}

func TestNamedDevice(t *testing.T) {
	under(t, func(t *testing.T, launch func(func(*Spec)) *Box) {
		path := harmless(t)
		without, exit, err := inside(t, launch(nil), SelfPath, "devices", path)
		require.NoError(t, err)
		require.Zero(t, exit.Code)
		assert.Equal(t, "open: ENOENT\nmem: ENOENT\n", without)
		b := launch(func(s *Spec) { s.Devices = []string{path, "/dev/null"} })
		with, exit, err := inside(t, b, SelfPath, "devices", path)
		require.NoError(t, err)
		require.Zero(t, exit.Code)
		assert.Equal(t, "open: ok\nread: ok\nioctl: ENOTTY\nmem: ENOENT\n", with)
	})
}

func TestDeviceRules(t *testing.T) {
	find := func(s *Spec, path string) (access uint64) {
		for _, r := range landlockRules(s, nil) {
			if r.path == path {
				access |= r.access
			}
		}
		return access
	}
	s := &Spec{Devices: []string{"nvidia0"}}
	assert.NotZero(t, find(s, "/dev/nvidia0")&unix.LANDLOCK_ACCESS_FS_IOCTL_DEV)
	assert.Zero(t, find(s, "/dev/null")&unix.LANDLOCK_ACCESS_FS_IOCTL_DEV)
	assert.Zero(t, find(s, "/proc")&unix.LANDLOCK_ACCESS_FS_WRITE_FILE)
	s.GPU = true
	assert.NotZero(t, find(s, "/proc")&unix.LANDLOCK_ACCESS_FS_WRITE_FILE)
	s.ExecStrict = true
	assert.Zero(t, find(s, "/proc")&unix.LANDLOCK_ACCESS_FS_WRITE_FILE, "a way to change one's own code")
}

func TestRefusedDevices(t *testing.T) {
	refused := map[string]string{
		"/dev/shm": "for itself", "/dev/pts/0": "for itself", "/dev/ptmx": "for itself", "/dev/no-such-node": "cannot be found", "/dev": "not a path", "/etc/passwd": "not a path", "/dev/../etc": "not a path",
	}
	for path, problem := range map[string]string{
		"/dev/mem": "memory", "/dev/kmsg": "log", "/dev/port": "ports", "/dev/loop-control": "disks", "/dev/fuse": "file systems", "/dev/net/tun": "network", "/dev/vda": "disk", "/dev/loop0": "disk",
		"/dev/tty0": "console", "/dev/console": "console", "/dev/vhost-net": "network", "/dev/mapper/control": "disks", "/dev/cpu/0/msr": "registers",
	} {
		if _, err := os.Stat(path); err == nil {
			refused[path] = problem
		}
	}
	for path, problem := range refused {
		_, err := Launch(context.Background(), &Spec{Hostname: "sandbox", Workspace: tempDir(t), Devices: []string{path}})
		var de *DeviceError
		require.ErrorAs(t, err, &de, path)
		assert.Equal(t, path, de.Device)
		assert.Contains(t, de.Problem, problem, path)
	}
	t.Logf("%d nodes", len(refused))
	if _, err := os.Stat("/dev/nvidiactl"); os.IsNotExist(err) {
		_, err = findDevices([]string{"gpu"}, true)
		var de *DeviceError
		assert.ErrorAs(t, err, &de)
	}
}
