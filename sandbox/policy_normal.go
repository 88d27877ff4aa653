package sandbox

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
)

// Hash identifies what the policy allows: "sha256:" and 64 hexadecimal digits.
// Defaults are filled in first, and order, repetition and letter case of what
// is a set do not matter, so two policies with one hash allow the same.
func (p *Policy) Hash() string {
	text, err := json.Marshal(p.normal())
	if err != nil {
		panic(err) // strings and numbers only
	}
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// normal returns a deep copy of p with defaults filled in, in the one order and
// spelling that [Policy.Hash] sees and that a session works from.
func (p *Policy) normal() *Policy {
	if p == nil {
		p = &Policy{}
	}
	n := Policy{
		Version: 1,
		Filesystem: Filesystem{
			ReadOnly:  set(p.Filesystem.ReadOnly),
			ReadWrite: set(p.Filesystem.ReadWrite),
			Protect:   set(p.Filesystem.Protect),
			TmpSize:   or(p.Filesystem.TmpSize, defaultTmpSize),
		},
		Process: Process{
			MaxProcesses:   or(p.Process.MaxProcesses, defaultMaxProcesses),
			MaxOpenFiles:   or(p.Process.MaxOpenFiles, defaultMaxOpenFiles),
			MaxFileSize:    or(p.Process.MaxFileSize, defaultMaxFileSize),
			MaxMemory:      p.Process.MaxMemory,
			MaxTotalMemory: p.Process.MaxTotalMemory,
			MaxCPU:         p.Process.MaxCPU,
			Exec:           p.Process.Exec,
			Programs:       programs(p.Process.Programs),
		},
	}
	if p.Version != 0 {
		n.Version = p.Version
	}
	if len(p.Environment) > 0 {
		n.Environment = make(Environment, len(p.Environment))
		for k, v := range p.Environment {
			n.Environment[k] = v
		}
	}
	n.Network = p.Network.normal()
	n.Devices = set(p.Devices)
	n.Services = set(lower(p.Services))
	if p.Inference != nil {
		n.Inference = &Inference{Host: strings.ToLower(cmp.Or(p.Inference.Host, InferenceHost)), Programs: programs(p.Inference.Programs)}
	}
	return &n
}

func (net Network) normal() (n Network) {
	for _, r := range net.Allow {
		n.Allow = append(n.Allow, r.normal())
	}
	slices.SortFunc(n.Allow, compareRules)
	n.Allow = slices.CompactFunc(n.Allow, func(a, b Rule) bool { return compareRules(a, b) == 0 })
	return n
}

func (r Rule) normal() Rule {
	r.Host = strings.ToLower(r.Host)
	if r.Protocol == ProtocolTCP {
		r.Protocol = ""
	}
	if r.Ports = set(r.Ports); len(r.Ports) == 0 {
		r.Ports = []uint16{443}
		if r.Protocol == ProtocolHTTP {
			r.Ports = []uint16{80}
		}
	}
	r.Rules, r.Deny = requests(r.Rules), requests(r.Deny)
	r.Programs = programs(r.Programs)
	return r
}

func requests(in []HTTPRule) []HTTPRule {
	out := slices.Clone(in)
	for i, h := range out {
		if out[i].Methods = set(h.Methods); len(h.Methods) == 0 || slices.Contains(h.Methods, "*") {
			out[i].Methods = nil
		}
	}
	return sorted(out, func(a, b HTTPRule) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), slices.Compare(a.Methods, b.Methods))
	})
}

func programs(in []Program) []Program {
	return sorted(slices.Clone(in), compareProgram)
}

func compareProgram(a, b Program) int {
	return cmp.Or(strings.Compare(a.Path, b.Path), strings.Compare(a.SHA256, b.SHA256))
}

// compareRules orders rules in normal form by all that they say.
func compareRules(a, b Rule) int {
	words := func(r Rule) string {
		text, err := json.Marshal(r)
		if err != nil {
			panic(err) // strings and numbers only
		}
		return string(text)
	}
	return cmp.Or(strings.Compare(a.Host, b.Host), slices.Compare(a.Ports, b.Ports), strings.Compare(words(a), words(b)))
}

// rules returns the rules of a policy in normal form, those included that
// Services and Inference stand for.
func (p *Policy) rules() []Rule {
	all := slices.Clone(p.Network.Allow)
	for _, s := range p.Services {
		all = append(all, servedRule(s, nil))
	}
	if p.Inference != nil {
		all = append(all, servedRule(p.Inference.Host, p.Inference.Programs))
	}
	return all
}

// trustsPaths reports whether a rule takes a program for what lies at its path,
// as no digest says what it is.
func (p *Policy) trustsPaths() bool {
	return slices.ContainsFunc(p.rules(), func(r Rule) bool {
		return slices.ContainsFunc(r.Programs, func(p Program) bool { return p.SHA256 == "" })
	})
}

func servedRule(host string, by []Program) Rule {
	return Rule{Host: host, Ports: []uint16{80, 443}, Served: true, Programs: by}
}

// ports returns the TCP ports that the policy names, sorted: the ports that a
// session listens on inside, and that its programs therefore cannot.
func (p *Policy) ports() []uint16 {
	var all []uint16
	for _, r := range p.normal().rules() {
		all = append(all, r.Ports...)
	}
	return set(all)
}

// set sorts a copy and drops repetitions; nil stays nil.
func set[T interface{ ~string | ~uint16 }](in []T) []T {
	out := slices.Clone(in)
	slices.Sort(out)
	return slices.Compact(out)
}

// sorted sorts s itself and drops repetitions.
func sorted[T any](s []T, order func(a, b T) int) []T {
	slices.SortFunc(s, order)
	return slices.CompactFunc(s, func(a, b T) bool { return order(a, b) == 0 })
}

func lower(in []string) []string {
	out := slices.Clone(in)
	for i, s := range out {
		out[i] = strings.ToLower(s)
	}
	return out
}

func or(v, def int64) int64 {
	if v == 0 {
		return def
	}
	return v
}
