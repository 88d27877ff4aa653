package audittest

import (
	"bytes"
	"io"
	"io/fs"
	"sync"
	"testing/fstest"

	"github.com/twinward-dev/twinward/audit"
)

// A Memory is an [audit.Storage] in memory. It remembers what was synced: after
// [Memory.PowerCut] the rest is gone. The zero value is empty and ready.
type Memory struct {
	mu     sync.Mutex
	data   []byte
	synced []byte
	syncs  int
	fail   func(op string) error
}

var _ audit.Storage = (*Memory)(nil)

// FailOn sets a function that is asked before each operation, "write", "sync"
// or "truncate". An error that it returns is what the operation fails with. A
// failing write has written half of its bytes, as a full disk does.
func (m *Memory) FailOn(f func(op string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = f
}

func (m *Memory) ask(op string) error {
	if m.fail == nil {
		return nil
	}
	return m.fail(op)
}

// Write implements [audit.Storage].
func (m *Memory) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.ask("write"); err != nil {
		m.data = append(m.data, p[:len(p)/2]...)
		return len(p) / 2, err
	}
	m.data = append(m.data, p...)
	return len(p), nil
}

// Sync implements [audit.Storage].
func (m *Memory) Sync() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.ask("sync"); err != nil {
		return err
	}
	m.syncs++
	n := min(len(m.synced), len(m.data)) // only the end ever changes
	m.synced = append(m.synced[:n], m.data[n:]...)
	return nil
}

// Truncate implements [audit.Storage].
func (m *Memory) Truncate(size int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.ask("truncate"); err != nil {
		return err
	}
	m.data = m.data[:size:size]
	m.synced = bytes.Clone(m.synced[:min(int64(len(m.synced)), size)])
	return nil
}

// Size implements [audit.Storage].
func (m *Memory) Size() (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return int64(len(m.data)), nil
}

// Reader implements [audit.Storage].
func (m *Memory) Reader() (audit.StorageReader, error) { return memoryReader{m}, nil }

// Close implements [audit.Storage]. The bytes stay.
func (m *Memory) Close() error { return nil }

// Syncs counts the syncs so far.
func (m *Memory) Syncs() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.syncs
}

// Bytes returns what is stored, synced or not.
func (m *Memory) Bytes() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.data)
}

// PowerCut returns what a power cut would leave: what was synced, and up to
// extra bytes that happened to reach the disk before.
func (m *Memory) PowerCut(extra int) *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	left := bytes.Clone(m.synced)
	if n := len(left); n < len(m.data) {
		left = append(left, m.data[n:min(n+extra, len(m.data))]...)
	}
	return NewMemory(left)
}

// NewMemory returns a storage that holds data, synced.
func NewMemory(data []byte) *Memory {
	return &Memory{data: bytes.Clone(data), synced: bytes.Clone(data)}
}

// FS returns the folder that a log with these bytes would be, for
// [audit.Verify] and [audit.Scan].
func (m *Memory) FS() fs.FS {
	return fstest.MapFS{audit.FileName: &fstest.MapFile{Data: m.Bytes(), Mode: 0o600}}
}

type memoryReader struct{ m *Memory }

func (r memoryReader) ReadAt(p []byte, off int64) (int, error) {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	if off >= int64(len(r.m.data)) {
		return 0, io.EOF
	}
	n := copy(p, r.m.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (memoryReader) Close() error { return nil }
