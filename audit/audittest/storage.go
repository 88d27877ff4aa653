package audittest

import (
	"bytes"
	"io"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing/fstest"

	"github.com/twinward-dev/twinward/audit"
)

// A Memory is an [audit.Storage] in memory that knows what was synced. What a
// power cut leaves of it is said by [Memory.PowerCut], where writes get to the
// disk in order, and [Memory.Crash], where they do not. The zero value is empty
// and ready.
type Memory struct {
	mu    sync.Mutex
	files map[string]*memoryFile
	syncs int
	full  int64 // bytes that fit, if limited
	limit bool
	fail  func(op string) error
}

var _ audit.PrunableStorage = (*Memory)(nil)

// A memoryFile is what readers see, and what is on the disk for sure.
type memoryFile struct {
	data   []byte
	synced []byte
	ops    []memoryOp // since then
	named  bool       // the name is on the disk
	locked bool
}

// A memoryOp is one write, or a truncation if data is nil.
type memoryOp struct {
	off  int64
	data []byte
}

// FailOn sets a function that is asked before each operation: "write", "sync",
// "truncate", "create" of a file, "rename", "remove" and "names", the sync of names.
// An error that it returns is what the operation fails with. A failing write has
// written half of its bytes, as a full disk does. The function must not use the
// Memory.
func (m *Memory) FailOn(f func(op string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = f
}

// SetFree says how many more bytes fit. At first that is not limited.
func (m *Memory) SetFree(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.full, m.limit = n, true
}

func (m *Memory) ask(op string) error {
	if m.fail == nil {
		return nil
	}
	return m.fail(op)
}

// List implements [audit.Storage].
func (m *Memory) List() ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.files)), nil
}

// Open implements [audit.Storage].
func (m *Memory) Open(name string) (audit.StorageFile, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.files[name]
	if f == nil {
		if err := m.ask("create"); err != nil {
			return nil, err
		}
		if m.files == nil {
			m.files = map[string]*memoryFile{}
		}
		f = &memoryFile{}
		m.files[name] = f
	}
	if f.locked {
		return nil, audit.ErrLocked
	}
	f.locked = true
	return &openFile{m, f}, nil
}

// SyncNames implements [audit.Storage].
func (m *Memory) SyncNames() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.ask("names"); err != nil {
		return err
	}
	for _, f := range m.files {
		f.named = true
	}
	return nil
}

// Rename implements [audit.PrunableStorage]. It is "rename" to [Memory.FailOn], and
// on the disk at once, unlike the name of a file that is made.
func (m *Memory) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.files[from]
	if f == nil {
		return fs.ErrNotExist
	}
	if err := m.ask("rename"); err != nil {
		return err
	}
	m.files[to] = f
	delete(m.files, from)
	return nil
}

// Remove implements [audit.PrunableStorage]. It is "remove" to [Memory.FailOn], and
// on the disk at once.
func (m *Memory) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files[name] == nil {
		return fs.ErrNotExist
	}
	if err := m.ask("remove"); err != nil {
		return err
	}
	delete(m.files, name)
	return nil
}

// Read implements [audit.Storage].
func (m *Memory) Read(name string) (audit.StorageReader, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.files[name]
	if f == nil {
		return nil, fs.ErrNotExist
	}
	return memoryReader{m, f}, nil
}

// Free implements [audit.Storage].
func (m *Memory) Free() (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.limit {
		return math.MaxInt64, nil
	}
	return m.full, nil
}

// Close implements [audit.Storage]. The bytes stay.
func (m *Memory) Close() error { return nil }

// An openFile is a file of a Memory that is being written.
type openFile struct {
	m *Memory
	f *memoryFile
}

// WriteAt implements [io.WriterAt].
func (o *openFile) WriteAt(p []byte, off int64) (int, error) {
	o.m.mu.Lock()
	defer o.m.mu.Unlock()
	err := o.m.ask("write")
	if err != nil {
		p = p[:len(p)/2]
	}
	o.f.do(memoryOp{off, bytes.Clone(p)})
	return len(p), err
}

// Truncate implements [audit.StorageFile].
func (o *openFile) Truncate(size int64) error {
	o.m.mu.Lock()
	defer o.m.mu.Unlock()
	if err := o.m.ask("truncate"); err != nil {
		return err
	}
	o.f.do(memoryOp{off: size})
	return nil
}

// Sync implements [audit.StorageFile].
func (o *openFile) Sync() error {
	o.m.mu.Lock()
	defer o.m.mu.Unlock()
	if err := o.m.ask("sync"); err != nil {
		return err
	}
	o.m.syncs++
	for _, op := range o.f.ops {
		o.f.synced = op.apply(o.f.synced)
	}
	o.f.ops = nil
	return nil
}

// Close implements [io.Closer].
func (o *openFile) Close() error {
	o.m.mu.Lock()
	defer o.m.mu.Unlock()
	o.f.locked = false
	return nil
}

func (f *memoryFile) do(op memoryOp) {
	f.data = op.apply(f.data)
	f.ops = append(f.ops, op)
}

// apply returns data as it is after the operation. It may reuse its memory.
func (op memoryOp) apply(data []byte) []byte {
	if op.data == nil {
		if op.off <= int64(len(data)) {
			return data[:op.off]
		}
		return append(data, make([]byte, op.off-int64(len(data)))...)
	}
	if end := op.off + int64(len(op.data)); end > int64(len(data)) {
		if end > int64(cap(data)) {
			data = slices.Grow(data, int(max(end, 2*int64(len(data)))-int64(len(data))))
		}
		data = append(data, make([]byte, end-int64(len(data)))...)
	}
	copy(data[op.off:], op.data)
	return data
}

// Syncs counts the syncs of files so far.
func (m *Memory) Syncs() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.syncs
}

// Bytes returns what was written to the log's files, synced or not, in one piece.
func (m *Memory) Bytes() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []byte
	for _, name := range slices.Sorted(maps.Keys(m.files)) {
		all = append(all, bytes.TrimRight(m.files[name].data, "\x00")...)
	}
	return all
}

// PowerCut returns what a power cut would leave if writes got to the disk in the
// order in which they were made: what was synced, and up to extra bytes more.
func (m *Memory) PowerCut(extra int) *Memory {
	return m.after(func(f *memoryFile, data []byte) []byte {
		for _, op := range f.ops {
			if n := min(extra, len(op.data)); op.data != nil {
				op.data = op.data[:n]
				extra -= n
			}
			if extra > 0 || len(op.data) > 0 {
				data = op.apply(data)
			}
		}
		return data
	})
}

// Crash returns what a power cut may leave where it does not wait its turn: of
// what was not synced, any part may be on the disk, block by block, and names of
// files may be missing.
func (m *Memory) Crash(rnd *rand.Rand) *Memory {
	const block = 512
	left := m.after(func(f *memoryFile, data []byte) []byte {
		likely := rnd.IntN(5) // of 4: in some crashes nothing gets there, in some all
		for _, op := range f.ops {
			if op.data == nil {
				if rnd.IntN(4) < likely {
					data = op.apply(data)
				}
				continue
			}
			for len(op.data) > 0 {
				n := min(int64(len(op.data)), block-op.off%block)
				if part := (memoryOp{op.off, op.data[:n]}); rnd.IntN(4) < likely {
					data = part.apply(data)
				}
				op.off, op.data = op.off+n, op.data[n:]
			}
		}
		return data
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(m.files)) {
		if !m.files[name].named && rnd.IntN(2) == 0 {
			delete(left.files, name)
		}
	}
	return left
}

// after returns a Memory in which each file has what f makes of its synced bytes.
func (m *Memory) after(f func(*memoryFile, []byte) []byte) *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	left := &Memory{files: map[string]*memoryFile{}}
	for _, name := range slices.Sorted(maps.Keys(m.files)) {
		data := f(m.files[name], bytes.Clone(m.files[name].synced))
		left.files[name] = &memoryFile{data: data, synced: bytes.Clone(data), named: true}
	}
	return left
}

// NewMemory returns a storage whose first file holds data, synced.
func NewMemory(data []byte) *Memory {
	f := &memoryFile{data: bytes.Clone(data), synced: bytes.Clone(data), named: true}
	return &Memory{files: map[string]*memoryFile{audit.SegmentName(1): f}}
}

// NewMemoryFS returns a storage that holds the files of a folder, synced.
func NewMemoryFS(dir fstest.MapFS) *Memory {
	m := &Memory{files: map[string]*memoryFile{}}
	for name, f := range dir {
		m.files[name] = &memoryFile{data: bytes.Clone(f.Data), synced: bytes.Clone(f.Data), named: true}
	}
	return m
}

// FS returns the folder that a log with these bytes would be, for
// [audit.Verify] and [audit.Scan]. Changing it does not change the storage.
func (m *Memory) FS() fstest.MapFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir := fstest.MapFS{}
	for name, f := range m.files {
		dir[name] = &fstest.MapFile{Data: bytes.Clone(f.data), Mode: 0o600}
	}
	return dir
}

type memoryReader struct {
	m *Memory
	f *memoryFile
}

func (r memoryReader) ReadAt(p []byte, off int64) (int, error) {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	if off >= int64(len(r.f.data)) {
		return 0, io.EOF
	}
	n := copy(p, r.f.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (r memoryReader) Size() (int64, error) {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	return int64(len(r.f.data)), nil
}

func (memoryReader) Close() error { return nil }
