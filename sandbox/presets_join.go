package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Join returns one policy for a session in which all of several hold: what any of
// them opens is open, and what any of them limits is limited. It is an error, one
// [*PolicyError] each, when two of them cannot both hold: different limits or
// values of a variable, a path that one writes and the other must not, a list of
// programs beside none, rules of the network that say different things of a host.
// Join never opens what no policy opens.
//
// What a policy leaves to the default (a zero or nil field) it does not say, with
// three exceptions, which widen when they are not said: programs, which are then
// any, and the paths and protected places, which are then the usual ones.
func Join(policies ...*Policy) (*Policy, error) {
	out := new(Policy)
	var j joiner
	for i, p := range policies {
		if p == nil {
			p = new(Policy)
		}
		if err := p.Validate(); err != nil {
			return nil, err
		}
		if i == 0 {
			out = p.clone()
			continue
		}
		j.join(out, p.clone())
	}
	if err := errors.Join(j.errs...); err != nil {
		return nil, err
	}
	if err := out.Validate(); err != nil {
		return nil, err
	}
	return out, nil
}

// clone returns a copy that shares nothing with p and says what p says.
func (p *Policy) clone() *Policy {
	c := *p
	c.Filesystem.ReadOnly = slices.Clone(p.Filesystem.ReadOnly)
	c.Filesystem.ReadWrite = slices.Clone(p.Filesystem.ReadWrite)
	c.Filesystem.Protect = slices.Clone(p.Filesystem.Protect)
	c.Process.Programs = slices.Clone(p.Process.Programs)
	c.Environment = maps.Clone(p.Environment)
	c.Network.Allow = slices.Clone(p.Network.Allow)
	for i, r := range c.Network.Allow {
		r.Ports, r.Programs = slices.Clone(r.Ports), slices.Clone(r.Programs)
		r.Rules, r.Deny = cloneRequests(r.Rules), cloneRequests(r.Deny)
		c.Network.Allow[i] = r
	}
	c.Devices, c.Services = slices.Clone(p.Devices), slices.Clone(p.Services)
	if p.Inference != nil {
		c.Inference = &Inference{Host: p.Inference.Host, Programs: slices.Clone(p.Inference.Programs)}
	}
	return &c
}

func cloneRequests(in []HTTPRule) []HTTPRule {
	out := slices.Clone(in)
	for i := range out {
		out[i].Methods = slices.Clone(out[i].Methods)
	}
	return out
}

type joiner struct{ errs []error }

func (j *joiner) bad(field, problem, fix string) {
	j.errs = append(j.errs, &PolicyError{Field: field, Problem: problem, Fix: fix})
}

// join adds what p says to out.
func (j *joiner) join(out, p *Policy) {
	j.files(&out.Filesystem, &p.Filesystem)
	j.process(&out.Process, &p.Process)
	for _, k := range slices.Sorted(maps.Keys(p.Environment)) {
		v := p.Environment[k]
		if old, there := out.Environment[k]; there && old != v {
			j.bad("environment."+k, fmt.Sprintf("it is %q in one policy and %q in another", old, v), "decide for one")
			continue
		}
		if out.Environment == nil {
			out.Environment = make(Environment)
		}
		out.Environment[k] = v
	}
	out.Network.Allow = append(out.Network.Allow, p.Network.Allow...)
	out.Devices = set(append(out.Devices, p.Devices...))
	out.Services = set(lower(append(out.Services, p.Services...)))
	switch {
	case p.Inference == nil:
	case out.Inference == nil:
		out.Inference = p.Inference
	default:
		a, b := cmp.Or(out.Inference.Host, InferenceHost), cmp.Or(p.Inference.Host, InferenceHost)
		if !strings.EqualFold(a, b) {
			j.bad("inference.host", fmt.Sprintf("it is %q in one policy and %q in another", a, b), "decide for one, and list the other under services")
		}
		out.Inference.Programs = j.programs("inference.programs", out.Inference.Programs, p.Inference.Programs)
	}
}

func (j *joiner) files(out, f *Filesystem) {
	out.ReadOnly = union(out.ReadOnly, f.ReadOnly, SystemPaths())
	out.ReadWrite = append(out.ReadWrite, f.ReadWrite...)
	if out.ReadWrite = set(out.ReadWrite); len(out.ReadWrite) == 0 {
		out.ReadWrite = nil
	}
	for _, path := range out.ReadWrite {
		if slices.Contains(out.ReadOnly, path) {
			j.bad("filesystem.read_write", fmt.Sprintf("%s is read-only in another policy", path), "decide for one")
		}
	}
	if (out.Protect == nil) != (f.Protect == nil) {
		j.bad("filesystem.protect", "one policy protects the usual places and another lists its own", "write the list into both")
	} else if out.Protect != nil {
		out.Protect = set(append(out.Protect, f.Protect...))
	}
	out.TmpSize = j.limit("filesystem.tmp_size", out.TmpSize, f.TmpSize)
}

// union joins two lists of which nil stands for usual.
func union(a, b, usual []string) []string {
	switch {
	case a == nil && b == nil:
		return nil
	case a == nil:
		a = usual
	case b == nil:
		b = usual
	}
	return set(append(slices.Clone(a), b...))
}

func (j *joiner) process(out, p *Process) {
	out.MaxProcesses = j.limit("process.max_processes", out.MaxProcesses, p.MaxProcesses)
	out.MaxOpenFiles = j.limit("process.max_open_files", out.MaxOpenFiles, p.MaxOpenFiles)
	out.MaxFileSize = j.limit("process.max_file_size", out.MaxFileSize, p.MaxFileSize)
	out.MaxMemory = j.limit("process.max_memory", out.MaxMemory, p.MaxMemory)
	out.MaxTotalMemory = j.limit("process.max_total_memory", out.MaxTotalMemory, p.MaxTotalMemory)
	out.MaxCPU = j.limit("process.max_cpu", out.MaxCPU, p.MaxCPU)
	out.Exec = cmp.Or(out.Exec, p.Exec) // strict, if one of them says so
	out.Programs = j.programs("process.programs", out.Programs, p.Programs)
}

// limit returns the one that is said.
func (j *joiner) limit(field string, a, b int64) int64 {
	if a != 0 && b != 0 && a != b {
		j.bad(field, fmt.Sprintf("it is %d in one policy and %d in another", a, b), "decide for one")
	}
	return cmp.Or(a, b)
}

// programs joins two lists of which nil stands for any.
func (j *joiner) programs(field string, a, b []Program) []Program {
	if (a == nil) != (b == nil) {
		j.bad(field, "one policy allows these programs and another allows any", "list the programs in both")
		return a
	}
	return programs(append(a, b...))
}
