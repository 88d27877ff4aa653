//go:build !linux

package audit

import "os"

// dataSync syncs the file as far as the system lets us: F_FULLFSYNC on darwin,
// FlushFileBuffers on Windows.
func dataSync(f *os.File) error { return f.Sync() }
