// Package escape is a corpus of attempts to get out of a sandbox, or to reach a
// part of the kernel that a sandbox should keep away.
//
// The corpus knows no sandbox. [Lay] puts things in reach of anybody on the
// host, a sandbox of whatever make starts a program that calls [Serve] inside,
// and that program tries to get at them and says what it could. Each [Probe] is
// one attempt; it is open when it got through. What a probe does is harmless
// where it gets through, also to a host that runs it as root: it takes nothing
// and changes nothing but files that Lay has made.
package escape

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
)

// Groups of probes, in the order of the table.
const (
	Files   = "files"   // paths, links, mounts, devices
	Process = "process" // /proc, descriptors, environment, signals, tty
	IPC     = "ipc"     // shared memory, keyrings, sockets of the host
	Network = "network" // ways to a server of the host
	Rights  = "rights"  // users, capabilities, set-id programs, limits
	Code    = "code"    // what was written inside becomes code
	Surface = "surface" // system calls, by their arguments
	Calls   = "calls"   // system calls that must not reach the kernel at all
)

// Groups returns all of them.
func Groups() []string { return []string{Files, Process, IPC, Network, Rights, Code, Surface, Calls} }

// SetIDArg is the first argument with which a probe executes a copy of the program
// that it is part of; that copy has to call PrintRights and end.
const SetIDArg = "print-rights"

// A Target is what the host has put in reach of a program that is not confined.
type Target struct {
	Dir        string // holds what follows
	Secret     string // a file that anybody may read
	Open       string // a directory in which anybody may write
	ReadOnly   string // a directory to be shown read-only, in which anybody may write on the host
	SetID      string // a set-id program in ReadOnly, or ""
	Unix       string // path of a socket
	Abstract   string // name of an abstract socket
	TCP, TCP6  string // addresses of servers on the host's loopback; TCP6 may be ""
	UDP        string
	Shm        int // key of a SysV shared memory segment
	Queue      int // key of a SysV message queue
	PosixShm   string
	Key        string // description of a key in the host user's keyring, or ""
	PID        int    // a process of the host
	Marker     string // in that process's arguments, and in the host's environment
	HostName   string
	Namespaces map[string]string
	FD         int    // open on the host's root directory, and not close-on-exec
	Work       string // a directory that the program may write, as it is named inside
	WorkHost   string // the same, as it is named on the host
}

// A Probe tries one thing.
type Probe struct {
	Name  string
	Group string
	// How says what it does, in a few words.
	How string
	// Stops are what should stop it in a session of package sandbox, each by
	// itself, outermost first: names of layers or, where no layer can be named,
	// of what a session does ("descriptors", "environment", …).
	Stops []string
	// Accepted says why a session may let it through; usually empty.
	Accepted string
	try      func(Target) error // nil when it got through
	apart    bool               // in a process of its own, see tryApart
}

// A Finding is what one probe saw.
type Finding struct {
	Name string
	Open bool
	Seen string `json:",omitempty"` // why not
}

// patience is what a probe has; one that hangs did not get through.
const patience = 10 * time.Second

// Layer returns the first of what stops a probe, and what else does.
func (p Probe) Layer() (first, also string) {
	if len(p.Stops) == 0 {
		return "", ""
	}
	return p.Stops[0], strings.Join(p.Stops[1:], ", ")
}

// Table prints, for each probe of a corpus, what it tries, what stopped it and
// what else would have.
func Table(probes []Probe, found map[string]Finding) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	group := ""
	for _, p := range probes {
		if p.Group != group {
			group = p.Group
			fmt.Fprintf(w, "\n%s\twhat it tries\t\tstopped by\talso by\tit saw\n", strings.ToUpper(group))
		}
		f, ok := found[p.Name]
		state := "blocked"
		switch {
		case !ok:
			state = "NOT RUN"
		case f.Open && p.Accepted != "":
			state = "accepted"
		case f.Open:
			state = "OPEN"
		}
		first, also := p.Layer()
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", p.Name, p.How, state, first, also, f.Seen)
	}
	w.Flush()
	return b.String()
}
