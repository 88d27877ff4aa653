// Package confine builds the room that a sandboxed program lives in, keeps it
// alive, and runs commands inside.
//
// There are two launchers, which take the same steps in the same order.
//
// [LauncherReexec]: the host program is executed again as pid 1 of new
// namespaces. That process, "init", does all the work that needs privileges
// inside its own user namespace, in Go (root_linux.go, init_linux.go): it builds
// a new root from detached mounts, brings up a network that leads nowhere but to
// listeners which it hands back to the host, and then gives every privilege up.
// From then on it only forks on request. The one thread that forks commands has
// walked through every layer first (rlimits, no_new_privs, capabilities,
// Landlock, seccomp), so whatever it starts is born confined.
//
// [LauncherVfork]: the host writes the same steps down as a program of system
// calls (steps_root_linux.go, steps_init_linux.go). A child that shares the
// host's memory executes it by a loop of assembly (machine_linux.go), alone in
// its namespaces, and then becomes an executable of two pages that consists of
// that loop and a program of its own: a leader that reaps, and a thread inside
// all layers that runs the small programs which the host sends (command_linux.go).
//
// What a layer consists of (mounts, rules, filter, limits, messages) is data
// that both read. TestLaunchersMakeTheSameRoom compares what they make.
//
// A room of [TierNoNamespaces], which the first launcher makes, is built of less:
// see shared_linux.go.
//
// Three properties hold the design together:
//
//   - Nothing in the environment or the arguments can turn a program into init
//     (of the first launcher): it takes a sealed memory file and a socket that carries the same nonce,
//     both inherited at fixed descriptors (see hook_linux.go).
//   - All mounts are made from descriptors that were opened before the new root
//     was attached, without following symbolic links, so there is no path for a
//     workload to race.
//   - The room dies with its host: init is killed with the thread that started
//     it, it exits when its control socket closes, and the kernel kills
//     everything in a pid namespace whose pid 1 is gone.
//
// Only Linux on amd64 and arm64 is implemented; elsewhere [Launch] fails with
// [ErrUnsupported]. The arm64 tables are built and not run.
package confine

import (
	"errors"
	"fmt"
	"net"
	"time"
)

// A Layer is one independent wall of the room.
type Layer string

const (
	LayerUser       Layer = "user-namespace"
	LayerMount      Layer = "mount-namespace"
	LayerPID        Layer = "pid-namespace"
	LayerNet        Layer = "net-namespace"
	LayerIPC        Layer = "ipc-namespace"
	LayerUTS        Layer = "uts-namespace"
	LayerCgroup     Layer = "cgroup-namespace"
	LayerProc       Layer = "proc"              // a fresh /proc that shows only the room
	LayerIDMap      Layer = "idmapped-mount"    // needed when the host is root and the workspace is not new
	LayerRlimits    Layer = "rlimits"           // processes, files, core dumps
	LayerNoNewPrivs Layer = "no-new-privileges" // set-id programs gain nothing
	LayerCaps       Layer = "capabilities"      // all sets and the bounding set are empty
	LayerLandlock   Layer = "landlock"
	LayerSeccomp    Layer = "seccomp"
	LayerNetwork    Layer = "egress-listeners" // every address lands on the host's listeners
)

// Layers returns all layers, outermost first.
func Layers() []Layer {
	return []Layer{
		LayerUser, LayerMount, LayerPID, LayerNet, LayerIPC, LayerUTS, LayerCgroup,
		LayerProc, LayerIDMap, LayerRlimits, LayerNoNewPrivs, LayerCaps, LayerLandlock, LayerSeccomp, LayerNetwork,
	}
}

// ErrUnsupported is wrapped by every error that says this system cannot have a
// sandbox at all.
var ErrUnsupported = errors.New("unsupported on this system")

// ErrEnded is wrapped by errors about a room that is gone.
var ErrEnded = errors.New("the sandbox has ended")

// ErrAbandoned is wrapped by the error of a command for which nobody waits any more.
var ErrAbandoned = errors.New("given up before it was started")

// A LayerError says which layer could not be made, at which step, and what to
// do about it.
type LayerError struct {
	Layer Layer
	Step  string // such as "mount /usr"
	Err   error
	Hint  string // the way out, may be empty
}

func (e *LayerError) Error() string {
	s := "layer " + string(e.Layer)
	if e.Step != "" {
		s += ": " + e.Step
	}
	s += fmt.Sprintf(": %v", e.Err)
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

func (e *LayerError) Unwrap() error { return e.Err }

// A Bind shows a host path inside the room, at the same place. Symbolic links in
// the path exist inside as well.
type Bind struct {
	Source   string
	Writable bool `json:",omitempty"`
	// Optional binds are left out when the source does not exist.
	Optional bool `json:",omitempty"`
}

// A File is made by init on the read-only root.
type File struct {
	Path string
	// Source, if set, is a regular file of the host that Data follows. Nothing of
	// it is read into memory.
	Source string `json:",omitempty"`
	Data   []byte `json:"-"` // travels beside the JSON
}

// Limits are the resource limits of each process in the room; zero means the
// default that [Launch] documents.
type Limits struct {
	Processes uint64 // RLIMIT_NPROC of the whole room, default 512
	OpenFiles uint64 // RLIMIT_NOFILE, default 4096
	FileSize  uint64 // RLIMIT_FSIZE in bytes, default unlimited
	Data      uint64 // RLIMIT_DATA in bytes, default unlimited; init lives under it too
}

// A Launcher is a way to start a room.
type Launcher string

const (
	// LauncherReexec executes the host program again, which builds the room in Go.
	LauncherReexec Launcher = "re-exec"
	// LauncherVfork prepares all system calls and has a child execute them that
	// shares the host's memory; see machine_linux.go.
	LauncherVfork Launcher = "vfork"
)

// A Spec describes one room.
type Spec struct {
	// Launcher is how the room is started; "" means LauncherReexec.
	Launcher  Launcher `json:",omitempty"`
	Hostname  string
	Binds     []Bind
	Workspace string // host directory that is /sandbox inside
	Files     []File
	// MoreFiles, if set, makes files that follow Files, for what takes a moment to
	// make: Launch calls it once, while the kernel makes the room's namespaces.
	MoreFiles func() ([]File, error) `json:"-"`
	// Protect are paths beneath the workspace, which exist and do not lead through
	// a symbolic link. They are read-only, and stay where they are.
	Protect []string `json:",omitempty"`
	// OwnWorkspace says that the workspace was made for this room: a host that is
	// root may give it away.
	OwnWorkspace bool
	// TmpSize and ShmSize limit /tmp and /dev/shm, in bytes; defaults 1 GiB and 64 MiB.
	TmpSize, ShmSize uint64
	// Ports are the TCP ports on which every address answers; port 53, UDP and
	// TCP, is always added. At most [MaxPorts].
	Ports  []uint16
	Limits Limits
	// Env is the environment of every command, before its own.
	Env []string
	// Self shows the host's own executable at [SelfPath].
	Self bool
	// ExecStrict refuses to run what was written inside, and to map as code what
	// was written in memory: no compiler, no just-in-time compiler.
	ExecStrict bool `json:",omitempty"`
	// OneWay says that what is shown read-only must not be writable by another way.
	// ExecStrict and Programs imply it.
	OneWay bool `json:",omitempty"`
	// Programs, unless nil, are the only files that may be run, so none that was
	// written inside. Code in memory stays allowed unless ExecStrict.
	Programs []Program
	// Tier names what the room does without.
	Tier Tier `json:",omitempty"`
	// Side is a directory for a room of [TierNoNamespaces], made by the caller and
	// removed by him: its tmp is writable inside, and its etc can be read. ProxyPort
	// is where such a room finds, on loopback, the host's listener of that port in
	// [Listeners]: the one place that it can connect to.
	Side      string `json:",omitempty"`
	ProxyPort uint16 `json:",omitempty"`
	// Total are limits of the whole room, which take a delegated cgroup.
	Total TotalLimits
	// Devices are nodes besides the usual ones: "gpu", or paths under /dev.
	Devices []string `json:",omitempty"`
	// GPU is set by Launch when "gpu" is among Devices.
	GPU bool `json:",omitempty"`
	// OnDenial, if set, is told of attempts that the kernel stopped and reports. It
	// must not block.
	OnDenial func(Denial) `json:"-"`
	// Optional names the layers that may be missing.
	Optional []Layer
	// Without names layers to leave out. It exists for the tests that prove
	// each layer's worth; no caller outside this module can reach it.
	Without []Layer
}

// MaxPorts is how many ports a Spec can list: one listener each.
const MaxPorts = 1024

// SelfPath is where the host's own executable appears.
const SelfPath = "/run/twinward/self"

// The identity of every workload inside.
const (
	UID  = 1000
	GID  = 1000
	User = "sandbox"
	Home = "/sandbox"
)

// A Report is what init found about itself after it was confined.
type Report struct {
	Layers      []Layer
	LandlockABI int
	Tier        Tier
	// Status holds lines of /proc/thread-self/status of the thread that starts
	// commands, such as NoNewPrivs, CapEff and Seccomp.
	Status map[string]string
	// Namespaces maps the kind ("user", "net", …) to the inode of the namespace.
	Namespaces map[string]string
	// UID is the user as the host kernel sees it; never 0.
	UID int
	// Unseen says, for a layer whose denials the kernel would report, why it does
	// not report them here.
	Unseen map[Layer]string
}

// Listeners are sockets of the room's network, served by the host.
type Listeners struct {
	TCP    map[uint16]net.Listener
	DNSUDP net.PacketConn
	DNSTCP net.Listener
}

// An Exec is a request to run one command.
type Exec struct {
	Path string
	Args []string
	Dir  string
	Env  []string
	// Terminal makes descriptor 0, which [Box.Pty] made, the terminal that
	// controls the command's session.
	Terminal bool `json:",omitempty"`
	// Done, if closed before the command was started, makes [Box.Exec] return
	// [ErrAbandoned]. A command that is started all the same is killed.
	Done <-chan struct{} `json:"-"`
}

// An Exit says how a command ended.
type Exit struct {
	Code     int // -1 when killed by a signal
	Signal   int // 0 unless killed by a signal
	CoreDump bool
	// Lost is set when the room ended before the command's end was reported.
	Lost             bool
	UserTime, System time.Duration
	MaxRSS           int64 // kilobytes
}

// An ExecError says why a command could not be started.
type ExecError struct {
	Path string
	Err  error
}

func (e *ExecError) Error() string { return "exec " + e.Path + ": " + e.Err.Error() }
func (e *ExecError) Unwrap() error { return e.Err }
