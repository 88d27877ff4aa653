//go:build linux && (amd64 || arm64)

package confine

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An image is an executable file, made here and kept in memory, that consists
// of the machine and one program. It is what pid 1 of a room turns into once it
// has built the room: two pages, without a runtime, a stack in use, or anything
// of the host.

// Where an image lies. The text is one page at most; the data begins at a
// multiple of the largest page size of the architectures.
const (
	imageBase = 0x400000
	imageData = 0x410000 // as in machine_linux.h
	pageSize  = 0x10000
)

// imageEnd follows the text of an image.
var imageEnd = []byte{0x74, 0x77, 0x65, 0x6e, 0x64, 0x21, 0x0f, 0x0b}

// machineText returns the machine's instructions.
func machineText() []byte {
	const limit = 1024
	text := unsafe.Slice((*byte)(textPointer()), limit)
	n := bytes.Index(text, imageEnd)
	if n < 0 {
		panic("confine: the machine has no end")
	}
	return text[:n]
}

// textPointer returns the address of imageText, which no collector moves.
func textPointer() unsafe.Pointer {
	addr := imageTextAddr()
	return *(*unsafe.Pointer)(unsafe.Pointer(&addr))
}

// image returns the parts of the file of a program that was written to be alone:
// what it begins with, and what lies at pageSize.
func (p *prog) image() (text, data []byte) {
	machine := elf.EM_X86_64
	if runtime.GOARCH == "arm64" {
		machine = elf.EM_AARCH64
	}
	code := machineText()
	var h elf.Header64
	var ph elf.Prog64
	headers := binary.Size(h) + 3*binary.Size(ph)
	size := uint64(p.size())
	h = elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT),
		Entry: imageBase + uint64(headers), Phoff: uint64(binary.Size(h)),
		Ehsize: uint16(binary.Size(h)), Phentsize: uint16(binary.Size(ph)), Phnum: 3,
	}
	var b bytes.Buffer
	for _, part := range []any{
		h,
		elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: imageBase, Filesz: uint64(headers + len(code)), Memsz: uint64(headers + len(code)), Align: pageSize},
		elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W), Off: pageSize, Vaddr: imageData, Filesz: size, Memsz: requestBase + requestSize - imageData, Align: pageSize},
		elf.Prog64{Type: uint32(elf.PT_GNU_STACK), Flags: uint32(elf.PF_R | elf.PF_W)},
		code,
	} {
		_ = binary.Write(&b, binary.LittleEndian, part)
	}
	data = make([]byte, size)
	p.link(data, imageData)
	return b.Bytes(), data
}

// imageFile returns the descriptor of a file in memory for an image.
func imageFile() (int, error) {
	const mfdExec = 0x10 // MFD_EXEC, Linux 6.3: also where the default is not to
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("twinward-init", flags|mfdExec)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate("twinward-init", flags)
	}
	if err != nil {
		return -1, fmt.Errorf("memory for init: %w", err)
	}
	return fd, nil
}

// fillImage writes and seals the file of an image, so that it can be executed.
func fillImage(fd int, p *prog) error {
	if p.size() > requestBase-imageData {
		return fmt.Errorf("init has no room for %d bytes", p.size())
	}
	text, data := p.image()
	// What lies between the text and the data stays a hole.
	for _, part := range []struct {
		at   int64
		data []byte
	}{{0, text}, {pageSize, data}} {
		if n, err := unix.Pwrite(fd, part.data, part.at); err != nil || n < len(part.data) {
			return fmt.Errorf("memory for init: %w", errors.Join(err, unix.ENOSPC))
		}
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, allSeals); err != nil {
		return fmt.Errorf("seal init: %w", err)
	}
	return nil
}
