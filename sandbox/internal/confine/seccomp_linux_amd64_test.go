package confine

import "golang.org/x/sys/unix"

// otherArch is what calls by int 0x80 come from.
const otherArch = unix.AUDIT_ARCH_I386
