package confine

import "golang.org/x/sys/unix"

// The arm64 lists are built and checked for consistency, and have not been run.

const auditArch = unix.AUDIT_ARCH_AARCH64

// arm64 has only the common calls.
var (
	archCalls, archAttacks, archAttributeCalls, archSharedCalls []uintptr
	archRules                                                   []callRule
)
