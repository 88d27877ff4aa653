//go:build linux && (amd64 || arm64)

package confine

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// judge runs the filter as the kernel does and returns its verdict.
func judge(t testing.TB, f []unix.SockFilter, arch, nr uint32, args ...uint64) uint32 {
	data := make([]byte, 64)
	binary.LittleEndian.PutUint32(data[offNumber:], nr)
	binary.LittleEndian.PutUint32(data[offArch:], arch)
	for i, a := range args {
		binary.LittleEndian.PutUint64(data[offArgs+8*i:], a)
	}
	var acc uint32
	for pc := 0; pc < len(f); pc++ {
		i := f[pc]
		jump := func(yes bool) {
			if yes {
				pc += int(i.Jt)
			} else {
				pc += int(i.Jf)
			}
		}
		switch i.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			acc = binary.LittleEndian.Uint32(data[i.K:])
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= i.K
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump(acc == i.K)
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			jump(acc > i.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jump(acc >= i.K)
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			jump(acc&i.K != 0)
		case unix.BPF_RET | unix.BPF_K:
			return i.K
		default:
			t.Fatalf("instruction %d: unknown code %#x", pc, i.Code)
		}
	}
	t.Fatal("the program does not return")
	return 0
}

// TestFilterMatchesLists judges every number twice over: the verdict is what
// the lists say, and nothing is on two lists.
func TestFilterMatchesLists(t *testing.T) {
	f := filter(filterKind{})
	t.Logf("%d instructions", len(f))
	require.Less(t, len(f), 4096)
	want := map[uint32]uint32{}
	put := func(nr uintptr, verdict uint32) {
		require.NotContains(t, want, uint32(nr), "call %d is on two lists", nr)
		require.LessOrEqual(t, nr, uintptr(newest))
		want[uint32(nr)] = verdict
	}
	for _, nr := range append(slices.Clone(commonCalls), archCalls...) {
		put(nr, retAllow)
	}
	for _, nr := range missing {
		put(nr, retENOSYS)
	}
	byArgs := map[uint32]bool{unix.SYS_SOCKET: true}
	for _, r := range append(slices.Clone(commonRules), archRules...) {
		require.NotContains(t, want, uint32(r.number))
		byArgs[uint32(r.number)] = true
	}
	for nr := uint32(0); nr <= newest; nr++ {
		if byArgs[nr] {
			continue
		}
		verdict, ok := want[nr]
		if !ok {
			verdict = retEPERM
		}
		assert.Equal(t, verdict, judge(t, f, auditArch, nr), "call %d", nr)
		assert.Equal(t, retENOSYS, judge(t, f, auditArch, nr|1<<30), "x32 call %d", nr)
		assert.Equal(t, retENOSYS, judge(t, f, unix.AUDIT_ARCH_I386, nr), "i386 call %d", nr)
	}
	for _, nr := range []uint32{newest + 1, 900, 1 << 20, ^uint32(0)} {
		assert.Equal(t, retENOSYS, judge(t, f, auditArch, nr))
	}
}

func TestFilterJudgesArguments(t *testing.T) {
	f := filter(filterKind{})
	const high = 1 << 40 // bits that the kernel does not look at
	for _, c := range []struct {
		name  string
		nr    uint32
		args  []uint64
		allow bool
	}{
		{"thread", unix.SYS_CLONE, []uint64{unix.CLONE_VM | unix.CLONE_THREAD | unix.CLONE_SIGHAND}, true},
		{"vfork with exit signal", unix.SYS_CLONE, []uint64{unix.CLONE_VFORK | unix.CLONE_VM | uint64(unix.SIGCHLD)}, true},
		{"user namespace among others", unix.SYS_CLONE, []uint64{unix.CLONE_VM | unix.CLONE_NEWUSER}, false},
		{"unshare files", unix.SYS_UNSHARE, []uint64{unix.CLONE_FILES}, true},
		{"unshare time", unix.SYS_UNSHARE, []uint64{0x80}, false},
		{"tcp", unix.SYS_SOCKET, []uint64{unix.AF_INET, unix.SOCK_STREAM | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK, 0}, true},
		{"udp6", unix.SYS_SOCKET, []uint64{unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP}, true},
		{"mptcp", unix.SYS_SOCKET, []uint64{unix.AF_INET, unix.SOCK_STREAM, 262}, false},
		{"raw", unix.SYS_SOCKET, []uint64{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_TCP}, false},
		{"raw hidden in flags", unix.SYS_SOCKET, []uint64{unix.AF_INET6, unix.SOCK_RAW | unix.SOCK_CLOEXEC, 0}, false},
		{"unix", unix.SYS_SOCKET, []uint64{unix.AF_UNIX, unix.SOCK_SEQPACKET, 0}, true},
		{"route", unix.SYS_SOCKET, []uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE}, true},
		{"other netlink", unix.SYS_SOCKET, []uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_SOCK_DIAG}, false},
		{"packet", unix.SYS_SOCKET, []uint64{unix.AF_PACKET, unix.SOCK_DGRAM, 0}, false},
		{"packet with high bits", unix.SYS_SOCKET, []uint64{high | unix.AF_PACKET, unix.SOCK_STREAM, 0}, false},
		{"open for reading, mode is rubbish", unix.SYS_OPENAT, []uint64{0, 0, unix.O_RDONLY, 0o6777}, true},
		{"create", unix.SYS_OPENAT, []uint64{0, 0, unix.O_CREAT | unix.O_WRONLY, 0o1777}, true},
		{"create set-id", unix.SYS_OPENAT, []uint64{0, 0, unix.O_CREAT, 0o2755}, false},
		{"temporary directory, not a file", unix.SYS_OPENAT, []uint64{0, 0, unix.O_DIRECTORY, 0o6777}, true},
		{"lock a file", unix.SYS_FCNTL, []uint64{3, unix.F_SETLK}, true},
		{"lease a file", unix.SYS_FCNTL, []uint64{3, unix.F_SETLEASE, unix.F_WRLCK}, false},
		{"exchange two files", unix.SYS_RENAMEAT2, []uint64{0, 0, 0, 0, unix.RENAME_EXCHANGE}, true},
		{"leave a whiteout device", unix.SYS_RENAMEAT2, []uint64{0, 0, 0, 0, unix.RENAME_NOREPLACE | unix.RENAME_WHITEOUT}, false},
		{"terminal size", unix.SYS_IOCTL, []uint64{0, unix.TIOCGWINSZ}, true},
		{"type into the terminal", unix.SYS_IOCTL, []uint64{0, unix.TIOCSTI}, false},
		{"the same with high bits", unix.SYS_IOCTL, []uint64{0, high | unix.TIOCSTI}, false},
		{"filter", unix.SYS_SECCOMP, []uint64{1, 0}, true},
		{"filter with listener and more", unix.SYS_SECCOMP, []uint64{1, 0x8 | 0x1}, false},
		{"ask personality", unix.SYS_PERSONALITY, []uint64{0xffffffff}, true},
		{"no randomisation", unix.SYS_PERSONALITY, []uint64{0x0040000}, false},
		{"name a thread", unix.SYS_PRCTL, []uint64{unix.PR_SET_NAME}, true},
		{"move the heap", unix.SYS_PRCTL, []uint64{unix.PR_SET_MM}, false},
	} {
		want := retEPERM
		if c.allow {
			want = retAllow
		}
		assert.Equal(t, want, judge(t, f, auditArch, c.nr, c.args...), c.name)
	}
}

// FuzzFilter checks that no arguments lead the program astray.
func FuzzFilter(f *testing.F) {
	prog := filter(filterKind{})
	f.Add(uint32(auditArch), uint32(unix.SYS_SOCKET), uint64(2), uint64(1), uint64(0), uint64(0))
	f.Fuzz(func(t *testing.T, arch, nr uint32, a, b, c, d uint64) {
		v := judge(t, prog, arch, nr, a, b, c, d)
		assert.Contains(t, []uint32{retAllow, retEPERM, retENOSYS}, v)
		if arch != auditArch {
			assert.Equal(t, retENOSYS, v)
		}
	})
}
