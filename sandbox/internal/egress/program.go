package egress

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Which program connects is the executable of the process that holds the
// socket: never of its parent, and never what a process says about itself. A
// script's program is its interpreter. All processes that hold the socket must
// fit. What is proven is who holds the connection; what an agent makes such a
// program do (an option, a script, LD_PRELOAD) is not, so that this narrows which
// tools use a destination, and stops no agent that controls an allowed one.

// A holder is a process that holds a program's side of a connection.
type holder struct {
	pid     int    // inside
	started string // when it was, which tells a reused pid
	path    string // of the executable inside
	file    fileID
	fixed   bool   // the executable lies where nothing inside can write
	closing bool   // its descriptor cannot have come through an exec
	exe     string // where the executable can be read on the host
}

// A fileID tells one state of a file from others.
type fileID struct {
	dev, ino     uint64
	size         int64
	mtime, ctime int64 // nanoseconds
}

var errHolders = errors.New("who holds the connection cannot be known")

// look finds who holds the program's side of an attempt, once.
func (d *Door) look(a *attempt) error {
	if a.looked {
		return a.lookErr
	}
	a.looked = true
	d.mu.Lock()
	a.room = d.room
	d.mu.Unlock()
	if a.room == nil {
		a.lookErr = errHolders
	} else {
		a.holders, a.lookErr = a.room.holders(a.program())
	}
	if len(a.holders) > 0 {
		a.t.program = a.holders[0].path
	}
	return a.lookErr
}

// causeOf is why nobody is known to hold a connection.
func causeOf(err error) string {
	var hidden *hiddenError
	if errors.As(err, &hidden) {
		return CauseProgramHidden
	}
	return CauseProgram
}

// A hiddenError says which process cannot be looked into by this user. It may
// hold any connection, so that no rule with programs allows one while it lives.
type hiddenError struct {
	pid  int // on the host
	name string
}

func (e *hiddenError) Error() string {
	return fmt.Sprintf("%v: process %d (%s) hides what it has open from this user: its program may be run and not be read, or it has asked for that", errHolders, e.pid, short(e.name))
}

func (e *hiddenError) Unwrap() error { return errHolders }

// lookAgain reports whether the same programs hold the attempt's connection as
// before: none was executed, joined or took the place of another meanwhile.
func (d *Door) lookAgain(a *attempt) bool {
	if !a.looked {
		return true
	}
	before := a.holders
	a.looked, a.holders = false, nil
	if d.look(a) != nil || len(a.holders) != len(before) {
		return false
	}
	for i, h := range a.holders {
		b := before[i]
		if h.pid != b.pid || h.started != b.started || h.file != b.file {
			return false
		}
	}
	return true
}

// pick returns the first of rules whose programs fit the holders. secure says
// that nothing a program sends counts before TLS is agreed on: then it does not
// matter what was sent by a program that was executed away since.
func (m *room) pick(rules []Rule, hs []holder, secure func(Rule) bool) (Rule, bool) {
	for _, r := range rules {
		if r.Programs == nil || m.fit(r.Programs, hs, secure(r)) {
			return r, true
		}
	}
	return Rule{}, false
}

func (m *room) fit(programs []Program, hs []holder, secure bool) bool {
	if m == nil || len(hs) == 0 {
		return false
	}
	for i := range hs {
		h := &hs[i]
		if !secure && !h.closing {
			return false
		}
		if !slices.ContainsFunc(programs, func(p Program) bool { return m.is(h, p) }) {
			return false
		}
	}
	return true
}

// is reports whether h runs p: the very file that the path leads to inside, and
// in a state that p vouches for.
func (m *room) is(h *holder, p Program) bool {
	dev, ino, err := m.file(p.Path)
	if err != nil || dev != h.file.dev || ino != h.file.ino {
		return false
	}
	if p.SHA256 == "" {
		return h.fixed
	}
	return m.known(h.file) == strings.ToLower(p.SHA256)
}

// hashFor hashes the executables of the holders about which rules want to know,
// so that pick only has to compare.
func (m *room) hashFor(rules []Rule, hs []holder) {
	for _, r := range rules {
		for _, p := range r.Programs {
			if m == nil || p.SHA256 == "" {
				continue
			}
			dev, ino, err := m.file(p.Path)
			for _, h := range hs {
				if err == nil && h.file.dev == dev && h.file.ino == ino {
					m.hash(h) // one that fails is not known, and fits nothing
				}
			}
		}
	}
}

// describe names the programs that hold an attempt, for a record.
func describe(hs []holder) string {
	var out []string
	for _, h := range hs {
		out = append(out, fmt.Sprintf("%s[%d]", short(h.path), h.pid))
		if len(out) == 8 {
			break
		}
	}
	return strings.Join(out, " ")
}

// SetRoom tells the door which process is pid 1 of the session, so that it can
// find who holds a connection. Without it rules with programs allow nothing.
func (d *Door) SetRoom(init int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.room = newRoom(init)
}

// secure reports whether a rule's connections to a port must begin with TLS.
func secure(port uint16, r Rule) bool {
	return r.Protocol == ProtocolHTTPS || r.Protocol == ProtocolTCP && port == 443
}
