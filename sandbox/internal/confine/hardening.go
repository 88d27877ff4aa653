package confine

import (
	"fmt"
	"time"
)

// A Tier is a room with less than all layers, for hosts that cannot have more.
// It is never chosen but by the caller.
type Tier string

const (
	// TierFull has all layers.
	TierFull Tier = ""
	// TierMaskedProc has no /proc but for a few files that say nothing of any
	// process: for hosts in a container that masks parts of its own /proc, where the
	// kernel lets nobody mount a fresh one.
	TierMaskedProc Tier = "masked-proc"
	// TierNoNamespaces has no namespace at all, for hosts that do not let this user
	// have a user namespace: see shared_linux.go.
	TierNoNamespaces Tier = "no-namespaces"
)

// check refuses a tier that does not exist.
func (t Tier) check() error {
	if t != TierFull && t != TierMaskedProc && t != TierNoNamespaces {
		return fmt.Errorf("there is no tier %q; the tiers are %q (full), %q and %q", t, TierFull, TierMaskedProc, TierNoNamespaces)
	}
	return nil
}

// LayerTotals are limits of the whole room. It is there only when asked for, and
// then required.
const LayerTotals Layer = "cgroup-limits"

// TotalLimits are limits of all processes of a room together. Zero means none.
type TotalLimits struct {
	Memory uint64 // bytes
	CPU    uint64 // thousandths of a processor
	// Parent is a directory of a cgroup v2 hierarchy in which the room's group is
	// made; "" means the host's own, or the one above it.
	Parent string
}

// Usage is what a room with total limits has used.
type Usage struct {
	MemoryPeak uint64        // bytes
	CPU        time.Duration // user and system
	OOMKills   uint64        // processes that were killed for want of memory
	Throttled  uint64        // periods in which the room had to wait for a processor
	Refused    uint64        // processes that were one too many
}

// A Program is a file that may be run.
type Program struct {
	Path string
	// SHA256 is its content, in lower-case hexadecimal; "" means any.
	SHA256 string `json:",omitempty"`
}

// A ProgramError says why a program of [Spec.Programs] is not one that a room
// can be held to.
type ProgramError struct {
	Path    string
	Problem string
	// Want and Got are hashes, when it is about them.
	Want, Got string
	Err       error // of the system, may be nil
}

func (e *ProgramError) Error() string {
	s := "program " + e.Path + ": " + e.Problem
	if e.Want != "" {
		s += fmt.Sprintf(": sha256 is %s, policy says %s", e.Got, e.Want)
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *ProgramError) Unwrap() error { return e.Err }

// noNewPrograms reports whether no file that was written inside may be run. A
// list of programs would mean nothing without.
func (s *Spec) noNewPrograms() bool { return s.ExecStrict || s.Programs != nil }

// A Denial is an attempt that the kernel stopped and reported.
type Denial struct {
	Layer Layer
	// What was tried: the name of a system call, or the Landlock rights that were
	// missing.
	What string
	// Object is the file that it was about, where that is known.
	Object string
	// Program is what the thread calls itself, which it may choose.
	Program string
}

// A DeviceError says why a device is not shown.
type DeviceError struct {
	Device  string
	Problem string
	Err     error // of the system, may be nil
}

func (e *DeviceError) Error() string {
	s := "device " + e.Device + ": " + e.Problem
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *DeviceError) Unwrap() error { return e.Err }
