//go:build linux && (amd64 || arm64)

package confine

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fake makes a directory with the files that the kernel would make.
func fake(t *testing.T, files map[string]string) string {
	dir := t.TempDir()
	for name, text := range files {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	return dir
}

func read(t *testing.T, path ...string) string {
	b, err := os.ReadFile(filepath.Join(path...))
	require.NoError(t, err)
	return string(b)
}

func TestTotalLimitsAreWritten(t *testing.T) {
	dir := fake(t, map[string]string{"memory.max": "max", "memory.swap.max": "max", "memory.oom.group": "0", "cpu.max": "max 100000", "pids.max": "max"})
	require.NoError(t, TotalLimits{Memory: 1 << 30, CPU: 1500}.apply(dir, 100))
	assert.Equal(t, "max", read(t, dir, "memory.max"), "not yet")
	assert.Equal(t, "150000 100000", read(t, dir, "cpu.max"))
	assert.Equal(t, "164", read(t, dir, "pids.max"))
	require.NoError(t, (&cgroup{dir: dir, limits: TotalLimits{Memory: 1 << 30}}).limitMemory())
	assert.Equal(t, "1073741824", read(t, dir, "memory.max"))
	assert.Equal(t, "0", read(t, dir, "memory.swap.max"))
	assert.Equal(t, "1", read(t, dir, "memory.oom.group"))

	bare := fake(t, map[string]string{"memory.max": "", "memory.oom.group": ""})
	require.NoError(t, TotalLimits{Memory: 1}.apply(bare, 100), "without pids")
	require.NoError(t, (&cgroup{dir: bare, limits: TotalLimits{Memory: 1}}).limitMemory(), "without swap")
	require.NoError(t, (&cgroup{dir: "/no/such/group"}).limitMemory(), "without a limit")
	killed := fake(t, map[string]string{"memory.max": "", "memory.oom.group": "", "memory.events": "oom_kill 1\n"})
	var le *LayerError
	require.ErrorAs(t, (&cgroup{dir: killed, limits: TotalLimits{Memory: 1}}).limitMemory(), &le)
	assert.Equal(t, LayerTotals, le.Layer)
	assert.ErrorIs(t, TotalLimits{CPU: 1}.apply(bare, 0), os.ErrNotExist)
	assert.NoFileExists(t, filepath.Join(bare, "cpu.max"))
}

func TestControllersAreTurnedOn(t *testing.T) {
	on := fake(t, map[string]string{"cgroup.subtree_control": "cpu memory", "cgroup.controllers": ""})
	require.NoError(t, enable(on, "memory"))
	off := fake(t, map[string]string{"cgroup.subtree_control": "", "cgroup.controllers": "cpu memory pids"})
	require.NoError(t, enable(off, "cpu"))
	assert.Equal(t, "+cpu", read(t, off, "cgroup.subtree_control"))
	assert.ErrorContains(t, enable(off, "io"), "io is not available")
}

func TestUsage(t *testing.T) {
	g := &cgroup{dir: fake(t, map[string]string{
		"memory.peak": "4096\n", "memory.events": "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n",
		"cpu.stat": "usage_usec 1500000\nuser_usec 1\nnr_throttled 7\n", "pids.events": "max 5\n",
	})}
	assert.Equal(t, Usage{MemoryPeak: 4096, CPU: 1500 * time.Millisecond, OOMKills: 2, Throttled: 7, Refused: 5}, g.usage())
	assert.Zero(t, (&cgroup{dir: "/no/such/group"}).usage())
}

func TestOwnCgroup(t *testing.T) {
	dir := fake(t, map[string]string{
		"self":  "4:memory:/x\n0::/user.slice/host\n",
		"root":  "25 1 0:22 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup rw\n",
		"part":  "25 1 0:22 /user.slice /cg rw - cgroup2 cgroup rw\n",
		"other": "25 1 0:22 /system.slice /cg rw - cgroup2 cgroup rw\n",
		"v1":    "4:memory:/x\n",
	})
	got, err := ownCgroup(dir+"/self", dir+"/root")
	require.NoError(t, err)
	assert.Equal(t, []string{"/sys/fs/cgroup/user.slice/host", "/sys/fs/cgroup/user.slice"}, got)
	got, err = ownCgroup(dir+"/self", dir+"/part")
	require.NoError(t, err)
	assert.Equal(t, []string{"/cg/host", "/cg"}, got)
	_, err = ownCgroup(dir+"/self", dir+"/other")
	assert.Error(t, err)
	_, err = ownCgroup(dir+"/v1", dir+"/root")
	assert.Error(t, err)
}

// TestNoDelegatedGroup asks for what cannot be had, and finds nothing left behind.
func TestNoDelegatedGroup(t *testing.T) {
	dir := fake(t, map[string]string{"cgroup.subtree_control": "", "cgroup.controllers": "hugetlb"})
	_, err := Launch(context.Background(), &Spec{Hostname: "sandbox", Workspace: tempDir(t), Total: TotalLimits{Memory: 1 << 30, Parent: dir}})
	var le *LayerError
	require.ErrorAs(t, err, &le)
	assert.Equal(t, LayerTotals, le.Layer)
	assert.Contains(t, le.Hint, "Delegate=yes")
	left, _ := os.ReadDir(dir)
	assert.Len(t, left, 2)
}

// TestRoomIsBornInItsGroup uses whatever version 2 hierarchy there is, without
// limits: the controllers are the kernel's business.
func TestRoomIsBornInItsGroup(t *testing.T) {
	var parent string
	for line := range strings.Lines(read(t, "/proc/self/mountinfo")) {
		if left, right, _ := strings.Cut(line, " - "); strings.HasPrefix(right, "cgroup2 ") {
			parent = strings.Fields(left)[4]
		}
	}
	g, err := makeCgroup(parent, TotalLimits{}, 0)
	if err != nil {
		t.Skip("no writable cgroup v2: ", err)
	}
	defer g.remove()
	cmd := exec.Command("sh", "-c", "cat /proc/self/cgroup; sleep 60 >/dev/null 2>&1 &")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: g.fd}
	out, err := cmd.Output()
	require.NoError(t, err)
	assert.Contains(t, string(out), "0::/"+filepath.Base(g.dir)+"\n")
	assert.Contains(t, read(t, g.dir, "cgroup.events"), "populated 1")
	g.remove()
	assert.NoDirExists(t, g.dir)
}

// TestMemoryIsLimitedLater: while pid 1 of a room shares the host's memory, running
// out of the room's would be the host's end.
func TestMemoryIsLimitedLater(t *testing.T) {
	standing(t, &Spec{Launcher: LauncherVfork}).Close()
	spec := &Spec{Launcher: LauncherVfork, Hostname: "sandbox", Workspace: t.TempDir(), OwnWorkspace: true}
	for _, fails := range []bool{true, false} {
		dir := fake(t, map[string]string{"cgroup.procs": "", "memory.max": "max", "memory.oom.group": "0"})
		b, err := launch(context.Background(), spec, func(v *vfork) {
			v.box.cgroup = &cgroup{dir: dir, fd: -1, limits: TotalLimits{Memory: 1 << 30}}
			if fails { // at the last step before it has memory of its own
				op := v.block.mem[wordSize*(headerWords+opWords*(len(v.room.steps)-1)):]
				copy(op[wordSize*opNR:], []byte{0xff, 0xff, 0, 0, 0, 0, 0, 0})
			}
		})
		assert.NotEmpty(t, read(t, dir, "cgroup.procs"), "it was in the group")
		if fails {
			assert.ErrorIs(t, err, syscall.ENOSYS)
			assert.Equal(t, "max", read(t, dir, "memory.max"))
			continue
		}
		require.NoError(t, err)
		assert.Equal(t, "1073741824", read(t, dir, "memory.max"))
		assert.Contains(t, b.Report().Layers, LayerTotals)
		b.Close()
		b.closeListeners()
	}
}
