package main

import (
	"errors"
	"os"
	"syscall"
)

// Users of the two hosts when this is run as root: numbers that no account has.
var partUsers = map[string]int{partGateway: 61_001, partCompute: 61_002}

// ownUser gives a part a user of its own, which only root can do.
func (p *part) ownUser() error {
	if os.Getuid() != 0 {
		return nil
	}
	p.uid = partUsers[p.name]
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(p.uid), Gid: uint32(p.uid)}}
	return errors.Join(os.Chown(p.dir, p.uid, p.uid), os.Chown(p.cmd.Path, p.uid, p.uid))
}
