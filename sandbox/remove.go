package sandbox

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"strconv"
)

// removeTree removes a workspace in which nothing runs any more. What programs
// left there may be meant to make that hard: folders without permissions, and
// folders in folders, deeper than a path is long or a process has descriptors.
// So every folder is moved to the top and emptied there, which takes two
// descriptors and a time that grows with the number of files only. No link is
// followed.
func removeTree(dir string) error {
	fi, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || !fi.IsDir() {
		return errors.Join(err, os.Remove(dir))
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	err = emptyRoot(root)
	root.Close()
	return errors.Join(err, os.Remove(dir))
}

func emptyRoot(root *os.Root) error {
	moved, fresh := 0, "moved-"+randomID()+"-"
	return eachIn(root, ".", func(top string, isDir bool) error {
		if !isDir {
			return root.Remove(top)
		}
		if err := root.Chmod(top, 0o700); err != nil {
			return err
		}
		err := eachIn(root, top, func(name string, isDir bool) error {
			name = top + "/" + name
			if !isDir {
				return root.Remove(name)
			}
			if err := root.Chmod(name, 0o700); err != nil {
				return err
			}
			moved++
			return root.Rename(name, fresh+strconv.Itoa(moved))
		})
		return errors.Join(err, root.Remove(top))
	})
}

// eachIn calls f, which must remove what it is called with, until the folder is
// empty or f fails.
func eachIn(root *os.Root, dir string, f func(name string, isDir bool) error) error {
	const batch = 1024
	for {
		d, err := root.Open(dir)
		if err != nil {
			return err
		}
		entries, err := d.ReadDir(batch)
		d.Close()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := f(e.Name(), e.IsDir()); err != nil {
				return err
			}
		}
	}
}
