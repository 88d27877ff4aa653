package sandbox

import "github.com/twinward-dev/twinward/sandbox/internal/confine"

// A ProgramError says why a program of a policy is not one that a session can be
// held to: its content is not what policy says, it can be written to, it is a
// script whose interpreter is not listed.
type ProgramError = confine.ProgramError

// strengthen adds to a room what policy asks for beyond the layers that every
// session has.
func (s *Session) strengthen(spec *confine.Spec) {
	l := s.policy.Process
	spec.ExecStrict = l.Exec == ExecStrict
	if l.Programs != nil {
		spec.Programs = make([]confine.Program, 0, len(l.Programs))
		for _, p := range l.Programs {
			spec.Programs = append(spec.Programs, confine.Program(p))
		}
	}
}
