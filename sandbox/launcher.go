package sandbox

import "github.com/twinward-dev/twinward/sandbox/internal/confine"

// A Launcher is a way to start a session. Both make the same session from the
// same layers.
type Launcher = confine.Launcher

const (
	// LauncherReexec executes the host program again, which confines itself. It is
	// the default. Its cost grows with the memory of the host and with what the
	// program does in its init functions.
	LauncherReexec = confine.LauncherReexec
	// LauncherVfork prepares every system call beforehand and has a small child
	// execute them. It starts faster, at a cost that does not depend on the host,
	// and leaves some kilobytes of memory in the session instead of a Go program.
	// It has not been run on arm64. With max_total_memory the child shares the
	// host's memory for some milliseconds in a control group of the session: where
	// the group above that has a bound of its own and reaches it just then, the
	// kernel may kill the host. Use LauncherReexec there.
	LauncherVfork = confine.LauncherVfork
)
