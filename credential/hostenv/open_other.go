//go:build !unix

package hostenv

import (
	"io/fs"
	"os"
)

func openFile(path string) (*os.File, error) { return os.Open(path) }

// private cannot tell: there are no mode bits.
func private(fs.FileInfo, bool) bool { return true }
