package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// A Policy says what a session may touch. What it does not name is not there:
// no file, no variable, no host. The zero Policy is valid and is the tightest
// one: the system's own programs read-only, /sandbox and /tmp writable, an
// empty environment, no network at all.
//
// A Policy is plain data. It is checked by [LoadPolicy] and again by [Start],
// and a running session keeps its own copy. Nil is the zero Policy.
type Policy struct {
	// Version is 1; zero means 1. A file must say it.
	Version     int         `json:"version"`
	Filesystem  Filesystem  `json:"filesystem"`
	Process     Process     `json:"process"`
	Environment Environment `json:"environment,omitempty"`
	Network     Network     `json:"network"`
}

// Filesystem lists the host paths that exist inside, at the same place. Besides
// them a session always has /sandbox (the workspace) and /tmp (memory), both
// writable, and a /proc, /dev and /etc made for it. Paths are absolute and
// clean, and never "/", nor under /sandbox, /proc, /sys, /dev or /run.
type Filesystem struct {
	// ReadOnly are files and folders that can be read and executed. Nil means
	// [SystemPaths], those that exist; an empty list means none. A Unix socket in
	// one of them, on which a service of the host listens, can be connected to.
	ReadOnly []string `json:"read_only"`
	// ReadWrite are files and folders that can be changed as well. A path may
	// lie under one of ReadOnly, and the reverse; the longer path decides.
	ReadWrite []string `json:"read_write,omitempty"`
	// TmpSize bounds /tmp in bytes. Zero means 256 MiB.
	TmpSize int64 `json:"tmp_size"`
}

// Process holds limits that the kernel keeps for every process inside.
type Process struct {
	// MaxProcesses bounds the processes and threads of the whole session. Zero
	// means 512.
	MaxProcesses int64 `json:"max_processes"`
	// MaxOpenFiles bounds the descriptors of one process. Zero means 4096.
	MaxOpenFiles int64 `json:"max_open_files"`
	// MaxFileSize bounds one file that a process writes, in bytes. Zero means
	// 4 GiB.
	MaxFileSize int64 `json:"max_file_size"`
	// MaxMemory bounds the private writable memory that one process may map, in
	// bytes (RLIMIT_DATA), and is at least 256 MiB, as the session's own first
	// process lives under it too. Zero means no limit: runtimes such as Bun reserve
	// far more than they use.
	MaxMemory int64 `json:"max_memory,omitempty"`
}

// Environment holds the variables of every process inside, beside those that
// the session itself sets (HOME, PATH, the trust store). Nothing is inherited
// from the host: a value is text, and "${NAME}" in one is an error.
type Environment map[string]string

// Network holds the allow-list of destinations. Everything else is refused and
// recorded: other names, other ports, bare addresses, UDP.
type Network struct {
	Allow []Rule `json:"allow,omitempty"`
}

// A Rule allows TCP connections to the hosts that a pattern matches. On port
// 443, and wherever a program begins with TLS, the name that TLS asks for must be
// the host's, and must not be hidden (ECH). What is said inside TLS is not seen:
// a host that answers for many names, such as a content network, can lead to the
// others. To see requests, serve the name with [Session.Handle].
type Rule struct {
	// Host is a name in lower-case ASCII, or a pattern:
	//
	//	api.example.com     that name
	//	*.example.com       one label in place of the star
	//	*-eu.example.com    the same, for a part of the first label
	//	**.example.com      one label or more
	//	a.*.example.com     one whole label in the middle
	//
	// Two labels at least must follow the last star, and together they must be
	// a name that somebody owns: "*", "*.com" and "*.co.uk" are errors.
	Host string `json:"host"`
	// Ports are TCP ports. Empty means 443. Port 53 is the session's own DNS.
	Ports []uint16 `json:"ports"`
	// Private allows the name to resolve to a loopback, private or otherwise
	// shared address of the host's network, or to the host itself. Link-local
	// addresses and the metadata services of clouds stay refused. Names that a
	// handler serves ([Session.Handle]) do not need it, as nothing is resolved
	// for them.
	Private bool `json:"private,omitempty"`
	// Served says that a handler of the host serves the names ([Session.Handle])
	// and that they are never dialled, not even before the handler is there.
	// Names under .local are always meant so. A public name that the host
	// governs, such as api.github.com behind a handler that adds the credential,
	// wants this word.
	Served bool `json:"served,omitempty"`
}

// Defaults and bounds of a policy.
const (
	defaultTmpSize      = 256 << 20
	defaultMaxProcesses = 512
	defaultMaxOpenFiles = 4096
	defaultMaxFileSize  = 4 << 30
	minMemory           = 256 << 20

	maxPolicyFile = 64 << 10
	maxPaths      = 256
	maxPathLength = 4096 - 1
	maxVariables  = 128
	maxValue      = 32 << 10
	maxRules      = 1024
	maxPorts      = 64   // of one rule
	maxAllPorts   = 1024 // of a policy: one listener each
)

// SystemPaths returns the paths that a nil ReadOnly stands for, whether or not
// this host has them.
func SystemPaths() []string {
	return []string{"/bin", "/lib", "/lib32", "/lib64", "/sbin", "/usr"}
}

// A PolicyError is one thing that is wrong with a policy, and what to write
// instead. [LoadPolicy] and [Policy.Validate] return all of them, joined.
type PolicyError struct {
	// File, Line and Column say where; Line and Column count from 1 and are
	// zero for a policy that was made in Go.
	File         string
	Line, Column int
	// Field is the place in the policy, such as "network.allow[0].host".
	Field string
	// Problem says what is wrong, and Fix what to write instead.
	Problem, Fix string
}

func (e *PolicyError) Error() string {
	var b strings.Builder
	b.WriteString("sandbox: policy")
	if e.File != "" {
		fmt.Fprintf(&b, ": %s", e.File)
		if e.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
		}
	}
	if e.Field != "" {
		fmt.Fprintf(&b, ": %s", e.Field)
	}
	fmt.Fprintf(&b, ": %s", e.Problem)
	if e.Fix != "" {
		fmt.Fprintf(&b, ": %s", e.Fix)
	}
	return b.String()
}

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
			TmpSize:   or(p.Filesystem.TmpSize, defaultTmpSize),
		},
		Process: Process{
			MaxProcesses: or(p.Process.MaxProcesses, defaultMaxProcesses),
			MaxOpenFiles: or(p.Process.MaxOpenFiles, defaultMaxOpenFiles),
			MaxFileSize:  or(p.Process.MaxFileSize, defaultMaxFileSize),
			MaxMemory:    p.Process.MaxMemory,
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
	for _, r := range p.Network.Allow {
		r.Host = strings.ToLower(r.Host)
		if r.Ports = set(r.Ports); len(r.Ports) == 0 {
			r.Ports = []uint16{443}
		}
		n.Network.Allow = append(n.Network.Allow, r)
	}
	slices.SortFunc(n.Network.Allow, compareRules)
	n.Network.Allow = slices.CompactFunc(n.Network.Allow, func(a, b Rule) bool { return compareRules(a, b) == 0 })
	return &n
}

func compareRules(a, b Rule) int {
	if c := strings.Compare(a.Host, b.Host); c != 0 {
		return c
	}
	if c := slices.Compare(a.Ports, b.Ports); c != 0 {
		return c
	}
	words := func(r Rule) (n int) {
		if r.Private {
			n |= 1
		}
		if r.Served {
			n |= 2
		}
		return n
	}
	return words(a) - words(b)
}

// ports returns the TCP ports that the policy names, sorted: the ports that a
// session listens on inside, and that its programs therefore cannot.
func (p *Policy) ports() []uint16 {
	var all []uint16
	for _, r := range p.normal().Network.Allow {
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

func or(v, def int64) int64 {
	if v == 0 {
		return def
	}
	return v
}
