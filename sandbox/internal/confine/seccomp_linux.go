//go:build linux && (amd64 || arm64)

package confine

import (
	"fmt"
	"slices"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system call filter is an allow-list. A call that is on no list is refused
// with EPERM, one that this module has never heard of with ENOSYS, so that
// programs take the way around that they keep for old kernels. A few calls are
// allowed or not by their arguments; only arguments that the kernel reads from
// registers can be judged, so calls that pass a structure in memory where it
// matters (clone3, openat2) answer ENOSYS.
//
// Calls of another instruction set (int 0x80, x32) have other numbers for the
// same calls and are refused as a whole.

// The layout of struct seccomp_data.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16 // six of eight bytes, low half first on both architectures
)

// Return values of a filter (linux/seccomp.h).
const (
	retAllow  = 0x7fff0000
	retNotify = uint32(0x7fc00000)
	retErrno  = 0x00050000
)

var (
	retEPERM  = uint32(retErrno | uint32(unix.EPERM))
	retNoAttr = uint32(retErrno | uint32(unix.ENOTSUP)) // what file systems without extended attributes say
	retENOSYS = uint32(retErrno | uint32(unix.ENOSYS))
)

// A test looks at one argument of a call. It refuses when the masked argument
// equals one of values, or, inverted, when it equals none of them.
type test struct {
	arg    int
	mask   uint32 // of the low half
	values []uint32
	invert bool
	// only, when its mask is set, limits the test to calls where another masked
	// argument is not zero.
	onlyArg  int
	onlyMask uint32
}

// anyBit refuses when an argument has a bit of mask.
func anyBit(arg int, mask uint32) test {
	return test{arg: arg, mask: mask, values: []uint32{0}, invert: true}
}

// oneOf refuses unless an argument is one of values.
func oneOf(arg int, mask uint32, values ...uint32) test {
	return test{arg: arg, mask: mask, values: values, invert: true}
}

// noneOf refuses when an argument is one of values.
func noneOf(arg int, values ...uint32) test {
	return test{arg: arg, mask: ^uint32(0), values: values}
}

// createMode refuses set-id bits in the mode of a call that creates a file.
func createMode(flags, mode int) test {
	t := anyBit(mode, setID)
	t.onlyArg, t.onlyMask = flags, creates
	return t
}

// A program is a filter being written.
type program []unix.SockFilter

func (p *program) stmt(code uint16, k uint32) { *p = append(*p, unix.SockFilter{Code: code, K: k}) }

func (p *program) jump(code uint16, k uint32, yes, no int) {
	if yes > 255 || no > 255 {
		panic("confine: seccomp jump too far")
	}
	*p = append(*p, unix.SockFilter{Code: unix.BPF_JMP | code | unix.BPF_K, Jt: uint8(yes), Jf: uint8(no), K: k})
}

func (p *program) load(off uint32) { p.stmt(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, off) }
func (p *program) ret(v uint32)    { p.stmt(unix.BPF_RET|unix.BPF_K, v) }

// A filterKind says which of the filter's variants a room has.
type filterKind struct {
	files  bool // no file that was written inside is run
	strict bool // and no memory that was written becomes code
	shared bool // the room shares namespaces with the host: what they would keep apart is refused
	notify bool // the host is told of attacks, see notify_linux.go
}

// asks reports whether a call is put to the host, which does it in the caller's
// place or refuses: see shared_calls_linux.go.
func (k filterKind) asks(nr uintptr) bool {
	return k.shared && (nr == unix.SYS_CONNECT || slices.Contains(attributeCalls, nr))
}

// refusal is what the filter answers to a call that no honest program makes.
func (k filterKind) refusal() uint32 {
	if k.notify {
		return retNotify
	}
	return retEPERM
}

// assembled are the filters that were asked for so far. They depend on nothing
// but the kind, and nobody changes them.
var assembled sync.Map // filterKind → []unix.SockFilter

// filter returns the filter of a kind, not to be changed.
func filter(k filterKind) []unix.SockFilter {
	f, ok := assembled.Load(k)
	if !ok {
		f, _ = assembled.LoadOrStore(k, []unix.SockFilter(assemble(k)))
	}
	return f.([]unix.SockFilter)
}

// assemble writes the whole list for this architecture. When a filter is
// installed, the kernel walks it once for every number there is, to find out
// which calls it need not ask about again. So it is a search tree: as a list it
// took 0.26 ms to install, and takes 0.15 so.
func assemble(k filterKind) program {
	p := make(program, 0, 512)
	p.load(offArch)
	p.jump(unix.BPF_JEQ, auditArch, 1, 0)
	p.ret(retENOSYS)
	p.load(offNumber)
	// Also turns away x32, whose numbers start at 1<<30.
	p.jump(unix.BPF_JGT, newest, 0, 1)
	p.ret(retENOSYS)
	p.tree(segments(k))
	return p
}

// A segment is a run of calls, from one number to before the next segment's,
// that one block of instructions judges. A block always ends in a return.
type segment struct {
	from  uint32
	block program
}

// segments returns what is said of each number from zero to newest.
func segments(k filterKind) []segment {
	verdict := func(v uint32) program { return program{{Code: unix.BPF_RET | unix.BPF_K, K: v}} }
	blocks := []program{verdict(retEPERM), verdict(retAllow), verdict(retENOSYS)}
	const refused, allowed, unknown = 0, 1, 2
	var of [newest + 1]int // blocks; what is set later counts
	add := func(nr uintptr, block program) {
		of[nr] = len(blocks)
		blocks = append(blocks, block)
	}
	if k.notify {
		blocks = append(blocks, verdict(retNotify))
		for _, list := range [][]uintptr{attacks, archAttacks} {
			for _, nr := range list {
				of[nr] = len(blocks) - 1
			}
		}
	}
	for _, nr := range callsOf(k) {
		of[nr] = allowed
	}
	if k.shared {
		asked, none := verdict(retNotify), verdict(retNoAttr)
		for _, nr := range []uintptr{unix.SYS_CONNECT, unix.SYS_UTIMENSAT} {
			add(nr, asked)
		}
		for _, nr := range xattrCalls {
			add(nr, none)
		}
	}
	add(unix.SYS_SOCKET, socketBlock(k))
	for _, r := range rulesOf(k) {
		refusal, pass := retEPERM, uint32(retAllow)
		if r.attack {
			refusal = k.refusal()
		}
		if k.asks(r.number) {
			pass = retNotify
		}
		add(r.number, r.assemble(refusal, pass))
	}
	for _, nr := range missing {
		of[nr] = unknown
	}
	var out []segment
	for nr, b := range of {
		if nr == 0 || b != of[nr-1] {
			out = append(out, segment{uint32(nr), blocks[b]})
		}
	}
	return out
}

// tree appends the search for the segment that the number in the accumulator
// belongs to.
func (p *program) tree(s []segment) {
	if len(s) == 1 {
		*p = append(*p, s[0].block...)
		return
	}
	at, half := len(*p), len(s)/2
	p.jump(unix.BPF_JGE, s[half].from, 0, 0)
	p.tree(s[:half])
	n := len(*p) - at - 1
	if n <= 255 {
		(*p)[at].Jt = uint8(n)
	} else { // conditional jumps are short
		(*p)[at].Jf = 1
		*p = slices.Insert(*p, at+1, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(n)})
	}
	p.tree(s[half:])
}

// assemble returns instructions that always end in a return: of pass, when the
// call passes all tests.
func (r callRule) assemble(refusal, pass uint32) program {
	var p program
	for _, t := range r.tests {
		var body program
		body.load(uint32(offArgs + 8*t.arg))
		if t.mask != ^uint32(0) {
			body.stmt(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, t.mask)
		}
		// A list of equalities; what lies behind it is the refusal, or the
		// refusal lies behind a jump over it.
		n := len(t.values)
		for i, v := range t.values {
			if t.invert {
				body.jump(unix.BPF_JEQ, v, n-i, 0) // found: over the refusal
			} else {
				last := i == n-1
				no := 0
				if last {
					no = 1
				}
				body.jump(unix.BPF_JEQ, v, n-1-i, no) // found: to the refusal
			}
		}
		body.ret(refusal)
		if t.onlyMask != 0 {
			p.load(uint32(offArgs + 8*t.onlyArg))
			p.jump(unix.BPF_JSET, t.onlyMask, 0, len(body))
		}
		p = append(p, body...)
	}
	p.ret(pass)
	return p
}

// socketBlock allows Unix sockets, TCP and UDP over IP, and routing netlink:
// no raw or packet sockets, no MPTCP (which Landlock and proxies do not see),
// and none of the forty other families. A room in the host's network has TCP
// alone, which connects only by way of the host, and no datagrams at all: those
// carry an address with each message, where no filter can see it.
func socketBlock(k filterKind) program {
	const kind = 0xf // without SOCK_CLOEXEC and SOCK_NONBLOCK
	kinds, protocols := []uint32{unix.SOCK_STREAM, unix.SOCK_DGRAM}, []uint32{0, unix.IPPROTO_TCP, unix.IPPROTO_UDP}
	if k.shared {
		kinds, protocols = kinds[:1], protocols[:2]
	}
	// Ping and MPTCP are asked for by honest programs, and are refused quietly.
	stream := callRule{tests: []test{
		{arg: 1, mask: kind, values: []uint32{unix.SOCK_RAW, unix.SOCK_PACKET, unix.SOCK_RDM, unix.SOCK_DCCP}},
	}}.assemble(k.refusal(), retAllow)
	inet := append(stream[:len(stream)-1], callRule{tests: []test{
		oneOf(1, kind, kinds...), oneOf(2, ^uint32(0), protocols...),
	}}.assemble(retEPERM, retAllow)...)
	route := callRule{tests: []test{oneOf(2, ^uint32(0), unix.NETLINK_ROUTE)}}.assemble(k.refusal(), retAllow)
	local := callRule{}.assemble(retEPERM, retAllow)
	if k.shared {
		route = program{}
		route.ret(retEPERM)
		local = callRule{tests: connected}.assemble(retEPERM, retAllow)
	}
	var p program
	p.load(offArgs)
	p.jump(unix.BPF_JEQ, unix.AF_UNIX, 0, len(local))
	p = append(p, local...)
	p.jump(unix.BPF_JEQ, unix.AF_NETLINK, 0, len(route))
	p = append(p, route...)
	p.jump(unix.BPF_JEQ, unix.AF_INET, 1, 0)
	p.jump(unix.BPF_JEQ, unix.AF_INET6, 0, len(inet))
	p = append(p, inet...)
	p.ret(k.refusal())
	return p
}

const (
	seccompSetModeFilter = 1
	seccompTSYNC         = 1 << 0
	seccompNewListener   = 1 << 3
	seccompTSYNCESRCH    = 1 << 4 // fail by ESRCH, as the result is a descriptor
	seccompWaitKillable  = 1 << 5 // a call that the host has received is not restarted by a signal, and told of twice
)

// seccompRestrict installs the filter on every thread of this process. The
// calling thread must have no_new_privs; the others get it. The descriptor that
// it returns receives attacks, -1 when the kind has none.
func seccompRestrict(k filterKind) (listener int, err error) {
	f := filter(k)
	prog := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	flags := uintptr(seccompTSYNC)
	if k.notify {
		flags |= seccompNewListener | seccompTSYNCESRCH | seccompWaitKillable
	}
	r, _, errno := unix.Syscall(unix.SYS_SECCOMP, seccompSetModeFilter, flags, uintptr(unsafe.Pointer(&prog)))
	switch {
	case errno != 0:
		return -1, errno
	case k.notify:
		return int(r), nil // close-on-exec
	case r != 0:
		return -1, fmt.Errorf("thread %d could not be filtered", r)
	}
	return -1, nil
}
