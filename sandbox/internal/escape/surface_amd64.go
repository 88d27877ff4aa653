//go:build linux

package escape

import (
	"errors"
	"fmt"
	"runtime/debug"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func archProbes(add func(name, how string, stops []string, try func(Target) error)) {
	filter := []string{seccomp}
	add("open: set-id", "open(2) with O_CREAT", filter, refused(unix.SYS_OPEN, bad, unix.O_CREAT, 0o4755))
	add("creat: set-id", "creat(2)", filter, refused(unix.SYS_CREAT, bad, 0o4755))
	add("chmod: set-id", "chmod(2)", filter, refused(unix.SYS_CHMOD, bad, 0o6755))
	add("mkdir: set-id", "mkdir(2)", filter, refused(unix.SYS_MKDIR, bad, 0o2755))
	add("mknod: set-id", "mknod(2)", filter, refused(unix.SYS_MKNOD, bad, 0o104755, 0))
	add("the x32 numbers", "getpid(2) as x32 has it", filter, refused(1<<30|unix.SYS_GETPID))
	add("the x32 numbers of its own", "x32's execve", filter, refused(1<<30|520, bad, bad, bad))
	add("the i386 numbers", "int 0x80: getpid", filter, func(Target) error { return int80(20) })
	add("the i386 numbers: mount", "int 0x80, with no path", filter, func(Target) error {
		if err := int80(21); errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSYS) {
			return err
		}
		return nil
	})
}

// int80 makes a call of the 32-bit instruction set, from code that it writes
// for the purpose, with whatever arguments are in the registers. It returns the
// call's error, or nil. A kernel that was built without that set faults, which
// [Probe.Try] reports as blocked.
func int80(nr byte) error {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	code, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return fmt.Errorf("no executable memory: %w", err)
	}
	// push rbx; xor ebx, ebx; xor ecx, ecx; xor edx, edx; xor esi, esi; xor edi, edi
	// mov eax, nr; int 0x80; movsxd rax, eax; pop rbx; ret
	copy(code, []byte{0x53, 0x31, 0xdb, 0x31, 0xc9, 0x31, 0xd2, 0x31, 0xf6, 0x31, 0xff, 0xb8, nr, 0, 0, 0, 0xcd, 0x80, 0x48, 0x63, 0xc0, 0x5b, 0xc3})
	entry := uintptr(unsafe.Pointer(&code[0]))
	fn := &entry
	r := (*(*func() int)(unsafe.Pointer(&fn)))()
	if r < 0 {
		return syscall.Errno(-r)
	}
	return nil
}
