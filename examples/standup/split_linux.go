package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/twinward-dev/twinward/credential"
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

// searchMemory counts those of the secrets that are in the memory of a process,
// in any encoding, and the bytes that were read.
func searchMemory(pid int, secrets []string) (found int, read int64, err error) {
	var known credential.Scrubber
	for i, s := range secrets {
		if err := known.Add(fmt.Sprint(i), credential.NewSecret([]byte(s))); err != nil {
			return 0, 0, err
		}
	}
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, err
	}
	defer maps.Close()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return 0, 0, err
	}
	defer mem.Close()
	seen := map[string]int{}
	const block, overlap = 1 << 20, 4 << 10
	buf, empty := make([]byte, block), make([]byte, block)
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to uint64
		var may string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &may); err != nil {
			return 0, 0, err
		}
		if !strings.HasPrefix(may, "rw") { // what it has written
			continue
		}
		for at := from; at < to; at += block - overlap {
			n, err := mem.ReadAt(buf[:min(block, to-at)], int64(at))
			if n == 0 && err != nil && err != io.EOF {
				break // such as [vvar]
			}
			read += int64(n)
			if bytes.Equal(buf[:n], empty[:n]) {
				continue
			}
			for name, times := range known.Count(buf[:n]) {
				seen[name] += times
			}
		}
	}
	if read == 0 {
		return 0, 0, errors.New("nothing of the memory could be read")
	}
	return len(seen), read, nil
}
