//go:build linux && (amd64 || arm64)

package confine

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A program is a list of raw system calls that is made completely before the
// first of them is executed. The machine that executes it is forty
// instructions of assembly (machine_linux_*.s) that touch no stack and nothing
// of the Go runtime, so a child that shares the host's memory can run it: what
// a launch costs does not grow with the host's heap. [program.interpret] does
// the same in Go, for tests.
//
// Each op says what follows: the next op, another one when the result is zero
// (a child after clone, the end of a stream) or an error. An error that no op
// cares for stops the program: the op and the errno go to the header, and the
// op that the header names for this case runs.

// An op in the machine's form: one word per field.
const (
	opNR = iota
	opArg
	opOut   = opArg + 6 // address that takes the result, errors too
	opOK    = opOut + 1 // op that follows; 0: the next in the list
	opZero  = opOK + 1  // op that follows a result of zero; 0: as opOK
	opErr   = opZero + 1
	opErrIs = opErr + 1   // opErr is for this errno only; 0: for each
	opInd   = opErrIs + 1 // bit i: argument i is the address of the value
	opWords = opInd + 1
)

// Calls that are not the kernel's.
const (
	callValue  = ^uintptr(0) // the result is the first argument
	callHeader = ^uintptr(1) // from here on the first argument is the header
)

// The words of a header, which is at the beginning of a block of memory. The
// ops follow it, and after them the data.
const (
	headerOp = iota // that failed
	headerErrno
	headerFail  // op to go on with then
	headerFirst // of the words that the machine does not know
	headerWords = 8
)

const wordSize = 8

// A place is where an argument, a result or a jump is, before it is known where
// the program will lie.
type (
	ref   int // offset in the data: the address is the argument
	slot  int // offset in the data: the word there is the argument
	label int // number of a mark
	head  int // word of the header: its address is the argument
)

// A step is an op and what it is for.
type step struct {
	layer Layer
	what  string // such as "mount /usr"
	hint  string

	nr        uintptr
	args      []any
	out       any // nil, slot or head
	ok        any // nil, or where to go: a label or an address
	zero, err label
	errIs     unix.Errno
}

// An expectation is looked at by the host when the program has run: a result
// that was no error and is still wrong.
type expectation struct {
	step  step
	check func(mem func(ref, int) []byte) error
}

// A prog is a program that is being written.
type prog struct {
	steps    []step
	data     []byte
	marks    []int // label → index of a step
	fail     label // where an error leads that no step cares for
	expects  []expectation
	pointers []pointer

	layer Layer // of the steps that follow
}

// call appends a call. An argument is an integer, a string or bytes (copied to
// the data, with a NUL), or a ref, slot or head.
func (p *prog) call(what string, nr uintptr, args ...any) *step {
	for i, a := range args {
		switch a := a.(type) {
		case string:
			args[i] = p.put(append([]byte(a), 0))
		case []byte:
			args[i] = p.put(a)
		}
	}
	p.steps = append(p.steps, step{layer: p.layer, what: what, nr: nr, args: args})
	return &p.steps[len(p.steps)-1]
}

// slot returns a new word for a result.
func (p *prog) slot() slot { return slot(p.reserve(wordSize)) }

// to keeps the result in a slot or a word of the header.
func (s *step) to(out any) *step { s.out = out; return s }

// orElse goes to a label when the call fails, or fails with one errno.
func (s *step) orElse(l label, only ...unix.Errno) *step {
	s.err = l
	if len(only) > 0 {
		s.errIs = only[0]
	}
	return s
}

// then goes to a label, or to an address in another program, afterwards.
func (s *step) then(to any) *step { s.ok = to; return s }

// ifZero goes to a label when the result is zero.
func (s *step) ifZero(l label) *step { s.zero = l; return s }

// label returns a new label, to be set by mark.
func (p *prog) label() label {
	p.marks = append(p.marks, -1)
	return label(len(p.marks))
}

// mark sets a label to the step that follows.
func (p *prog) mark(l label) { p.marks[l-1] = len(p.steps) }

// here returns a label of the step that follows.
func (p *prog) here() label {
	l := p.label()
	p.mark(l)
	return l
}

// optional makes the last step's failure with one errno the same as success.
func (p *prog) optional(s *step, only ...unix.Errno) { s.orElse(p.here(), only...) }

// reserve returns n zero bytes of the data, aligned to a word.
func (p *prog) reserve(n int) ref {
	for len(p.data)%wordSize != 0 {
		p.data = append(p.data, 0)
	}
	at := len(p.data)
	p.data = append(p.data, make([]byte, n)...)
	return ref(at)
}

// put copies bytes to the data.
func (p *prog) put(b []byte) ref {
	at := p.reserve(len(b))
	copy(p.data[at:], b)
	return at
}

// point writes the address of a ref, slot, head or label into the data, for
// structures that hold addresses.
func (p *prog) point(at ref, target any) { p.pointers = append(p.pointers, pointer{at, target}) }

type pointer struct {
	at     ref
	target any
}

// expect looks at the data once the program has run.
func (p *prog) expect(check func(mem func(ref, int) []byte) error) {
	p.expects = append(p.expects, expectation{p.steps[len(p.steps)-1], check})
}

// size returns how many bytes the linked program takes.
func (p *prog) size() int {
	return wordSize*headerWords + wordSize*opWords*len(p.steps) + (len(p.data)+wordSize-1)/wordSize*wordSize
}

func (p *prog) opAddr(base uintptr, i int) uint64 {
	return uint64(base) + uint64(wordSize*(headerWords+opWords*i))
}

func (p *prog) dataAddr(base uintptr) uint64 { return p.opAddr(base, len(p.steps)) }

func (p *prog) labelAddr(base uintptr, l label) uint64 {
	if l == 0 {
		return 0
	}
	i := p.marks[l-1]
	if i < 0 || i >= len(p.steps) {
		panic("confine: a label leads nowhere")
	}
	return p.opAddr(base, i)
}

// value returns what an argument is at run time, and whether it is the address
// of the argument.
func (p *prog) value(base uintptr, a any) (v uint64, indirect bool) {
	switch a := a.(type) {
	case int:
		return uint64(a), false
	case int64:
		return uint64(a), false
	case uint64:
		return a, false
	case uintptr:
		return uint64(a), false
	case ref:
		return p.dataAddr(base) + uint64(a), false
	case slot:
		return p.dataAddr(base) + uint64(a), true
	case head:
		return uint64(base) + uint64(wordSize*int(a)), false
	case label:
		return p.labelAddr(base, a), false
	}
	panic(fmt.Sprintf("confine: argument of type %T", a))
}

// link writes the program to where it will lie, in the form of the machine.
func (p *prog) link(mem []byte, base uintptr) {
	word := binary.NativeEndian.PutUint64
	word(mem[wordSize*headerFail:], p.labelAddr(base, p.fail))
	for i, s := range p.steps {
		op := mem[wordSize*(headerWords+opWords*i):]
		word(op[wordSize*opNR:], uint64(s.nr))
		var ind uint64
		for k, a := range s.args {
			v, indirect := p.value(base, a)
			word(op[wordSize*(opArg+k):], v)
			if indirect {
				ind |= 1 << k
			}
		}
		if s.out != nil {
			v, _ := p.value(base, s.out)
			word(op[wordSize*opOut:], v)
		}
		if s.ok != nil {
			v, _ := p.value(base, s.ok)
			word(op[wordSize*opOK:], v)
		}
		word(op[wordSize*opZero:], p.labelAddr(base, s.zero))
		word(op[wordSize*opErr:], p.labelAddr(base, s.err))
		word(op[wordSize*opErrIs:], uint64(s.errIs))
		word(op[wordSize*opInd:], ind)
	}
	copy(mem[wordSize*(headerWords+opWords*len(p.steps)):], p.data)
	data := mem[wordSize*(headerWords+opWords*len(p.steps)):]
	for _, f := range p.pointers {
		v, _ := p.value(base, f.target)
		word(data[f.at:], v)
	}
}

// A block is memory that the garbage collector does not know, which holds a
// linked program while processes other than this one execute it.
type block struct {
	mem  []byte
	prog *prog
}

func newBlock(p *prog) (*block, error) {
	mem, err := unix.Mmap(-1, 0, p.size(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("memory for a program: %w", err)
	}
	b := &block{mem, p}
	p.link(mem, b.base())
	return b, nil
}

// free may be called when no process that executes the program has it in its
// memory any more.
func (b *block) free() { _ = unix.Munmap(b.mem) }

func (b *block) base() uintptr { return uintptr(unsafe.Pointer(&b.mem[0])) }

// header returns a word of the header.
func (b *block) header(i int) uint64 { return binary.NativeEndian.Uint64(b.mem[wordSize*i:]) }

// at returns bytes of the data.
func (b *block) at(r ref, n int) []byte {
	off := wordSize*(headerWords+opWords*len(b.prog.steps)) + int(r)
	return b.mem[off : off+n]
}

// word returns a slot.
func (b *block) word(s slot) int64 { return int64(binary.NativeEndian.Uint64(b.at(ref(s), wordSize))) }

// failure returns what stopped the program, or what it left that was not
// expected; nil when it went well.
func (b *block) failure() error {
	if at := b.header(headerOp); at != 0 {
		return b.prog.failed(b.base(), at, b.header(headerErrno))
	}
	for _, e := range b.prog.expects {
		if err := e.check(b.at); err != nil {
			return &LayerError{Layer: e.step.layer, Step: e.step.what, Err: err, Hint: e.step.hint}
		}
	}
	return nil
}

// failed names the op that stopped a program which was linked for base.
func (p *prog) failed(base uintptr, at, result uint64) error {
	i := (int(at-uint64(base)) - wordSize*headerWords) / (wordSize * opWords)
	err := unix.Errno(-int64(result))
	if i < 0 || i >= len(p.steps) {
		return fmt.Errorf("a program of the launcher failed outside of itself: %w", err)
	}
	s := p.steps[i]
	return &LayerError{Layer: s.layer, Step: s.what, Err: err, Hint: s.hint}
}

// spawn clones the calling thread with all signals blocked. The child executes
// the program in a block and never returns; the parent goes on at once. mask
// holds the mask of the child and room for the one of the parent. A negative
// result is an errno.
//
//go:noescape
func spawn(flags, block uintptr, mask *[2]uint64) (pid uintptr)

// imageText is the machine as the text of a program of its own: see image_linux.go.
//
//lint:ignore U1000 vet wants the declaration of what only assembly uses
func imageText()

func imageTextAddr() uintptr

// run executes the program in a child that shares this process's memory.
// It returns when the child exists.
func (b *block) run(flags uintptr) (pid int, err error) {
	mask := [2]uint64{^uint64(0)}
	r := spawn(flags|unix.CLONE_VM, b.base(), &mask)
	if e := -int64(r); e > 0 && e < 4096 {
		return 0, unix.Errno(e)
	}
	return int(r), nil
}

// interpret executes the program in Go, on the calling thread, until an op that
// stop names. It is the machine's oracle: tests run both.
func (b *block) interpret(stop func(nr uintptr) bool) {
	load := func(at uint64) uint64 { return binary.NativeEndian.Uint64(b.mem[at-uint64(b.base()):]) }
	store := func(at, v uint64) { binary.NativeEndian.PutUint64(b.mem[at-uint64(b.base()):], v) }
	head := uint64(b.base())
	for op := b.prog.opAddr(b.base(), 0); ; {
		field := func(i int) uint64 { return load(op + uint64(wordSize*i)) }
		var a [6]uint64
		for i := range a {
			if a[i] = field(opArg + i); field(opInd)&(1<<i) != 0 {
				a[i] = load(a[i])
			}
		}
		next := op + wordSize*opWords
		if v := field(opOK); v != 0 {
			next = v
		}
		nr := uintptr(field(opNR))
		if stop(nr) {
			return
		}
		var r uint64
		switch nr {
		case callHeader:
			head, op = a[0], next
			continue
		case callValue:
			r = a[0]
		default:
			r1, _, errno := unix.RawSyscall6(nr, uintptr(a[0]), uintptr(a[1]), uintptr(a[2]), uintptr(a[3]), uintptr(a[4]), uintptr(a[5]))
			if r = uint64(r1); errno != 0 {
				r = -uint64(errno)
			}
		}
		if out := field(opOut); out != 0 {
			store(out, r)
		}
		failed := int64(r) < 0 && int64(r) >= -4095
		is := field(opErrIs)
		switch {
		case failed && field(opErr) != 0 && (is == 0 || is == -r):
			op = field(opErr)
		case failed:
			store(head+wordSize*headerOp, op)
			store(head+wordSize*headerErrno, r)
			op = load(head + wordSize*headerFail)
		case r == 0 && field(opZero) != 0:
			op = field(opZero)
		default:
			op = next
		}
	}
}
