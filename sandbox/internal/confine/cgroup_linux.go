//go:build linux && (amd64 || arm64)

package confine

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of a whole room take a control group of version 2 in a subtree that is
// delegated to the host: one in which it may make groups, and whose controllers
// are on. The room's first process is born in a group of its own.

// A cgroup is the control group of one room.
type cgroup struct {
	dir    string
	fd     int         // for CLONE_INTO_CGROUP
	limits TotalLimits // of which that of memory is set by [cgroup.limitMemory]
}

// controllers are what limits take.
func (t TotalLimits) controllers() []string {
	var c []string
	if t.Memory > 0 {
		c = append(c, "memory")
	}
	if t.CPU > 0 {
		c = append(c, "cpu")
	}
	return c
}

// newCgroup makes the group of a room, or returns nil when nothing is asked for.
func newCgroup(t TotalLimits, processes uint64) (*cgroup, error) {
	if len(t.controllers()) == 0 {
		return nil, nil
	}
	parents := []string{t.Parent}
	if t.Parent == "" {
		own, err := ownCgroup("/proc/self/cgroup", "/proc/self/mountinfo")
		if err != nil {
			return nil, &LayerError{Layer: LayerTotals, Step: "find the host's own group", Err: err, Hint: cgroupHint}
		}
		parents = own
	}
	var errs []error
	for _, parent := range parents {
		g, err := makeCgroup(parent, t, processes)
		if err == nil {
			return g, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", parent, err))
	}
	return nil, &LayerError{Layer: LayerTotals, Step: "limit the whole session", Err: errors.Join(errs...), Hint: cgroupHint}
}

// ownCgroup returns the directories in which this process may make groups: its
// own and the one above, within what is mounted.
func ownCgroup(self, mountinfo string) ([]string, error) {
	b, err := os.ReadFile(self)
	if err != nil {
		return nil, err
	}
	path := ""
	for line := range strings.Lines(string(b)) {
		if p, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			path = p
		}
	}
	if path == "" {
		return nil, errors.New("there is no cgroup v2 hierarchy")
	}
	f, err := os.Open(mountinfo)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		left, right, _ := strings.Cut(sc.Text(), " - ")
		fields := strings.Fields(left)
		if !strings.HasPrefix(right, "cgroup2 ") || len(fields) < 5 {
			continue
		}
		root, at := fields[3], fields[4]
		rel, err := filepath.Rel(root, path)
		if err != nil || strings.HasPrefix(rel, "..") {
			continue // the mount shows another part of the tree
		}
		dirs := []string{filepath.Join(at, rel)}
		if rel != "." {
			dirs = append(dirs, filepath.Dir(dirs[0]))
		}
		return dirs, nil
	}
	return nil, errors.New("cgroup v2 is not mounted where this process can see its own group")
}

// makeCgroup makes a group in parent and sets its limits.
func makeCgroup(parent string, t TotalLimits, processes uint64) (_ *cgroup, err error) {
	for _, c := range t.controllers() {
		if err := enable(parent, c); err != nil {
			return nil, err
		}
	}
	sweep(parent)
	var b [8]byte
	rand.Read(b[:])
	g := &cgroup{dir: filepath.Join(parent, fmt.Sprintf("twinward-%d-%s", os.Getpid(), hex.EncodeToString(b[:]))), fd: -1, limits: t}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			g.remove()
		}
	}()
	if err := t.apply(g.dir, processes); err != nil {
		return nil, err
	}
	g.fd, err = unix.Open(g.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: g.dir, Err: err}
	}
	return g, nil
}

// apply writes the limits to a group's files, but for that of memory. Those that
// bound nothing by themselves may be missing.
func (t TotalLimits) apply(dir string, processes uint64) error {
	var files [][2]string
	if t.CPU > 0 {
		const period = 100_000 // microseconds
		files = append(files, [2]string{"cpu.max", fmt.Sprintf("%d %d", max(t.CPU*period/1000, 1000), period)})
	}
	if processes > 0 { // RLIMIT_NPROC bounds them as well
		files = append(files, [2]string{"pids.max", strconv.FormatUint(processes+initThreads, 10)})
	}
	return writeLimits(dir, files)
}

// limitMemory bounds the room's memory. The kernel kills whoever exceeds it with
// all that share his memory, so nobody in the group may share the host's.
func (g *cgroup) limitMemory() error {
	if g == nil || g.limits.Memory == 0 {
		return nil
	}
	// All of the room or nothing of it: when a part is killed, the rest is in a
	// state that nobody has planned.
	err := writeLimits(g.dir, [][2]string{{"memory.oom.group", "1"}, {"memory.swap.max", "0"}, {"memory.max", strconv.FormatUint(g.limits.Memory, 10)}})
	if err == nil && g.usage().OOMKills > 0 {
		err = errors.New("an empty room takes more")
	}
	if err != nil {
		return &LayerError{Layer: LayerTotals, Step: "limit the room's memory", Err: err}
	}
	return nil
}

func writeLimits(dir string, files [][2]string) error {
	for _, f := range files {
		missing := f[0] == "memory.swap.max" || f[0] == "pids.max"
		if err := writeCgroup(dir, f[0], f[1]); err != nil && !(missing && errors.Is(err, os.ErrNotExist)) {
			return err
		}
	}
	return nil
}

// initThreads is more threads than init ever has.
const initThreads = 64

// writeCgroup writes to a file that the kernel has made; it makes none.
func writeCgroup(dir, file, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// enable turns a controller on for the groups beneath dir.
func enable(dir, controller string) error {
	for _, file := range []string{"cgroup.subtree_control", "cgroup.controllers"} {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return err
		}
		if slices.Contains(strings.Fields(string(b)), controller) {
			if file == "cgroup.subtree_control" {
				return nil
			}
			if err := writeCgroup(dir, "cgroup.subtree_control", "+"+controller); err != nil {
				if errors.Is(err, unix.EBUSY) {
					err = fmt.Errorf("%w: a group that has processes of its own cannot have limited groups beneath it", err)
				}
				return err
			}
			return nil
		}
	}
	return fmt.Errorf("the controller %s is not available there", controller)
}

// sweep removes groups that hosts left behind which were killed.
func sweep(parent string) {
	left, _ := filepath.Glob(filepath.Join(parent, "twinward-*-*"))
	for _, dir := range left {
		pid := strings.Split(filepath.Base(dir), "-")[1]
		fi, err := os.Stat(dir)
		if _, alive := os.Stat("/proc/" + pid); err == nil && os.IsNotExist(alive) && time.Since(fi.ModTime()) > time.Minute {
			_ = unix.Rmdir(dir) // fails while a process is in it
		}
	}
}

// remove ends what is left in the group, and the group.
func (g *cgroup) remove() {
	if g == nil {
		return
	}
	_ = writeCgroup(g.dir, "cgroup.kill", "1")
	for range 100 {
		if err := unix.Rmdir(g.dir); err != unix.EBUSY {
			break
		}
		time.Sleep(time.Millisecond) // the kernel has not buried all of them yet
	}
	closeAll([]int{g.fd})
	g.fd = -1
}

// usage reads what the group has used so far.
func (g *cgroup) usage() Usage {
	number := func(file, key string) uint64 {
		b, err := os.ReadFile(filepath.Join(g.dir, file))
		if err != nil {
			return 0
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if key == "" && len(f) == 1 || len(f) == 2 && f[0] == key {
				n, _ := strconv.ParseUint(f[len(f)-1], 10, 64)
				return n
			}
		}
		return 0
	}
	return Usage{
		MemoryPeak: number("memory.peak", ""),
		CPU:        time.Duration(number("cpu.stat", "usage_usec")) * time.Microsecond,
		OOMKills:   number("memory.events", "oom_kill"),
		Throttled:  number("cpu.stat", "nr_throttled"),
		Refused:    number("pids.events", "max"),
	}
}

// Usage returns what the whole room has used so far, or had used when it ended;
// false when it has no group.
func (b *Box) Usage() (Usage, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cgroup == nil {
		return Usage{}, false
	}
	if !b.ended {
		b.used = b.cgroup.usage()
	}
	return b.used, true
}
