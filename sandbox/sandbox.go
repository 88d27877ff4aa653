// Package sandbox confines a process, and resolves and polices every name that
// it reaches. It is the compute door of Twinward.
//
// Think of a [Session] as a small machine that is made for one agent. It has
// its own users, processes, network, host name and file system; nothing of the
// real machine is in it but what the [Policy] names. The machine is built by
// this process, without root, a daemon, a container engine or a helper program,
// in a few milliseconds, and it dies with this process.
//
// A session is its actor. Whatever a program inside sends to a name that is
// served by [Session.Handle] arrives with the actor that was given to [Start],
// so an agent needs no credential, and has none.
//
//	box, err := sandbox.Start(ctx, policy, actor, log, nil)
//	defer box.Close()
//	box.Handle("tools.local", gateway)
//	cmd := box.Command(ctx, "claude", "-p", "Summarise my open PRs")
//	cmd.Stdout = os.Stdout
//	err = cmd.Run()
//
// # What holds
//
// Every layer below is required unless [Options.Require] names fewer. Start
// fails with a [*LayerError] before anything runs when one cannot be had, and
// [Session.Report] lists those that were verified from inside.
//
//   - Seven namespaces. The user inside is nobody outside: the caller's own
//     user or, when the caller is root, a user id that exists for this session
//     only. It is never uid 0 of the host.
//   - A root file system of its own, built from detached mounts: read-only,
//     without set-id programs and devices, with a small /dev, a /proc that
//     shows only the session, a synthetic /etc and no /sys.
//   - Landlock, at the version of the kernel, says once more which files may be
//     read, written and truncated; from Linux 6.10 on, which devices may be
//     controlled; and from 6.12 on it cuts off signals and abstract sockets to
//     the outside, which the namespaces do in any case.
//   - A seccomp filter that allows what ordinary programs use and refuses the
//     rest: namespaces, mounts, tracing, keyrings, io_uring, raw sockets, set-id
//     bits, typing into the terminal.
//   - No capability in any set, no new privileges, limits on processes, files
//     and memory file systems, no core dumps.
//   - Nothing of the host's environment, and no descriptor but those that [Cmd]
//     names.
//   - A network in which every address leads to this process.
//
// What policy can ask for besides: [ExecStrict], under which nothing that was
// written inside ever becomes code; a list of the only programs that may be run;
// devices by name; limits of the session as a whole.
//
// # What is seen
//
// System calls that no honest program makes inside (mounts, namespaces, tracing,
// keyrings, raw sockets and the like) are put to this process by the kernel,
// which refuses them and records who tried. What Landlock refuses is recorded
// where the kernel's audit log is on and can be heard, which takes CAP_AUDIT_READ
// outside of any container; [Report.Unseen] says why it is not. Refusals that
// honest programs meet as well, such as clone3, are not recorded.
//
// # Lesser hosts
//
// [Probe] says what this host can have. A container that masks parts of its /proc
// leaves [TierMaskedProc], which the caller has to name. Without user namespaces,
// [TierNoNamespaces] makes a session of the host's own processes: it keeps files,
// signals and the network in, shows the host's paths, and can do less. Both stand
// in the report and in the record of the launch.
//
// # Files and terminals
//
// What an agent works on goes in with [Session.Import] and comes out with
// [Session.Export], which follow no link, and which keep inside what a tool of
// the host would act on by itself: hooks, settings of editors and agents. Where
// the host's own folder is the workspace ([Options.Workspace]), such places are
// read-only ([Filesystem.Protect]).
//
// A program that wants a terminal gets one of the session's ([Cmd.StartPty]). A
// terminal of the host is never handed in: what is written to one is copied, and
// one as input is an error. [Session.Report] says at any time what is in force,
// what was refused and what was used.
//
// # What does not hold
//
// The kernel is shared: a bug in it that the filter leaves reachable is a way
// out. CPU time and total memory are limited only where policy says so and a
// cgroup is delegated to this process. Where this process is not root, a session
// is the same user for the kernel, and what the kernel counts for a user as a whole
// (memory of pipes, descriptors on their way through Unix sockets) a program inside
// can use up for that user's other programs. What policy makes writable, a program may
// fill with anything, so treat a workspace that an agent has written as untrusted
// input. Before Linux 7.1 a Unix socket in a folder that policy shows leads to the
// service that listens on it, also when the folder is read-only: show no folder
// that holds one. A program that policy lets reach a host can send that host
// anything that it can read. Paths of a policy are those of the host at [Start]: what
// lies beneath a folder that another session may write is what that session left
// there.
//
// # Work inside
//
// What people do all day works inside as it does outside, with the tightest
// policy; tests hold it, as root and as an ordinary user: shells and job control,
// programs at a terminal, git, npm, Python, Node with its compiler and
// WebAssembly, Go, C, SQLite, gpg and ssh-keygen, thousands of files, servers that
// other programs of the session reach. Claude Code, Codex and opencode, as npm has
// them, do their turn with a model that [Session.Handle] serves. [Presets] open
// what a tool needs, and no more.
//
// What wants more than a program of an ordinary user may do, does not work:
// debuggers and tracers, sudo, ping, mounting, and sandboxes and containers
// within. Tell Chromium --no-sandbox and Codex
// --dangerously-bypass-approvals-and-sandbox, as this is the sandbox. Ports that
// the policy allows are the session's door: a server inside listens on others,
// such as 3000.
//
// # BENCHMARKS
//
// "bash .ci/bench" runs each comparison in turns inside one run. What was seen in
// six counts of one run on two quiet cores of an EPYC (Linux 6.18, 2026-11-29);
// ratios are of medians, two figures are the least and the most of the six:
//
//	                                            re-exec        vfork
//	start, /bin/true, close, ms                 12.4 to 14.1   4.1 to 4.6
//	the same; × bubblewrap (4.3 to 4.6 ms)      2.9 to 3.1     0.95 to 1.02
//	the same; × srt (273 to 281 ms)             0.045 to 0.050 0.015 to 0.016
//	the same, host with 1 GiB; × small host     4.1 to 4.6     0.88 to 1.11
//	Command of /bin/true; × plain exec          1.31 to 1.33   1.17 to 1.18
//	memory of an idle session, kB               2,710 to 3,020 24 to 28
//	download; × loopback                        0.40 to 0.59   0.42 to 0.59
//	upload; × loopback                          0.57 to 0.68   0.60 to 0.69
//	find /usr; × plain                          1.19 to 1.21   1.19 to 1.21
//	git; × plain                                1.01 to 1.04   0.99 to 1.03
//
// Of the faster tenth of starts, vfork has 0.87 to 0.91 times bubblewrap's time:
// two of its threads work at once, which a busy machine does not give it. A small
// HTTPS request on a kept connection takes 0.02 ms longer through the door, and 0.10
// ms longer where the door looks into it; on a new connection 0.35 to 0.44 ms, and
// nothing where the door looks into it, as it keeps its own connection. A change of
// the network takes effect within 0.1 ms (p99 0.8), connections cut included.
// Bubblewrap is given the same files and namespaces, and has no Landlock, filter or
// network. The memory is what is counted two seconds after the last command.
//
// How much less it could be was measured with a C program that does nothing but
// the system calls, in one process, and that looks at no result. Milliseconds of
// CPU of the kernel, each layer added to those above it:
//
//	/bin/true alone                               0.84
//	seven namespaces, made and ended              0.75
//	user and group of the room                    0.07
//	a root in memory, /usr in it, pivot           0.27
//	/proc, four parts of it read-only             0.10
//	/tmp, /dev/shm, /dev/pts                      0.10
//	six devices                                   0.15
//	eight files of /etc                           0.20
//	the roots of trust, 220 kB                    0.22
//	loopback, six listeners                       0.23
//	Landlock, 15 rules                            0.11
//	a filter of 400 instructions                  0.06
//	all of it                                     3.1    bubblewrap in the same run: 2.6
//
// So three quarters of bubblewrap's CPU time cannot be had with all layers: the
// kernel alone needs more than all of it. A session adds to it an init that stays, a
// second process for the command, the key of its authority (0.25), the program
// (0.4), checks that each layer is in force (0.35), and Go's scheduler (0.5). Of
// these the key and the program are made while the kernel makes the namespaces.
//
// # Systems
//
// Linux 6.2 or newer on amd64, with user namespaces and Landlock. The arm64
// lists are built but have not been run. Elsewhere the package compiles, and
// [Start] fails with [ErrUnsupported].
package sandbox

import (
	"errors"

	"github.com/twinward-dev/twinward/sandbox/internal/confine"
)

// A Layer is one wall of a session; see the package comment.
type Layer = confine.Layer

// The layers of a session, outermost first.
const (
	LayerUser       = confine.LayerUser
	LayerMount      = confine.LayerMount
	LayerPID        = confine.LayerPID
	LayerNet        = confine.LayerNet
	LayerIPC        = confine.LayerIPC
	LayerUTS        = confine.LayerUTS
	LayerCgroup     = confine.LayerCgroup
	LayerProc       = confine.LayerProc
	LayerIDMap      = confine.LayerIDMap // only when the host is root and gives a workspace or writable path
	LayerRlimits    = confine.LayerRlimits
	LayerNoNewPrivs = confine.LayerNoNewPrivs
	LayerCaps       = confine.LayerCaps
	LayerLandlock   = confine.LayerLandlock
	LayerSeccomp    = confine.LayerSeccomp
	LayerNetwork    = confine.LayerNetwork
)

// Layers returns all layers, outermost first.
func Layers() []Layer { return confine.Layers() }

// A LayerError says which layer could not be made, at which step and why, and
// what to do about it when that is known.
type LayerError = confine.LayerError

var (
	// ErrUnsupported is wrapped by errors on systems that cannot have a sandbox.
	ErrUnsupported = confine.ErrUnsupported
	// ErrEnded is wrapped by errors of a session that has ended.
	ErrEnded = confine.ErrEnded
	// ErrDenied is wrapped by the error of a command that policy does not allow.
	ErrDenied = errors.New("sandbox: denied by policy")
	// ErrNotFound is wrapped by the error of a command whose program does not
	// exist inside the session.
	ErrNotFound = errors.New("no such program inside the sandbox")
)

// Self is the path of this process's own executable inside a session that was
// started with [Options.Self].
const Self = confine.SelfPath
