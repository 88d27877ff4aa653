package egress

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A process hides what it has open from everybody but root when its program may
// be run and not be read, or when it has asked the kernel for that
// (PR_SET_DUMPABLE). If the program belongs to a user who does not exist inside,
// it does not even appear in the room's /proc, as that shows nobody what he may
// not look into. A host that is not root looks for such processes in its own
// /proc, from the room's first process down.

// noneHidden returns a [*hiddenError] unless every process of the room can be
// looked into. Processes that are born or lose their parent meanwhile may be
// missed by one look; who holds a connection is looked at twice.
func (m *room) noneHidden() error {
	if os.Geteuid() == 0 {
		return nil // root sees all
	}
	init, err := strconv.Atoi(strings.TrimPrefix(m.init, "/proc/"))
	if err != nil {
		return err
	}
	seen := map[int]bool{init: true}
	for todo := []int{init}; len(todo) > 0; {
		pid := todo[0]
		todo = todo[1:]
		if len(seen) > maxScan {
			return fmt.Errorf("%w: more than %d processes are inside", errHolders, maxScan)
		}
		children, err := childrenOf(pid)
		if err != nil && pid == init {
			return fmt.Errorf("%w: %w", errHolders, err)
		}
		for _, c := range children {
			if seen[c] {
				continue
			}
			seen[c] = true
			todo = append(todo, c)
			if err := readable(c); err != nil {
				return err
			}
		}
	}
	return nil
}

// childrenOf returns the children of all threads of a process.
func childrenOf(pid int) (out []int, err error) {
	dir := "/proc/" + strconv.Itoa(pid) + "/task"
	threads, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, t := range threads {
		text, err := os.ReadFile(dir + "/" + t.Name() + "/children")
		if err != nil && t.Name() == strconv.Itoa(pid) {
			return nil, err // the kernel has no such file, or the process is gone
		}
		for _, f := range strings.Fields(string(text)) {
			if c, err := strconv.Atoi(f); err == nil {
				out = append(out, c)
			}
		}
	}
	return out, nil
}

// readable returns a [*hiddenError] for a process that lives and whose
// descriptors this user may not see.
func readable(pid int) error {
	dir := "/proc/" + strconv.Itoa(pid)
	f, err := os.Open(dir + "/fd")
	if err == nil {
		f.Close()
		return nil
	}
	if unix.Kill(pid, 0) == unix.ESRCH || zombie(dir) {
		return nil // it holds nothing any more
	}
	name, _ := os.ReadFile(dir + "/comm")
	return &hiddenError{pid, strings.TrimSpace(string(name))}
}
