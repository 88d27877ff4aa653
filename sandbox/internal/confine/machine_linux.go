//go:build linux && (amd64 || arm64)

package confine

import (
	"encoding/binary"
	"fmt"
	"slices"
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
	opOut   = opArg + 6 // address that takes the result, errors too; these eight are a step's words
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

// A kind is what a word of a step means.
type kind uint8

const (
	kindNone kind = iota // not set
	kindWord             // a value or an absolute address
	kindRef
	kindSlot
	kindLabel
	kindHead
)

// A step is an op and what it is for.
type step struct {
	layer Layer
	what  string // such as "mount /usr"
	hint  string

	nr        uintptr
	words     [stepWords]uint64 // the arguments, then where the result and the next op are
	kinds     [stepWords]kind
	zero, err label
	errIs     unix.Errno
}

const (
	stepOut   = 6
	stepOK    = 7
	stepWords = 8
)

func (s *step) set(i int, k kind, v uint64) { s.kinds[i], s.words[i] = k, v }

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
	kept     [][]byte // memory outside, while the program lives

	layer Layer // of the steps that follow

	// A program whose beginning runs while the rest is written has room for so many
	// steps, and for so much memory as a whole.
	roomFor, memory int
	linked          struct{ steps, data int } // what has been linked
}

// call appends a call. An argument is an integer, a string or bytes (copied to
// the data, with a NUL), or a ref, slot, label or head. It keeps
// nothing of args, so that a program of a thousand steps is no work for the
// collector.
func (p *prog) call(what string, nr uintptr, args ...any) *step {
	p.steps = append(p.steps, step{layer: p.layer, what: what, nr: nr})
	s := &p.steps[len(p.steps)-1]
	for i, a := range args {
		switch a := a.(type) {
		case string:
			s.set(i, kindRef, uint64(p.putString(a)))
		case []byte:
			s.set(i, kindRef, uint64(p.put(a)))
		default:
			k, v := valueOf(a)
			s.set(i, k, v)
		}
	}
	return s
}

// valueOf returns what a place or an integer is in a step.
func valueOf(a any) (kind, uint64) {
	switch a := a.(type) {
	case int:
		return kindWord, uint64(a)
	case int64:
		return kindWord, uint64(a)
	case uint64:
		return kindWord, a
	case uintptr:
		return kindWord, uint64(a)
	case ref:
		return kindRef, uint64(a)
	case slot:
		return kindSlot, uint64(a)
	case label:
		return kindLabel, uint64(a)
	case head:
		return kindHead, uint64(a)
	}
	panic("confine: a step has an argument of a type that it cannot have")
}

// recycle makes the program empty and keeps its memory.
func (p *prog) recycle() {
	clear(p.steps)
	clear(p.kept)
	clear(p.expects)
	*p = prog{steps: p.steps[:0], data: p.data[:0], marks: p.marks[:0], expects: p.expects[:0], pointers: p.pointers[:0], kept: p.kept[:0]}
}

// slot returns a new word for a result.
func (p *prog) slot() slot { return slot(p.reserve(wordSize)) }

// to keeps the result in a slot or a word of the header.
func (s *step) to(out any) *step {
	k, v := valueOf(out)
	s.set(stepOut, k, v)
	return s
}

// orElse goes to a label when the call fails, or fails with one errno.
func (s *step) orElse(l label, only ...unix.Errno) *step {
	s.err = l
	if len(only) > 0 {
		s.errIs = only[0]
	}
	return s
}

// then goes to a label, or to an address in another program, afterwards.
func (s *step) then(to any) *step {
	k, v := valueOf(to)
	s.set(stepOK, k, v)
	return s
}

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
	p.data = slices.Grow(p.data, n)[:at+n]
	clear(p.data[at:])
	return ref(at)
}

// put copies bytes to the data.
func (p *prog) put(b []byte) ref {
	at := p.reserve(len(b))
	copy(p.data[at:], b)
	return at
}

// putString copies a string and the NUL that ends it.
func (p *prog) putString(s string) ref {
	at := p.reserve(len(s) + 1)
	copy(p.data[at:], s)
	return at
}

// outside returns the address of bytes that are too many to be copied. Only a
// child that shares this process's memory can follow it.
func (p *prog) outside(b []byte) uintptr {
	p.kept = append(p.kept, b) // the collector frees what nobody keeps, and moves nothing
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))
}

// point writes the address of a ref, slot, head or label into the data, for
// structures that hold addresses.
func (p *prog) point(at ref, target any) {
	k, v := valueOf(target)
	p.pointers = append(p.pointers, pointer{at, k, v})
}

type pointer struct {
	at   ref
	kind kind
	word uint64
}

// expect looks at the data once the program has run.
func (p *prog) expect(check func(mem func(ref, int) []byte) error) {
	p.expects = append(p.expects, expectation{p.steps[len(p.steps)-1], check})
}

// size returns how many bytes the linked program takes.
func (p *prog) size() int {
	if p.memory > 0 {
		return p.memory
	}
	return wordSize*headerWords + wordSize*opWords*len(p.steps) + (len(p.data)+wordSize-1)/wordSize*wordSize
}

func (p *prog) opAddr(base uintptr, i int) uint64 {
	return uint64(base) + uint64(wordSize*(headerWords+opWords*i))
}

func (p *prog) dataAddr(base uintptr) uint64 { return p.opAddr(base, max(len(p.steps), p.roomFor)) }

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

// resolve returns what a word of a step is at run time: of a slot, its address.
func (p *prog) resolve(base uintptr, k kind, v uint64) uint64 {
	switch k {
	case kindRef, kindSlot:
		return p.dataAddr(base) + v
	case kindLabel:
		return p.labelAddr(base, label(v))
	case kindHead:
		return uint64(base) + wordSize*v
	}
	return v
}

// fits reports whether the program has become larger than the room for it.
func (p *prog) fits() bool {
	return p.memory == 0 || len(p.steps) <= p.roomFor && int(p.dataAddr(0))+len(p.data) <= p.memory
}

// link writes the program to where it will lie, in the form of the machine: what
// has not been linked yet, as the rest may be running.
func (p *prog) link(mem []byte, base uintptr) {
	word := binary.NativeEndian.PutUint64
	word(mem[wordSize*headerFail:], p.labelAddr(base, p.fail))
	for i := p.linked.steps; i < len(p.steps); i++ {
		s, op := &p.steps[i], mem[wordSize*(headerWords+opWords*i):][:wordSize*opWords]
		word(op[wordSize*opNR:], uint64(s.nr))
		var ind uint64
		for k := range s.words {
			word(op[wordSize*(opArg+k):], p.resolve(base, s.kinds[k], s.words[k]))
			if k < stepOut && s.kinds[k] == kindSlot {
				ind |= 1 << k
			}
		}
		word(op[wordSize*opZero:], p.labelAddr(base, s.zero))
		word(op[wordSize*opErr:], p.labelAddr(base, s.err))
		word(op[wordSize*opErrIs:], uint64(s.errIs))
		word(op[wordSize*opInd:], ind)
	}
	data := mem[p.dataAddr(0):]
	copy(data[p.linked.data:], p.data[p.linked.data:])
	for _, f := range p.pointers {
		if int(f.at) >= p.linked.data {
			word(data[f.at:], p.resolve(base, f.kind, f.word))
		}
	}
	if p.memory > 0 {
		p.linked.steps, p.linked.data = len(p.steps), len(p.data)
	}
}

// A block is memory that the garbage collector does not know, which holds a
// linked program while processes other than this one execute it.
type block struct {
	mem  []byte
	prog *prog
}

func newBlock(p *prog) (*block, error) {
	mem, err := unix.Mmap(-1, 0, p.size(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("memory for a program: %w", err)
	}
	_ = unix.Madvise(mem, unix.MADV_NOHUGEPAGE) // little of it may be used
	b := &block{mem, p}
	p.link(mem, b.base())
	return b, nil
}

// free may be called when no process that executes the program has it in its
// memory any more.
func (b *block) free() { _ = unix.Munmap(b.mem) }

func (b *block) base() uintptr { return uintptr(unsafe.Pointer(&b.mem[0])) }

// extend links what was written since.
func (b *block) extend() error {
	if !b.prog.fits() {
		return fmt.Errorf("a program of %d steps and %d bytes is too large", len(b.prog.steps), len(b.prog.data))
	}
	b.prog.link(b.mem, b.base())
	return nil
}

// header returns a word of the header.
func (b *block) header(i int) uint64 { return binary.NativeEndian.Uint64(b.mem[wordSize*i:]) }

// at returns bytes of the data.
func (b *block) at(r ref, n int) []byte {
	off := int(b.prog.dataAddr(0)) + int(r)
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
