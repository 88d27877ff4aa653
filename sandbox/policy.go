package sandbox

import (
	"fmt"
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
	// Devices are device nodes of the host: names of sets ("gpu": NVIDIA's nodes
	// and what CUDA needs), or paths under /dev. Besides them a session has the six
	// harmless ones (null, zero, full, random, urandom, tty).
	Devices []string `json:"devices,omitempty"`
	// Inference says that a handler serves models; nil: none does.
	Inference *Inference `json:"inference,omitempty"`
	// Services are names that handlers serve ([Session.Handle]): each is short for
	// a rule with Served and ports 443 and 80.
	Services []string `json:"services,omitempty"`
}

// Filesystem lists the host paths that exist inside, at the same place. Besides
// them a session always has /sandbox (the workspace) and /tmp (memory), both
// writable, and a /proc, /dev and /etc made for it; /dev/shm is memory as well, 64
// MiB in which no program can be run. Paths are absolute and
// clean, and never "/", nor under /sandbox, /proc, /sys, /dev or /run.
type Filesystem struct {
	// ReadOnly are files and folders that can be read and executed. Nil means
	// [SystemPaths], those that exist; an empty list means none. A Unix socket in
	// one of them, on which a service of the host listens, can be connected to.
	ReadOnly []string `json:"read_only"`
	// ReadWrite are files and folders that can be changed as well. A path may
	// lie under one of ReadOnly, and the reverse; the longer path decides.
	ReadWrite []string `json:"read_write,omitempty"`
	// Protect are places that programs outside trust, and that an agent could
	// plant something in: an absolute path under a writable one, or a relative one
	// such as ".git/hooks" or ".mcp.json", which stands for that path in any folder
	// of the workspace. Those that exist at Start can only be read inside, and stay
	// where they are. One that does not exist yet cannot be protected from being
	// made: what is made there stays in the workspace, and [Session.Export] refuses
	// to carry it out. Nil means [DefaultProtect], which at Start is looked for at
	// the top of the workspace only; an empty list means none.
	Protect []string `json:"protect"`
	// TmpSize bounds /tmp in bytes. Zero means 256 MiB.
	TmpSize int64 `json:"tmp_size"`
}

// Process holds what the kernel keeps for every process inside.
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
	// MaxTotalMemory bounds the memory of the whole session in bytes, at least 16
	// MiB, and MaxCPU its processor time, in thousandths of a processor: 1500 is
	// one and a half. Both take a cgroup that is delegated to this process; Start
	// fails where there is none. Zero means no limit.
	MaxTotalMemory int64 `json:"max_total_memory,omitempty"`
	MaxCPU         int64 `json:"max_cpu,omitempty"`
	// Exec is empty or [ExecStrict].
	Exec ExecMode `json:"exec,omitempty"`
	// Programs are the only ones that may be executed inside, and the loaders that
	// they name (such as ld-linux-x86-64.so.2), as the kernel cannot tell the two
	// apart. Each is looked at by Start, and by digest where one is given; it lies
	// in a place that is only read, as do the interpreters of scripts, which have
	// to be listed too. Nil means any that can be read; an empty list is an error.
	//
	// A list says which programs run, not what they do: an interpreter that is
	// listed runs any script, and whoever can start a loader by hand can have it
	// map any program that can be read, which then runs under the loader's name,
	// not its own.
	Programs []Program `json:"programs,omitempty"`
}

// An ExecMode says what may become executable code inside.
type ExecMode string

// ExecStrict refuses code that was not a file of the session when it began:
// programs and libraries in writable places, memory files, and memory that was
// written and then becomes code. Compilers and runtimes that compile while they
// run (Node, Java, WebAssembly) do not work under it. What an interpreter reads
// is no code in this sense.
const ExecStrict ExecMode = "strict"

// A Program is an executable file, by its path inside, with every symbolic link
// resolved: what /proc/<pid>/exe shows. A path in a place that the session can
// write needs SHA256, as its content can be changed.
type Program struct {
	Path string `json:"path"`
	// SHA256 is the digest of the file in 64 lower-case hexadecimal digits; empty
	// means that the content does not matter.
	SHA256 string `json:"sha256,omitempty"`
}

// Environment holds the variables of every process inside, beside those that
// the session itself sets (HOME, PATH, the trust store). Nothing is inherited
// from the host: a value is text, and "${NAME}" in one is an error.
type Environment map[string]string

// Defaults and bounds of a policy.
const (
	defaultTmpSize      = 256 << 20
	defaultMaxProcesses = 512
	defaultMaxOpenFiles = 4096
	defaultMaxFileSize  = 4 << 30
	minMemory           = 256 << 20

	maxPolicyFile = 64 << 10
	maxPaths      = 256 // of each list
	maxPathLength = 4096 - 1
	maxVariables  = 128
	maxValue      = 32 << 10
	maxRules      = 1024
	maxPorts      = 64   // of one rule
	maxAllPorts   = 1024 // of a policy: one listener each
	maxPrograms   = 256  // of one list
	maxRequests   = 256  // of one rule: Rules and Deny together
	maxMethods    = 32
	maxGlob       = 2048
	maxDevices    = 64
	minTotal      = 16 << 20
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
