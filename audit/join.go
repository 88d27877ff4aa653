package audit

import (
	"cmp"
	"errors"
	"io/fs"
	"slices"
)

// JoinFS returns the folder of a log whose files are in several: archives that hold
// its oldest segments, and last the folder that it is in now. Where several have a
// file, the last one's counts. What [Log.PruneRecords] removed and an archive has
// is then read, and verified, as if it had never been removed.
func JoinFS(dirs ...fs.FS) fs.FS { return joined(dirs) }

type joined []fs.FS

// Open implements [fs.FS].
func (j joined) Open(name string) (fs.File, error) {
	for _, dir := range slices.Backward(j) {
		f, err := dir.Open(name)
		if !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// ReadDir implements [fs.ReadDirFS].
func (j joined) ReadDir(name string) ([]fs.DirEntry, error) {
	byName := map[string]fs.DirEntry{}
	for _, dir := range j {
		entries, err := fs.ReadDir(dir, name)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			byName[e.Name()] = e
		}
	}
	var all []fs.DirEntry
	for _, e := range byName {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	return all, nil
}
