//go:build linux && amd64

package agents

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/twinward-dev/twinward/credential/credentialtest"
)

// A search looks for a key where an agent could have it. It looks for a decoy as
// well, which the agent was given: a search that does not find that one proves
// nothing.
type search struct {
	t          *testing.T
	key, decoy string
	packages   string   // the folder of the agents, which is not looked at
	forms      [][]byte // of the key; then those of the decoy
	mu         sync.Mutex
	processes  int
	bytes      int64
	decoys     int
	once       sync.Once
	took       time.Duration
}

func newSearch(h *house) *search {
	s := &search{t: h.t, key: h.key, decoy: credentialtest.Canary(), packages: h.folder}
	s.forms = append(forms(s.key), forms(s.decoy)...)
	return s
}

// forms are how a secret could be held: as it is, in hex, in base64 at each
// offset, in 16-bit characters.
func forms(secret string) (all [][]byte) {
	wide := make([]byte, 0, 2*len(secret))
	for _, c := range []byte(secret) {
		wide = append(wide, c, 0)
	}
	all = append(all, []byte(secret), wide, fmt.Appendf(nil, "%x", secret))
	for before := range 3 {
		text := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", before) + secret))
		all = append(all, []byte(text[(before*8+5)/6:(before+len(secret))*8/6]))
	}
	return all
}

// text looks through b.
func (s *search) text(where string, b []byte) {
	if bytes.Trim(b, "\x00") == nil {
		return
	}
	for i, form := range s.forms {
		if !bytes.Contains(b, form) {
			continue
		}
		s.mu.Lock()
		if i < len(s.forms)/2 {
			s.t.Errorf("the model's key is in %s", where)
		} else {
			s.decoys++
		}
		s.mu.Unlock()
	}
}

// tree looks through all files of a folder.
func (s *search) tree(root string) {
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasSuffix(path, s.packages) {
			return filepath.SkipDir // the same inside as outside, and much
		}
		if err == nil && d.Type().IsRegular() {
			if b, err := os.ReadFile(path); err == nil {
				s.text(path, b)
			}
		}
		return nil
	})
}

// everywhere looks at all processes of the session, once, from outside: the
// environment, the arguments, the memory, and the files that only they see.
func (s *search) everywhere() {
	s.once.Do(func() {
		began := time.Now()
		defer func() { s.took = time.Since(began) }()
		for _, pid := range descendants(os.Getpid()) {
			at := fmt.Sprintf("/proc/%d", pid)
			for _, name := range []string{"environ", "cmdline"} {
				if b, err := os.ReadFile(filepath.Join(at, name)); err == nil {
					s.text(filepath.Join(at, name), b)
				}
			}
			for _, folder := range []string{"tmp", "run", "dev/shm"} {
				s.tree(filepath.Join(at, "root", folder))
			}
			n := s.memory(pid)
			s.bytes += n
			if n > 0 {
				s.processes++
			}
		}
	})
}

// done checks that the search was one.
func (s *search) done() {
	s.mu.Lock()
	defer s.mu.Unlock()
	assert.Positive(s.t, s.processes, "no process of the session was looked at")
	assert.GreaterOrEqual(s.t, s.decoys, 2, "the decoy is in the agent's environment and memory, and was not found")
	s.t.Logf("searched: %d processes, %d MB of memory; the decoy was seen %d times; %.1f s", s.processes, s.bytes>>20, s.decoys, s.took.Seconds())
}

// descendants returns the processes that a process has started, and theirs.
func descendants(of int) (all []int) {
	parent := map[int]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		parent[pid], _ = strconv.Atoi(fields[1])
	}
	for pid := range parent {
		for up := parent[pid]; up > 0; up = parent[up] {
			if up == of {
				all = append(all, pid)
				break
			}
		}
	}
	slices.Sort(all)
	return all
}

// memory looks through all that a process has written in its memory, and returns
// how many bytes that were.
func (s *search) memory(pid int) (read int64) {
	at := fmt.Sprintf("/proc/%d", pid)
	maps, err := os.ReadFile(at + "/maps")
	if err != nil {
		return 0
	}
	mem, err := os.Open(at + "/mem")
	if err != nil {
		return 0
	}
	defer mem.Close()
	pages, err := os.Open(at + "/pagemap")
	if err != nil {
		return 0
	}
	defer pages.Close()
	size := uint64(os.Getpagesize())
	const many = 256 // pages that are read at once
	entries, buf := make([]byte, 8*many), make([]byte, many*size)
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		var may string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &may); err != nil || !strings.HasPrefix(may, "rw") {
			continue
		}
		for page := from / size; page < to/size; page += many - 1 { // one page twice: what lies across
			n := min(many, to/size-page)
			if _, err := pages.ReadAt(entries[:8*n], int64(8*page)); err != nil {
				break
			}
			for i := uint64(0); i < n; i++ {
				first := i
				for i < n && binary.NativeEndian.Uint64(entries[8*i:])>>62 != 0 { // in memory, or swapped out
					i++
				}
				if i > first {
					got, _ := mem.ReadAt(buf[:(i-first)*size], int64((page+first)*size))
					read += int64(got)
					s.text(fmt.Sprintf("the memory of process %d", pid), buf[:got])
				}
			}
		}
	}
	return read
}
