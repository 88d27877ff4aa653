package confine

import "golang.org/x/sys/unix"

// otherArch is what calls of 32-bit programs come from.
const otherArch = unix.AUDIT_ARCH_ARM
