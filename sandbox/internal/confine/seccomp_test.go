//go:build linux && (amd64 || arm64)

package confine

import (
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
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
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(i.K)
		case unix.BPF_RET | unix.BPF_K:
			return i.K
		default:
			t.Fatalf("instruction %d: unknown code %#x", pc, i.Code)
		}
	}
	t.Fatal("the program does not return")
	return 0
}

var updateVerdicts = flag.Bool("verdicts", false, "write the verdict tables in testdata anew")

// highest is beyond the newest number of any kernel that exists.
const highest = 600

// kinds are the variants that the tables have a column for.
var kinds = []struct {
	name string
	kind filterKind
}{
	{"default", filterKind{}}, {"files", filterKind{files: true}}, {"strict", filterKind{files: true, strict: true}}, {"shared", filterKind{shared: true}}, {"notify", filterKind{notify: true}},
}

// A room without namespaces has no datagrams, no port of its own, and nothing of
// other processes of its user.
func TestSharedFilterJudgesArguments(t *testing.T) {
	f := filter(filterKind{shared: true, notify: true})
	for _, c := range []struct {
		name string
		nr   uint32
		args []uint64
		want uint32
	}{
		{"tcp", unix.SYS_SOCKET, []uint64{unix.AF_INET, unix.SOCK_STREAM | unix.SOCK_NONBLOCK, unix.IPPROTO_TCP}, retAllow},
		{"udp", unix.SYS_SOCKET, []uint64{unix.AF_INET6, unix.SOCK_DGRAM, 0}, retEPERM},
		{"mptcp", unix.SYS_SOCKET, []uint64{unix.AF_INET, unix.SOCK_STREAM, 262}, retEPERM},
		{"unix stream", unix.SYS_SOCKET, []uint64{unix.AF_UNIX, unix.SOCK_STREAM | unix.SOCK_CLOEXEC, 0}, retAllow},
		{"unix datagrams", unix.SYS_SOCKET, []uint64{unix.AF_UNIX, unix.SOCK_DGRAM, 0}, retEPERM},
		{"the same by another name", unix.SYS_SOCKET, []uint64{high | unix.AF_UNIX, unix.SOCK_RAW | unix.SOCK_CLOEXEC, 0}, retEPERM},
		{"a pair of streams", unix.SYS_SOCKETPAIR, []uint64{unix.AF_UNIX, unix.SOCK_STREAM, 0}, retAllow},
		{"a pair of datagrams", unix.SYS_SOCKETPAIR, []uint64{unix.AF_UNIX, unix.SOCK_DGRAM, 0}, retEPERM},
		{"a pair of another family", unix.SYS_SOCKETPAIR, []uint64{unix.AF_INET, unix.SOCK_STREAM, 0}, retEPERM},
		{"route", unix.SYS_SOCKET, []uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE}, retEPERM},
		{"connect", unix.SYS_CONNECT, []uint64{3, 0, 0}, retNotify},
		{"bind", unix.SYS_BIND, []uint64{3, 0, 0}, retEPERM},
		{"listen", unix.SYS_LISTEN, []uint64{3, 0}, retEPERM},
		{"fast open", unix.SYS_SENDTO, []uint64{3, 0, 0, unix.MSG_FASTOPEN}, retEPERM},
		{"mode", unix.SYS_FCHMODAT, []uint64{0, 0, 0o755}, retNotify},
		{"mode with set-id", unix.SYS_FCHMOD, []uint64{3, 0o4755}, retEPERM},
		{"times", unix.SYS_UTIMENSAT, []uint64{0, 0, 0, 0}, retNotify},
		{"owner", unix.SYS_FCHOWN, []uint64{3, 0, 0}, retEPERM},
		{"attribute", unix.SYS_FSETXATTR, []uint64{3}, retNoAttr},
		{"limits", unix.SYS_PRLIMIT64, []uint64{0, 7}, retAllow},
		{"limits of another", unix.SYS_PRLIMIT64, []uint64{77, 7}, retEPERM},
		{"processors of another", unix.SYS_SCHED_SETAFFINITY, []uint64{77}, retEPERM},
		{"watch a folder", unix.SYS_INOTIFY_ADD_WATCH, []uint64{3}, retEPERM},
		{"an attack", unix.SYS_PTRACE, nil, retNotify},
	} {
		assert.Equal(t, c.want, judge(t, f, auditArch, c.nr, c.args...), c.name)
	}
}

// verdictOf names what a call meets: with arguments that no rule refuses and
// with some that one does, "arguments" stands for both.
func verdictOf(t testing.TB, k filterKind, f []unix.SockFilter, nr uint32) string {
	for _, r := range rulesOf(k) {
		if uint32(r.number) == nr {
			return "arguments"
		}
	}
	if nr == unix.SYS_SOCKET {
		return "arguments"
	}
	switch v := judge(t, f, auditArch, nr, ^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)); v {
	case retAllow:
		return "allow"
	case retEPERM:
		return "EPERM"
	case retENOSYS:
		return "ENOSYS"
	case retNoAttr:
		return "ENOTSUP"
	case retNotify:
		return "notify"
	default:
		return fmt.Sprintf("%#x", v)
	}
}

// TestFilterVerdicts judges every number there is and more, and compares with
// the tables in testdata, which are what a reader is told. After a change of the
// lists read what "go test -run FilterVerdicts -verdicts" changes in them.
func TestFilterVerdicts(t *testing.T) {
	path := "testdata/verdicts-" + runtime.GOARCH + ".tsv"
	names := map[string]string{}
	old, _ := os.ReadFile(path)
	for line := range strings.Lines(string(old)) {
		if f := strings.Fields(line); len(f) > 2 {
			names[f[0]] = f[1]
		}
	}
	var b strings.Builder
	b.WriteString("number\tname")
	for _, k := range kinds {
		b.WriteString("\t" + k.name)
	}
	b.WriteString("\n")
	filters := make([][]unix.SockFilter, len(kinds))
	for i, k := range kinds {
		filters[i] = filter(k.kind)
		t.Logf("%s: %d instructions", k.name, len(filters[i]))
		require.Less(t, len(filters[i]), 4096)
	}
	for nr := uint32(0); nr <= highest; nr++ {
		no := fmt.Sprint(nr)
		name := names[no]
		if name == "" {
			name = "-"
		}
		fmt.Fprintf(&b, "%s\t%s", no, name)
		for i, k := range kinds {
			fmt.Fprintf(&b, "\t%s", verdictOf(t, k.kind, filters[i], nr))
			for _, any := range []uint64{0, 1, ^uint64(0)} {
				assert.Equal(t, retENOSYS, judge(t, filters[i], auditArch, nr|1<<30, any, any, any, any, any, any), "x32 call %d", nr)
				assert.Equal(t, retENOSYS, judge(t, filters[i], otherArch, nr, any, any, any, any, any, any), "call %d of another instruction set", nr)
				if nr > newest {
					assert.Equal(t, retENOSYS, judge(t, filters[i], auditArch, nr, any, any, any, any, any, any), "call %d", nr)
				}
			}
		}
		b.WriteString("\n")
	}
	if *updateVerdicts {
		require.NoError(t, os.WriteFile(path, []byte(b.String()), 0o644))
	}
	assert.Equal(t, string(old), b.String())
	for _, nr := range []uint32{newest + 1, 900, 1 << 20, 1<<31 - 1, 1 << 31, ^uint32(0)} {
		assert.Equal(t, retENOSYS, judge(t, filters[0], auditArch, nr))
	}
}

// TestListsAreDisjoint finds a number on two lists, where one of them would lie.
func TestListsAreDisjoint(t *testing.T) {
	seen := map[uintptr]string{}
	put := func(list string, nr uintptr) {
		assert.Empty(t, seen[nr], "call %d is on %s too", nr, list)
		assert.LessOrEqual(t, nr, uintptr(newest))
		seen[nr] = list
	}
	inRules := map[uintptr]bool{unix.SYS_SOCKET: true}
	for _, r := range slices.Concat(commonRules, archRules) {
		put("rules", r.number)
		inRules[r.number] = true
	}
	for list, numbers := range map[string][]uintptr{"calls": slices.Concat(commonCalls, archCalls), "missing": missing, "attacks": slices.Concat(attacks, archAttacks)} {
		for _, nr := range numbers {
			put(list, nr)
		}
	}
	for _, nr := range slices.Concat(xattrCalls, archSharedCalls) {
		assert.Equal(t, "calls", seen[nr])
	}
	for _, nr := range attributeCalls {
		assert.Contains(t, []string{"calls", "rules"}, seen[nr])
	}
	for _, list := range [][]callRule{fileRules, strictRules, sharedRules} {
		for _, r := range list {
			assert.Equal(t, "calls", seen[r.number], "call %d is restricted further, so it has to be allowed to begin with", r.number)
		}
	}
	for _, nr := range sharedCalls {
		assert.Equal(t, "calls", seen[nr])
	}
}

const high = 1 << 40 // bits that the kernel does not look at

// argumentCases are calls that are allowed or not by their arguments.
var argumentCases = []struct {
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
	{"own limits", unix.SYS_PRLIMIT64, []uint64{0, unix.RLIMIT_NOFILE}, true},
	{"own limits with high bits", unix.SYS_PRLIMIT64, []uint64{high, unix.RLIMIT_NOFILE}, true},
	{"init's limits", unix.SYS_PRLIMIT64, []uint64{1, unix.RLIMIT_NOFILE}, false},
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
	{"trace system calls of the own", unix.SYS_PRCTL, []uint64{unix.PR_SET_SYSCALL_USER_DISPATCH}, true},
	{"core scheduling", unix.SYS_PRCTL, []uint64{unix.PR_SCHED_CORE}, false},
	{"an option from the future", unix.SYS_PRCTL, []uint64{500}, false},
	{"secure bits", unix.SYS_PRCTL, []uint64{unix.PR_SET_SECUREBITS}, false},
	{"delegation", unix.SYS_FCNTL, []uint64{3, 1040, 0}, false},
	{"fifo", unix.SYS_MKNODAT, []uint64{0, 0, unix.S_IFIFO | 0o644}, true},
	{"whiteout device", unix.SYS_MKNODAT, []uint64{0, 0, unix.S_IFCHR | 0o644, 0}, false},
	{"block device", unix.SYS_MKNODAT, []uint64{0, 0, unix.S_IFBLK | 0o644, 0x801}, false},
	{"send", unix.SYS_SENDTO, []uint64{3, 0, 0, unix.MSG_NOSIGNAL | unix.MSG_MORE}, true},
	{"fast open", unix.SYS_SENDTO, []uint64{3, 0, 0, unix.MSG_FASTOPEN | unix.MSG_NOSIGNAL}, false},
	{"fast open of a message", unix.SYS_SENDMSG, []uint64{3, 0, unix.MSG_FASTOPEN}, false},
	{"fast open of messages", unix.SYS_SENDMMSG, []uint64{3, 0, 1, high | unix.MSG_FASTOPEN}, false},
	{"move the heap", unix.SYS_PRCTL, []uint64{unix.PR_SET_MM}, false},
}

func TestFilterJudgesArguments(t *testing.T) {
	f := filter(filterKind{})
	for _, c := range argumentCases {
		want := retEPERM
		if c.allow {
			want = retAllow
		}
		assert.Equal(t, want, judge(t, f, auditArch, c.nr, c.args...), c.name)
	}
}

func init() {
	roles["make-refused-calls"] = func() {
		f := filter(filterKind{})
		call := func(nr uint32, args [6]uintptr) unix.Errno {
			_, _, errno := unix.RawSyscall6(uintptr(nr), args[0], args[1], args[2], args[3], args[4], args[5])
			return errno
		}
		for nr := uint32(0); nr <= highest; nr++ {
			if runtime.GOARCH == "amd64" && (nr == 335 || nr == 336) {
				continue // uretprobe and uprobe: the kernel lets no filter judge them, and kills who calls them by hand
			}
			if verdict := judge(nil, f, auditArch, nr); verdict&retErrno == retErrno && verdict != retAllow {
				fmt.Printf("%d: %v %v\n", nr, verdict&0xffff, int(call(nr, [6]uintptr{^uintptr(0), ^uintptr(0), ^uintptr(0), ^uintptr(0), ^uintptr(0), ^uintptr(0)})))
			}
		}
		for _, c := range argumentCases {
			if !c.allow {
				var args [6]uintptr
				for i, a := range c.args {
					args[i] = uintptr(a)
				}
				fmt.Printf("%s: %v %v\n", c.name, int(unix.EPERM), int(call(c.nr, args)))
			}
		}
		for family := range uint32(60) {
			for kind := range uint32(11) {
				for _, proto := range []uint64{0, 1, 6, 17, 132, 255, 262} {
					if judge(nil, f, auditArch, unix.SYS_SOCKET, uint64(family), uint64(kind), proto) == retEPERM {
						fmt.Printf("socket %d %d %d: %v %v\n", family, kind, proto, int(unix.EPERM), int(call(unix.SYS_SOCKET, [6]uintptr{uintptr(family), uintptr(kind), uintptr(proto)})))
					}
				}
			}
		}
	}
}

// TestKernelRefuses makes every call that the tables refuse, and sees the kernel
// give the very answer. Without the filter it gives others.
func TestKernelRefuses(t *testing.T) {
	under(t, func(t *testing.T, launch func(func(*Spec)) *Box) {
		found := findings(t, launch(nil), "make-refused-calls")
		require.Greater(t, len(found), 3000)
		for name, f := range found {
			want, got, _ := strings.Cut(f, " ")
			assert.Equal(t, want, got, name)
		}
	})
}

// FuzzFilter checks that no arguments lead the program astray.
func FuzzFilter(f *testing.F) {
	prog := filter(filterKind{})
	f.Add(uint32(auditArch), uint32(unix.SYS_SOCKET), uint64(2), uint64(1), uint64(0), uint64(0))
	f.Fuzz(func(t *testing.T, arch, nr uint32, a, b, c, d uint64) {
		v := judge(t, prog, arch, nr, a, b, c, d)
		assert.Contains(t, []uint32{retAllow, retEPERM, retENOSYS}, v)
		if shared := judge(t, filter(filterKind{shared: true}), arch, nr, a, b, c, d); arch == auditArch && filterKind.asks(filterKind{shared: true}, uintptr(nr)) {
			assert.Contains(t, []uint32{retNotify, retEPERM}, shared, "what the host is to do never happens by itself")
		}
		// A variant only refuses more, and tells only of what is refused anyway.
		for _, k := range kinds[1:] {
			kv := judge(t, filter(k.kind), arch, nr, a, b, c, d)
			if kv == retAllow {
				assert.Equal(t, uint32(retAllow), v, k.name)
			}
			if kv == retNotify && !k.kind.asks(uintptr(nr)) {
				assert.Equal(t, retEPERM, v)
			}
		}
		if arch != auditArch {
			assert.Equal(t, retENOSYS, v)
		}
	})
}
