//go:build linux && (amd64 || arm64)

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/sandbox"
	"github.com/twinward-dev/twinward/sandbox/internal/escape"
)

// A peer is a sandbox that can run this program.
type peer struct {
	name string
	// run starts this program inside, as probe, writing to out.
	run func(ctx context.Context, t escape.Target, only []string, out *os.File) error
}

var errMissing = errors.New("not to be had here")

// patience is what one run of the corpus has.
const patience = time.Minute

var peers = []peer{
	{"plain", func(ctx context.Context, t escape.Target, only []string, out *os.File) error {
		return start(ctx, t, only, out, func(exe string) []string { return []string{exe, probeArg} })
	}},
	{"twinward", twinward(sandbox.LauncherReexec, "")},
	{"twinward-vfork", twinward(sandbox.LauncherVfork, "")},
	{"twinward-strict", twinward(sandbox.LauncherReexec, sandbox.ExecStrict)},
	{"bwrap", func(ctx context.Context, t escape.Target, only []string, out *os.File) error {
		return bubblewrap(ctx, t, only, out)
	}},
	{"bwrap-tight", func(ctx context.Context, t escape.Target, only []string, out *os.File) error {
		t.Work = "/work"
		env, err := escape.Env(t, only...)
		if err != nil {
			return err
		}
		tight := []string{"--unshare-user", "--disable-userns", "--cap-drop", "ALL", "--clearenv"}
		for _, kv := range env {
			k, v, _ := bytes.Cut([]byte(kv), []byte("="))
			tight = append(tight, "--setenv", string(k), string(v))
		}
		return bubblewrap(ctx, t, only, out, tight...)
	}},
	{"srt", srt},
}

// start runs a command line on the host: the environment and the descriptors
// that this process has are the command's, as they are for any program that
// does not take care.
func start(ctx context.Context, t escape.Target, only []string, out *os.File, line func(exe string) []string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	if exe, err = filepath.EvalSymlinks(exe); err != nil {
		return err
	}
	argv := line(exe)
	if _, err := exec.LookPath(argv[0]); err != nil {
		return fmt.Errorf("%w: %s is not installed", errMissing, argv[0])
	}
	env, err := escape.Env(t, only...)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Dir, cmd.Stdout = append(os.Environ(), env...), t.WorkHost, out
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	// A group of its own, which ends with it: no probe is to reach a terminal.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w\n%s", err, tail(stderr.Bytes()))
	}
	return nil
}

func tail(b []byte) []byte { return b[max(0, len(b)-2000):] }

func bubblewrap(ctx context.Context, t escape.Target, only []string, out *os.File, more ...string) error {
	t.Work = "/work"
	return start(ctx, t, only, out, func(exe string) []string {
		argv := []string{"bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--ro-bind", "/usr", "/usr"}
		for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
			if to, err := os.Readlink("/" + dir); err == nil {
				argv = append(argv, "--symlink", to, "/"+dir)
			} else if _, err := os.Stat("/" + dir); err == nil {
				argv = append(argv, "--ro-bind", "/"+dir, "/"+dir)
			}
		}
		argv = append(argv, "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--ro-bind", t.ReadOnly, t.ReadOnly,
			"--bind", t.WorkHost, "/work", "--chdir", "/work", "--ro-bind", exe, "/probe")
		return append(append(argv, more...), "/probe", probeArg)
	})
}

// srt is what Claude Code uses. Its way of saying what may be written is a file.
func srt(ctx context.Context, t escape.Target, only []string, out *os.File) error {
	if _, err := exec.LookPath("srt"); err != nil {
		return fmt.Errorf("%w: srt is not installed (npm install -g @anthropic-ai/sandbox-runtime; it needs bubblewrap, socat and ripgrep)", errMissing)
	}
	settings, err := json.Marshal(map[string]any{
		"network":    map[string]any{"allowedDomains": []string{}, "deniedDomains": []string{}},
		"filesystem": map[string]any{"denyRead": []string{}, "allowWrite": []string{t.WorkHost}, "denyWrite": []string{}},
	})
	if err != nil {
		return err
	}
	file := filepath.Join(t.Dir, "srt.json")
	if err := os.WriteFile(file, settings, 0o644); err != nil {
		return err
	}
	return start(ctx, t, only, out, func(exe string) []string {
		return []string{"srt", "--settings", file, exe, probeArg}
	})
}

// twinward is package sandbox with the policy of somebody who wrote none, plus
// the read-only directory that all peers show.
func twinward(launcher sandbox.Launcher, mode sandbox.ExecMode) func(context.Context, escape.Target, []string, *os.File) error {
	return func(ctx context.Context, t escape.Target, only []string, out *os.File) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		policy := &sandbox.Policy{
			Filesystem: sandbox.Filesystem{ReadOnly: append(sandbox.SystemPaths(), t.ReadOnly)},
			Process:    sandbox.Process{Exec: mode},
		}
		s, err := sandbox.Start(ctx, policy, audit.Actor{Agent: "escape"}, unrecorded{}, &sandbox.Options{Self: true, Launcher: launcher})
		if err != nil {
			if errors.Is(err, sandbox.ErrUnsupported) {
				return fmt.Errorf("%w: %v", errMissing, err)
			}
			return err
		}
		defer s.Close()
		t.Work, t.WorkHost = "/sandbox", s.Workspace()
		env, err := escape.Env(t, only...)
		if err != nil {
			return err
		}
		cmd := s.Command(ctx, sandbox.Self, probeArg)
		cmd.Env, cmd.Stdout = env, io.Writer(out)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%w\n%s", err, tail(stderr.Bytes()))
		}
		return nil
	}
}

// unrecorded is a log that keeps nothing: nobody is accountable for a probe.
type unrecorded struct{}

func (unrecorded) Begin(context.Context, audit.Intent) (audit.Call, error) { return unrecorded{}, nil }
func (unrecorded) Append(context.Context, audit.Event) error               { return nil }

func (unrecorded) Record() uint64                           { return 0 }
func (unrecorded) End(context.Context, audit.Outcome) error { return nil }
