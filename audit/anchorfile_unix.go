//go:build unix

package audit

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// ownerOf returns the uid that a file belongs to.
func ownerOf(path string) (uint32, error) {
	st, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, errors.New("this system does not say who owns a file")
	}
	return sys.Uid, nil
}

// keepsOut returns an error if uid could write to a file, or replace what is in a
// folder. Which groups a uid is in is not known here: any may be.
func keepsOut(path string, file bool, uid uint32) error {
	st, err := os.Lstat(path)
	if err != nil {
		return err
	}
	owner, err := ownerOf(path)
	mode := st.Mode()
	switch {
	case err != nil:
		return err
	case file && !mode.IsRegular():
		return fmt.Errorf("%s is not a regular file", path)
	case uid == 0:
		return fmt.Errorf("the log belongs to uid 0, which can write to %s", path)
	case owner == uid:
		return fmt.Errorf("%s belongs to uid %d, as the log does", path, uid)
	case mode.Perm()&0o022 != 0 && (file || mode&os.ModeSticky == 0):
		return fmt.Errorf("%s can be written to by others than its owner (mode %04o)", path, mode.Perm())
	}
	return nil
}
