//go:build unix

package main

import (
	"os/exec"
	"syscall"
)

// withChildren has a command end, when its context does, with the children that it
// has, as git has some.
func withChildren(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
