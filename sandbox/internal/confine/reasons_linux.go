//go:build linux && (amd64 || arm64)

package confine

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Why a room cannot be had, and what to do about it, where more than one place
// finds out: the two launchers, and the host and init.

const procHint = "a container that masks parts of /proc forbids this: start it with an unmasked /proc, or do without by Options.Tier = TierMaskedProc"

const cgroupHint = "give the host a delegated cgroup v2 subtree and put the host itself in a leaf of it, such as by " +
	"systemd-run --user --scope -p Delegate=yes, or name one in Options.Cgroup; or leave max_total_memory and max_cpu out"

func namespaceHint(err error) string {
	switch {
	case errors.Is(err, unix.ENOSPC):
		return "raise the sysctls user.max_user_namespaces, user.max_net_namespaces and so on"
	case errors.Is(err, unix.EPERM):
		return "allow unprivileged user namespaces: sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0, or a container profile that permits them"
	}
	return ""
}

var (
	errShared   = errors.New("the namespace is the host's")
	errReplaced = errors.New("the file was replaced or written to since it was checked")
)

// silent is why a handshake ended without an answer of init.
func silent(err error) error { return fmt.Errorf("init ended without a word: %w", err) }

// noListener is why denials of the filter are not seen.
func noListener(err error) string { return "the kernel gives no listener: " + err.Error() }

// oldLandlock is why a version of Landlock counts as none.
func oldLandlock(abi, first int, does string) error {
	return fmt.Errorf("the kernel's Landlock is version %d; %d is the first that %s", abi, first, does)
}

func canaryError(err error) error {
	return &LayerError{Layer: LayerLandlock, Step: "verify", Err: fmt.Errorf("a file that no rule covers can be opened (%v)", err)}
}
