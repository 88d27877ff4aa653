//go:build linux && (amd64 || arm64)

package confine

import (
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// gpu is the name for all nodes of graphics processors that compute.
const gpu = "gpu"

// gpuNodes are what CUDA and render clients open: never the nodes of displays.
var gpuNodes = []string{"/dev/nvidia[0-9]*", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-caps/*", "/dev/dri/renderD*", "/dev/kfd"}

// findDevices returns the nodes that a list of devices stands for, as paths
// beneath /dev. A node is a way to whatever its driver does, so those that lead
// to the host as a whole are refused even by name.
func findDevices(list []string, root bool) ([]string, error) {
	var nodes []string
	for _, d := range list {
		paths := []string{d}
		if d == gpu {
			paths = nil
			for _, pattern := range gpuNodes {
				found, _ := filepath.Glob(pattern)
				paths = append(paths, found...)
			}
			if len(paths) == 0 {
				return nil, &DeviceError{Device: d, Problem: "this machine has no node of a graphics processor under /dev"}
			}
		}
		for _, p := range paths {
			if err := checkDevice(p, root); err != nil {
				return nil, err
			}
			nodes = append(nodes, strings.TrimPrefix(p, "/dev/"))
		}
	}
	slices.Sort(nodes)
	return slices.DeleteFunc(slices.Compact(nodes), func(n string) bool { return slices.Contains(devices, n) }), nil
}

// A node is a device number; minor anyMinor stands for all.
type node struct{ major, minor uint32 }

const anyMinor = ^uint32(0)

// refusedNodes lead to the host's memory, its disks, its people or its network
// (Documentation/admin-guide/devices.txt).
var refusedNodes = map[node]string{
	{1, 1}: "the machine's memory", {1, 2}: "the kernel's memory", {1, 4}: "the machine's ports", {1, 11}: "the kernel's log",
	{4, anyMinor}: "a console or serial line", {5, 1}: "the system console", {7, anyMinor}: "a console's memory", {13, anyMinor}: "what people type",
	{10, 200}: "network interfaces", {10, 203}: "character devices of one's own", {10, 223}: "typing for people", {10, 229}: "file systems of one's own",
	{10, 231}: "the machine's memory", {10, 234}: "disks", {10, 235}: "mounts", {10, 236}: "disks", {10, 237}: "disks", {10, 130}: "the machine's watchdog",
	{10, 238}: "the kernel's network", {10, 241}: "the kernel's network", {10, 196}: "virtual machines of others",
	{21, anyMinor}: "disks", {108, anyMinor}: "network interfaces", {202, anyMinor}: "the processor's registers", {203, anyMinor}: "the processor's registers",
}

// refusedNames have no fixed number.
var refusedNames = []string{"vfio", "vhost", "nvme", "bsg", "sg", "mapper", "userfaultfd", "watchdog", "hidraw", "tpm", "mei", "ipmi", "mtd", "rpmb", "snapshot"}

func checkDevice(path string, root bool) error {
	fail := func(problem string, err error) error { return &DeviceError{Device: path, Problem: problem, Err: err} }
	if !strings.HasPrefix(path, "/dev/") || filepath.Clean(path) != path {
		return fail("it is not a path under /dev", nil)
	}
	for _, name := range []string{"pts", "shm", "ptmx", "fd", "stdin", "stdout", "stderr", "mqueue", "hugepages"} {
		if path == "/dev/"+name || strings.HasPrefix(path, "/dev/"+name+"/") {
			return fail("the session makes it for itself", nil)
		}
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return fail("it cannot be found", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fail("it cannot be looked at", err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
	case unix.S_IFBLK:
		return fail("it is a disk", nil)
	default:
		return fail("it is not a device", nil)
	}
	major, minor := unix.Major(st.Rdev), unix.Minor(st.Rdev)
	why := refusedNodes[node{major, minor}]
	if why == "" {
		why = refusedNodes[node{major, anyMinor}]
	}
	for _, name := range refusedNames {
		if why == "" && strings.HasPrefix(strings.TrimPrefix(path, "/dev/"), name) {
			why = "the host as a whole"
		}
	}
	if why != "" {
		return fail("it leads to "+why+", and is shown to nobody", nil)
	}
	if root {
		if st.Mode&0o006 != 0o006 {
			return fail("only some users of the host may use it, and the session's user, which is nobody, is none of them: make it readable and writable for all, or start the host as a user that may use it", nil)
		}
	} else if err := unix.Access(path, unix.R_OK|unix.W_OK); err != nil {
		return fail("the host itself may not use it", err)
	}
	return nil
}

// nodes are the devices of the room, beneath /dev. Launch has put the names of
// nodes in the place of what was asked for.
func (s *Spec) nodes() []string { return append(slices.Clone(devices), s.Devices...) }
