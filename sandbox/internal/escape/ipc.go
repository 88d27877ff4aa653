//go:build linux && (amd64 || arm64)

package escape

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

func ipcProbes() []Probe {
	var probes []Probe
	add := func(name, how string, stops []string, try func(Target) error) {
		probes = append(probes, Probe{Name: name, Group: IPC, How: how, Stops: stops, try: try})
	}
	add("attach a shared memory segment of the host", "shmget(2)", []string{ipcNS}, func(t Target) error {
		_, err := unix.SysvShmGet(t.Shm, 1, 0)
		return err
	})
	add("open a message queue of the host", "msgget(2)", []string{ipcNS}, func(t Target) error {
		return sys(unix.SYS_MSGGET, uintptr(t.Queue), 0)
	})
	add("list the host's shared memory", "/proc/sysvipc/shm", []string{ipcNS}, func(t Target) error {
		b, err := os.ReadFile("/proc/sysvipc/shm")
		if err != nil {
			return err
		}
		n := 0
		for _, c := range b {
			if c == '\n' {
				n++
			}
		}
		return when(n > 1, "only the heading")
	})
	add("open POSIX shared memory of the host", "/dev/shm", []string{mountNS, landlock}, func(t Target) error { return read(t.PosixShm) })
	add("connect to an abstract socket of the host", "connect(2)", []string{netNS, landlock}, func(t Target) error { return dial("unix", "@"+t.Abstract) })
	add("connect to a socket in the host's file system", "connect(2)", []string{mountNS}, func(t Target) error { return dial("unix", t.Unix) })
	add("connect to a service of the host", "sockets of container engines, the system bus, journald, the name service cache", []string{mountNS}, func(Target) error {
		for _, s := range []string{
			"/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock", "/run/crio/crio.sock", "/run/dbus/system_bus_socket",
			"/run/systemd/journal/socket", "/run/systemd/private", "/run/nscd/socket", "/run/snapd.socket", "/run/user/1000/bus",
		} {
			if dial("unix", s) == nil || dial("unixgram", s) == nil {
				return nil
			}
		}
		return errors.New("none there")
	})
	add("write to the host's log", "/dev/log", []string{mountNS}, func(Target) error { return dial("unixgram", "/dev/log") })
	add("reach an agent that holds keys", "sockets of ssh-agent and gpg-agent in /tmp and /run", []string{mountNS}, func(Target) error {
		for _, pattern := range []string{"/tmp/ssh-*/agent.*", "/run/user/*/keyring/*", "/run/user/*/gnupg/S.gpg-agent"} {
			if all, _ := filepath.Glob(pattern); len(all) > 0 {
				return nil
			}
		}
		return errors.New("none there")
	})
	add("find a key of the host's user", "keyctl(2) search in the user keyring", []string{seccomp}, func(t Target) error {
		if t.Key == "" {
			return errors.New("the host has none")
		}
		_, err := unix.KeyctlSearch(unix.KEY_SPEC_USER_KEYRING, "user", t.Key, 0)
		return err
	})
	add("request a key of the host's user", "request_key(2)", []string{seccomp}, func(t Target) error {
		if t.Key == "" {
			return errors.New("the host has none")
		}
		_, err := unix.RequestKey("user", t.Key, "", 0)
		return err
	})
	add("list keys", "/proc/keys", []string{procFS}, func(t Target) error {
		b, err := os.ReadFile("/proc/keys")
		if err != nil {
			return err
		}
		return when(t.Key != "" && bytes.Contains(b, []byte(t.Key)), "the host's is not there")
	})
	add("learn the host's name", "uname(2)", []string{utsNS}, func(t Target) error {
		n, _ := os.Hostname()
		return when(n == t.HostName && n != "sandbox", "is "+n)
	})
	for _, ns := range []struct{ kind, layer string }{
		{"user", userNS}, {"mnt", mountNS}, {"pid", pidNS}, {"net", netNS}, {"ipc", ipcNS}, {"uts", utsNS}, {"cgroup", cgroupNS},
	} {
		add("share the host's "+ns.layer, "/proc/self/ns/"+ns.kind, []string{ns.layer}, func(t Target) error {
			mine, err := os.Readlink("/proc/self/ns/" + ns.kind)
			if err != nil {
				return err
			}
			return when(mine == t.Namespaces[ns.kind], "its own")
		})
	}
	return probes
}
