//go:build linux && (amd64 || arm64)

package confine

import (
	"errors"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A plan is what the host found out about what it will show.
type plan struct {
	*delivery
	sources []source // tree is a descriptor of the room's pid 1, or -1: to be detached
	// inside are the numbers that what the host delivers has in the room's pid 1.
	inside []int
	// The host's executable: the path to detach, or else a file to copy, as in
	// [place.Mount], or -1.
	self     int
	selfPath string
	selfStat unix.Stat_t
}

// room returns the number that what was delivered has in the room, or -1.
func (p *plan) room(n int) int {
	if n < 0 {
		return -1
	}
	return p.inside[n-fdMounts]
}

// number says which numbers descriptors get that are sent to a process that has
// but the first three and the taken ones: the kernel takes the lowest that are free.
func (p *plan) number(taken ...int) {
	for n := 3; len(p.inside) < len(p.mounts); n++ {
		if !slices.Contains(taken, n) {
			p.inside = append(p.inside, n)
		}
	}
}

// newPlan looks at every source, so that the program needs no decisions. taken are
// descriptors of the room's pid 1, besides the first three.
func newPlan(d *delivery, taken ...int) (*plan, error) {
	p := &plan{delivery: d, self: -1}
	if err := p.findSelf(); err != nil {
		return nil, err
	}
	p.number(taken...)
	var etc []Bind
	for _, name := range etcBinds {
		etc = append(etc, Bind{Source: "/etc/" + name, Optional: true})
	}
	more, err := locate(etc)
	if err != nil {
		return nil, err
	}
	places := append(slices.Clone(d.order.Places), more...)
	for i, pl := range places {
		s := source{place: pl, target: strings.TrimPrefix(pl.Real, "/"), tree: p.room(pl.Mount)}
		if s.tree < 0 && covered(places, i) {
			s.onlyLinks = true
			p.sources = append(p.sources, s)
			continue
		}
		var st unix.Stat_t
		if s.tree >= 0 {
			err = unix.Fstat(p.mounts[pl.Mount-fdMounts], &st)
		} else {
			err = unix.Lstat(pl.Real, &st)
		}
		if err != nil {
			return nil, &LayerError{Layer: LayerMount, Step: "stat " + pl.Source, Err: err}
		}
		kind := st.Mode & unix.S_IFMT
		s.dir = kind == unix.S_IFDIR
		if !s.dir && kind != unix.S_IFREG {
			return nil, &LayerError{Layer: LayerMount, Step: "bind " + pl.Source, Err: errors.New("neither a directory nor a regular file")}
		}
		p.sources = append(p.sources, s)
	}
	slices.SortStableFunc(p.sources, func(a, b source) int {
		return strings.Count(a.target, "/") - strings.Count(b.target, "/")
	})
	return p, nil
}

// findSelf opens the host's executable, if it is to be shown and is not mounted.
func (p *plan) findSelf() error {
	if !p.order.Self || p.order.SelfMount >= 0 {
		return nil
	}
	fd, err := unix.Open("/proc/self/exe", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		p.mounts = append(p.mounts, fd)
		p.self = fdMounts + len(p.mounts) - 1
		err = unix.Fstat(fd, &p.selfStat)
	}
	if err != nil {
		return &LayerError{Layer: LayerMount, Step: "open the host's executable", Err: err}
	}
	var st unix.Stat_t
	// The room's user may not reach what root can.
	path, _ := os.Readlink("/proc/self/exe")
	if os.Geteuid() != 0 && unix.Stat(path, &st) == nil && st.Dev == p.selfStat.Dev && st.Ino == p.selfStat.Ino {
		p.selfPath = path
	}
	return nil
}
