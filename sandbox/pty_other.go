//go:build !linux

package sandbox

import "os"

func resize(*os.File, WindowSize) error { return ErrUnsupported }
func isTerminal(*os.File) bool          { return false }
