//go:build linux && (amd64 || arm64)

package confine

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A refusalSeen is what a host on a lesser kernel saw.
type refusalSeen struct {
	Layer          Layer
	Step, Text     string
	Hint           string
	Errno          unix.Errno
	Left, Children int
}

func seen(dir string) {
	workspace := filepath.Join(dir, "workspace")
	spec := &Spec{Hostname: "sandbox", Workspace: workspace}
	if os.Args[1] == "shared-without-a-call" {
		spec.Tier, spec.Side, spec.ProxyPort, spec.OwnWorkspace = TierNoNamespaces, dir, 1, true
		for _, d := range []string{"/tmp", "/etc"} {
			if err := os.Mkdir(dir+d, 0o755); err != nil {
				panic(err)
			}
		}
	}
	_, err := Launch(context.Background(), spec)
	var s refusalSeen
	var le *LayerError
	if errors.As(err, &le) {
		s.Layer, s.Step, s.Hint = le.Layer, le.Step, le.Hint
	}
	if err != nil {
		s.Text = err.Error()
	}
	errors.As(err, &s.Errno)
	left, _ := os.ReadDir(workspace)
	s.Left = len(left)
	// No child is left, not even a dead one.
	if _, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != unix.ECHILD {
		s.Children++
	}
	_ = json.NewEncoder(os.Stdout).Encode(s)
}

func init() {
	// A kernel that does not have one system call, for this process and init.
	withoutCall := func() {
		nr, _ := strconv.Atoi(os.Args[2])
		errno, _ := strconv.Atoi(os.Args[3])
		var p program
		p.load(offNumber)
		p.jump(unix.BPF_JEQ, uint32(nr), 0, 1)
		p.ret(retErrno | uint32(errno))
		p.ret(retAllow)
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			panic(err)
		}
		fprog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
		if _, _, e := unix.Syscall(unix.SYS_SECCOMP, seccompSetModeFilter, seccompTSYNC, uintptr(unsafe.Pointer(&fprog))); e != 0 {
			panic(e)
		}
		seen(os.Args[4])
	}
	roles["without-a-call"], roles["shared-without-a-call"] = withoutCall, withoutCall
	roles["without-namespaces"] = func() {
		if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
			panic(err)
		}
		seen(os.Args[2])
	}
}

// lesser runs a role of this binary as a host and returns what it saw.
func lesser(t *testing.T, attr *syscall.SysProcAttr, args ...string) (s refusalSeen) {
	dir := tempDir(t)
	require.NoError(t, os.Mkdir(dir+"/workspace", 0o777))
	cmd := exec.Command("/proc/self/exe", append(args, dir)...)
	cmd.SysProcAttr = attr
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	require.NoError(t, json.Unmarshal(out, &s), string(out))
	assert.NotEmpty(t, s.Layer, s.Text)
	assert.Zero(t, s.Left, "nothing in the workspace")
	assert.Zero(t, s.Children, "no process")
	return s
}

// TestKernelWithoutACall takes calls away one by one, as an old kernel or the
// filter of a container does: each is one error that names the layer.
func TestKernelWithoutACall(t *testing.T) {
	for name, c := range map[string]struct {
		nr    uintptr
		errno unix.Errno
		layer Layer
	}{
		"landlock":       {unix.SYS_LANDLOCK_CREATE_RULESET, unix.ENOSYS, LayerLandlock},
		"landlock, off":  {unix.SYS_LANDLOCK_CREATE_RULESET, unix.EOPNOTSUPP, LayerLandlock},
		"landlock rule":  {unix.SYS_LANDLOCK_ADD_RULE, unix.EINVAL, LayerLandlock},
		"landlock force": {unix.SYS_LANDLOCK_RESTRICT_SELF, unix.E2BIG, LayerLandlock},
		"open_tree":      {unix.SYS_OPEN_TREE, unix.ENOSYS, LayerMount},
		"mount_setattr":  {unix.SYS_MOUNT_SETATTR, unix.ENOSYS, LayerMount},
		"move_mount":     {unix.SYS_MOVE_MOUNT, unix.ENOSYS, LayerMount},
		"pivot_root":     {unix.SYS_PIVOT_ROOT, unix.EPERM, LayerMount},
		"fsopen":         {unix.SYS_FSOPEN, unix.ENOSYS, LayerProc},
		"sethostname":    {unix.SYS_SETHOSTNAME, unix.EPERM, LayerUTS},
	} {
		t.Run(name, func(t *testing.T) {
			s := lesser(t, nil, "without-a-call", strconv.Itoa(int(c.nr)), strconv.Itoa(int(c.errno)))
			assert.Equal(t, c.layer, s.Layer, s.Text)
			assert.Equal(t, c.errno, s.Errno, s.Text)
		})
	}
}

// TestNoTaking is a host that may not take a socket of its own child: without
// that, nothing in a room without namespaces could connect.
func TestNoTaking(t *testing.T) {
	if err := ProbeShared(); err != nil {
		t.Skip(err)
	}
	s := lesser(t, nil, "shared-without-a-call", strconv.Itoa(unix.SYS_PIDFD_GETFD), strconv.Itoa(int(unix.EPERM)))
	assert.Equal(t, LayerNetwork, s.Layer, s.Text)
	assert.Equal(t, "take a descriptor of a program", s.Step)
	assert.Equal(t, unix.EPERM, s.Errno)
	assert.Equal(t, takeHint, s.Hint)
}

// TestNoUserNamespaces is a host whose user may make none.
func TestNoUserNamespaces(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s := lesser(t, &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWPID,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 1000, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 1000, HostID: os.Getgid(), Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_SYS_RESOURCE},
	}, "without-namespaces")
	assert.Equal(t, LayerUser, s.Layer)
	assert.Equal(t, unix.ENOSPC, s.Errno)
	assert.Contains(t, s.Hint, "max_user_namespaces")
}
