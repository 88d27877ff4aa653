//go:build linux && (amd64 || arm64)

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Figures are what a host that has nothing to do uses. All but the first two are
// counted from outside.
type figures struct {
	Heap        int64 // bytes that are in use after a collection
	Goroutines  int64
	Descriptors int64
	Processes   int64 // of the host's children and theirs
	Mounts      int64 // that the host sees
	Temporary   int64 // files and folders
	Resident    int64 // bytes of memory; what the system leaves to it is not compared
}

// above says what of f is more than it was, and by more than may be:
//
//   - the heap may grow by a quarter and 4 MiB: the registry keeps who was revoked,
//     the ledger of facts what counts for a day, the log the hashes of its tree;
//   - connections to vendors that are kept open for the next call are a descriptor
//     and two goroutines each, and come and go: 12 of them;
//   - of all else there is as much as before.
func (f figures) above(was figures) (wrongs []error) {
	for _, c := range []struct {
		what          string
		was, now, may int64
	}{
		{"bytes of heap", was.Heap, f.Heap, was.Heap/4 + 4<<20},
		{"goroutines", was.Goroutines, f.Goroutines, 24},
		{"descriptors", was.Descriptors, f.Descriptors, 12},
		{"processes", was.Processes, f.Processes, 0},
		{"mounts", was.Mounts, f.Mounts, 0},
		{"temporary files", was.Temporary, f.Temporary, 0},
	} {
		if c.now > c.was+c.may {
			wrongs = append(wrongs, fmt.Errorf("%d %s, where %d were, and %d more may be", c.now, c.what, c.was, c.may))
		}
	}
	return wrongs
}

// look counts what a process uses.
func (f *figures) look(pid int, temp string) error {
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return err
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return err
	}
	f.Descriptors, f.Mounts = int64(len(fds)), int64(bytes.Count(mounts, []byte("\n")))
	pages, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return err
	}
	resident, _ := strconv.ParseInt(strings.Fields(string(pages))[1], 10, 64)
	f.Resident = resident * int64(os.Getpagesize())
	parents := map[int]int{}
	eachProcess(func(pid int) { parents[pid] = parent(pid) })
	f.Processes = 0
	for child := range parents {
		for up := child; up > 1; up = parents[up] {
			if parents[up] == pid {
				f.Processes++
				break
			}
		}
	}
	f.Temporary = -1 // the folder itself
	return filepath.WalkDir(temp, func(string, os.DirEntry, error) error { f.Temporary++; return nil })
}

func eachProcess(do func(pid int)) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		do(pid)
	}
}

// parent is the number of a process's parent, or 0.
func parent(pid int) int {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0 // has ended
	}
	up, _ := strconv.Atoi(strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))[1])
	return up
}

// withArgument are the processes that have an argument which contains a text, and
// one that is another, if that is not empty.
func withArgument(text, other string) (pids []int) {
	eachProcess(func(pid int) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if pid != os.Getpid() && bytes.Contains(line, []byte(text)) && (other == "" || bytes.Contains(line, []byte("\x00"+other+"\x00"))) {
			pids = append(pids, pid)
		}
	})
	return pids
}

// kill ends processes at once. One that has ended meanwhile is none.
func kill(pids []int) error {
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			return err
		}
	}
	return nil
}
