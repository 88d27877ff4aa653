package main

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// A disk is the folder of the host's log, on a disk that loses what was not synced
// when the power goes: until then, what is written is in this process's memory,
// but for the first half of each write, which has got to the disk already. So
// whoever kills the process finds what a power cut leaves.
type disk string

var _ audit.Storage = disk("")

func newDisk(dir string) (disk, error) { return disk(dir), os.MkdirAll(dir, 0o700) }

// List implements [audit.Storage].
func (d disk) List() (names []string, err error) {
	entries, err := os.ReadDir(string(d))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// Open implements [audit.Storage].
func (d disk) Open(name string) (audit.StorageFile, error) {
	f, err := os.OpenFile(filepath.Join(string(d), name), os.O_RDWR|os.O_CREATE, 0o600)
	return &diskFile{File: f}, err
}

// Read implements [audit.Storage].
func (d disk) Read(name string) (audit.StorageReader, error) {
	f, err := os.Open(filepath.Join(string(d), name))
	return &diskFile{File: f}, err
}

// SyncNames implements [audit.Storage].
func (d disk) SyncNames() error {
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Free implements [audit.Storage]: this disk is never full.
func (d disk) Free() (int64, error) { return 1 << 40, nil }

// Close implements [audit.Storage].
func (d disk) Close() error { return nil }

type diskFile struct {
	*os.File
	mu      sync.Mutex
	waiting []func() error // what was written since the last sync, oldest first
}

// WriteAt implements [audit.StorageFile].
func (f *diskFile) WriteAt(p []byte, off int64) (int, error) {
	all := append([]byte(nil), p...)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting = append(f.waiting, func() error { _, err := f.File.WriteAt(all, off); return err })
	_, err := f.File.WriteAt(all[:len(all)/2], off)
	return len(p), err
}

// Truncate implements [audit.StorageFile].
func (f *diskFile) Truncate(size int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting = append(f.waiting, func() error { return f.File.Truncate(size) })
	return nil
}

// Sync implements [audit.StorageFile]. It takes its time, as on a slow disk, so
// that there is something on its way whenever the power goes.
func (f *diskFile) Sync() error {
	time.Sleep(2 * time.Millisecond)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, write := range f.waiting {
		if err := write(); err != nil {
			return err
		}
	}
	f.waiting = nil
	return f.File.Sync()
}

// Size implements [audit.StorageReader].
func (f *diskFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}
