package sandbox

import "github.com/twinward-dev/twinward/sandbox/internal/confine"

// A ProgramError says why a program of a policy is not one that a session can be
// held to: its content is not what policy says, it can be written to, it is a
// script whose interpreter is not listed.
type ProgramError = confine.ProgramError

// A DeviceError says why a device of a policy is not shown: it is not there, it
// is a disk, it leads to the host as a whole.
type DeviceError = confine.DeviceError

// LayerTotals are limits of the whole session, when policy asks for some.
const LayerTotals = confine.LayerTotals

// strengthen adds to a room what policy asks for beyond the layers that every
// session has.
func (s *Session) strengthen(spec *confine.Spec) {
	l := s.policy.Process
	spec.Tier = s.opts.Tier
	spec.Devices = s.policy.Devices
	spec.Total = confine.TotalLimits{Memory: uint64(l.MaxTotalMemory), CPU: uint64(l.MaxCPU), Parent: s.opts.Cgroup}
	spec.ExecStrict = l.Exec == ExecStrict
	spec.OneWay = s.policy.trustsPaths()
	if l.Programs != nil {
		spec.Programs = make([]confine.Program, 0, len(l.Programs))
		for _, p := range l.Programs {
			spec.Programs = append(spec.Programs, confine.Program(p))
		}
	}
}
