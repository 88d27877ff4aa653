//go:build unix

package main

import (
	"os"
	"syscall"
)

const nobody = 65534

// otherUser is how root starts a process as another user.
func otherUser() *syscall.SysProcAttr {
	if os.Getuid() != 0 {
		return nil
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody, NoSetGroups: true}}
}
