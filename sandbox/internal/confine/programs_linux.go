//go:build linux && (amd64 || arm64)

package confine

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Listed programs are looked at by the host: what each file is and, when policy
// says so, what is in it. The Landlock rule that lets one run is made later, by
// whoever builds the room, for the file that lies at the path by then; it is
// made only if that is still the very file, unchanged.
//
// Besides the listed programs the loaders that they name (PT_INTERP, such as
// ld-linux-x86-64.so.2) can be run, as the kernel asks Landlock the same
// question for both.

// A fileID says which file it is, and that nobody has written to it since.
type fileID struct {
	Dev, Ino     uint64
	Size         int64
	Mtime, Ctime int64 // nanoseconds
}

func identify(fd int) (fileID, unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return idOf(&st), st, err
}

func idOf(st *unix.Stat_t) fileID {
	return fileID{uint64(st.Dev), st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()}
}

// A runnable is a file that may be run, at its path inside. One without an ID is
// the host's own executable, which the room makes for itself and nobody can
// write to while it runs.
type runnable struct {
	Path string
	ID   *fileID `json:",omitempty"`
}

// programRules lets listed programs be run.
func programRules(files []runnable) []rule {
	var out []rule
	for _, f := range files {
		out = append(out, rule{path: f.Path, access: unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE, id: f.ID})
	}
	return out
}

// findPrograms returns the files that a list of programs stands for.
func findPrograms(s *Spec, places []place) ([]runnable, error) {
	var found []runnable
	var scripts []struct{ program, interpreter string }
	for _, p := range s.Programs {
		f, id, err := openProgram(s, p.Path, places)
		if err != nil {
			return nil, err
		}
		found = append(found, id)
		interpreter, script, err := f.examine(p)
		f.Close()
		if err != nil {
			return nil, err
		}
		switch {
		case script:
			scripts = append(scripts, struct{ program, interpreter string }{p.Path, interpreter})
		case interpreter != "":
			loader, id, err := openProgram(s, interpreter, places)
			if err != nil {
				return nil, err
			}
			loader.Close()
			found = append(found, id)
		}
	}
	// An interpreter runs any script, so it is never let in by the back door.
	for _, sc := range scripts {
		real, _, err := resolve(sc.interpreter)
		if err != nil || !slices.ContainsFunc(found, func(f runnable) bool { return f.Path == real }) {
			return nil, &ProgramError{Path: sc.program, Problem: "it is a script of " + sc.interpreter + ", which is not in the list: list it as well, and mind that it runs any script", Err: err}
		}
	}
	return found, nil
}

// A programFile is a program that is open for reading.
type programFile struct{ *os.File }

// openProgram opens the file at a path and makes sure that nobody inside can
// change it: [checkOneWay] has seen to it that what is shown read-only cannot be
// written by another way.
func openProgram(s *Spec, path string, places []place) (*programFile, runnable, error) {
	fail := func(problem string, err error) (*programFile, runnable, error) {
		return nil, runnable{}, &ProgramError{Path: path, Problem: problem, Err: err}
	}
	if path == SelfPath && s.Self {
		f, err := os.Open("/proc/self/exe")
		if err != nil {
			return fail("cannot be opened", err)
		}
		return &programFile{f}, runnable{Path: SelfPath}, nil
	}
	real, _, err := resolve(path)
	if err != nil {
		return fail("cannot be found", err)
	}
	best := -1
	for i, p := range places {
		if (real == p.Real || beneath(real, p.Real)) && (best < 0 || len(p.Real) > len(places[best].Real)) {
			best = i
		}
	}
	if best < 0 {
		return fail("no path of filesystem.read_only shows it", nil)
	}
	if places[best].Writable {
		return fail("it lies beneath "+places[best].Source+", which is writable", nil)
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, real, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return fail("cannot be opened", err)
	}
	f := &programFile{os.NewFile(uintptr(fd), real)}
	id, st, err := identify(fd)
	problem := ""
	switch {
	case err != nil:
		problem = "cannot be looked at"
	case st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o111 == 0:
		problem = "it is not a file that can be run"
	case st.Mode&0o022 != 0:
		problem = "its group or everybody may write to it"
	}
	if problem != "" {
		f.Close()
		return fail(problem, err)
	}
	return f, runnable{Path: real, ID: &id}, nil
}

// examine compares the content with what policy says, and returns the loader or,
// of a script, the interpreter.
func (f *programFile) examine(p Program) (interpreter string, script bool, err error) {
	if p.SHA256 != "" {
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			return "", false, &ProgramError{Path: p.Path, Problem: "cannot be read", Err: err}
		}
		if got := hex.EncodeToString(h.Sum(nil)); got != strings.ToLower(p.SHA256) {
			return "", false, &ProgramError{Path: p.Path, Problem: "its content is not what policy says", Want: p.SHA256, Got: got}
		}
	}
	head := make([]byte, 256) // the kernel's BINPRM_BUF_SIZE
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return "", false, &ProgramError{Path: p.Path, Problem: "cannot be read", Err: err}
	}
	if line, ok := bytes.CutPrefix(head[:n], []byte("#!")); ok {
		word, _ := bufio.NewReader(bytes.NewReader(bytes.TrimLeft(line, " \t"))).ReadString('\n')
		if i := strings.IndexAny(word, " \t\n"); i >= 0 {
			word = word[:i]
		}
		return word, true, nil
	}
	image, err := elf.NewFile(f)
	if err != nil {
		return "", false, &ProgramError{Path: p.Path, Problem: "it is neither an ELF image nor a script", Err: err}
	}
	for _, seg := range image.Progs {
		if seg.Type == elf.PT_INTERP && seg.Filesz < 4096 {
			b := make([]byte, seg.Filesz)
			if _, err := seg.ReadAt(b, 0); err != nil {
				return "", false, &ProgramError{Path: p.Path, Problem: "its loader cannot be read", Err: err}
			}
			return strings.TrimRight(string(b), "\x00"), false, nil
		}
	}
	return "", false, nil
}
