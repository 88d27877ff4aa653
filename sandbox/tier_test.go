//go:build linux && (amd64 || arm64)

package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// A maskedFinding is what a host with a masked /proc saw.
type maskedFinding struct {
	Probe  []Layer
	Tiers  []Tier
	Layer  Layer
	Hint   string
	Output string
	Report Report
	Kept   []Layer
}

func init() {
	// A host in a container that masks a part of /proc, as all engines do.
	roles["masked"] = func() {
		launcher := Launcher(os.Args[1])
		fail := func(what string, err error) {
			if err != nil {
				fmt.Fprintln(os.Stderr, what, err)
				os.Exit(1)
			}
		}
		fail("private", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		fail("mask", unix.Mount("/dev/null", "/proc/timer_list", "", unix.MS_BIND, ""))
		var f maskedFinding
		c := Probe()
		f.Probe, f.Tiers = c.Missing, c.Tiers
		_, err := Start(context.Background(), nil, agent, discard{}, &Options{Launcher: launcher})
		var le *LayerError
		if errors.As(err, &le) {
			f.Layer, f.Hint = le.Layer, le.Hint
		}
		s, err := Start(context.Background(), nil, agent, discard{}, &Options{Tier: TierMaskedProc, Launcher: launcher})
		fail("start", err)
		defer s.Close()
		out, err := sh(s, "ls /proc | tr '\\n' ' '; grep -c processor /proc/cpuinfo >/dev/null && echo counted; cat /proc/1/status 2>/dev/null; echo hi > file && cat file; echo no > /usr/x").CombinedOutput()
		f.Output = string(out)
		if err == nil {
			f.Output += "it could write"
		}
		f.Report = s.Report()
		_ = json.NewEncoder(os.Stdout).Encode(f)
	}
}

func TestMaskedProc(t *testing.T) {
	needSandbox(t)
	for _, l := range launchers {
		t.Run(string(l), func(t *testing.T) { testMaskedProc(t, l) })
	}
}

func testMaskedProc(t *testing.T, l Launcher) {
	cmd := exec.Command("/proc/self/exe", string(l))
	cmd.Env = append(os.Environ(), roleVar+"=masked")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if uid, gid := os.Getuid(), os.Getgid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN}
	}
	out, err := cmd.Output()
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		require.NoError(t, err, string(ee.Stderr))
	}
	require.NoError(t, err)
	var f maskedFinding
	require.NoError(t, json.Unmarshal(out, &f))
	assert.Equal(t, []Layer{LayerProc}, f.Probe)
	assert.Equal(t, []Tier{TierMaskedProc, TierNoNamespaces}, f.Tiers)
	assert.Equal(t, LayerProc, f.Layer)
	assert.Contains(t, f.Hint, "TierMaskedProc")
	assert.Equal(t, "cpuinfo filesystems loadavg meminfo stat uptime version counted\nhi\nsh: 1: cannot create /usr/x: Read-only file system\n", f.Output)
	assert.Equal(t, TierMaskedProc, f.Report.Tier)
	var all []Layer
	for _, l := range Layers() {
		if l != LayerProc && l != LayerIDMap {
			all = append(all, l)
		}
	}
	assert.Equal(t, all, f.Report.Layers, "everything else stands")
	assert.Equal(t, "1", f.Report.Status["NoNewPrivs"])
}

func TestTierIsOnRecord(t *testing.T) {
	for _, l := range launchers {
		t.Run(string(l), func(t *testing.T) { testTierIsOnRecord(t, l) })
	}
}

func testTierIsOnRecord(t *testing.T, l Launcher) {
	log := audittest.NewLog(t)
	s := box(t, log, nil, &Options{Tier: TierMaskedProc, Launcher: l})
	assert.NotContains(t, s.Report().Layers, LayerProc)
	assert.Error(t, sh(s, "test -e /proc/self").Run())
	for _, r := range log.Records() {
		if e := r.Event; e != nil && e.Kind == audit.KindLaunch {
			assert.Equal(t, "masked-proc", e.Detail["tier"])
		}
	}
	_, err := Start(context.Background(), nil, agent, audittest.NewLog(t), &Options{Tier: "none"})
	assert.ErrorContains(t, err, "no tier")
}
