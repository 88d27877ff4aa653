package confine

import "fmt"

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
