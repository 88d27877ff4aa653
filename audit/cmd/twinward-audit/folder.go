package main

import (
	"io/fs"
	"os"
	"path/filepath"

	"github.com/twinward-dev/twinward/audit"
)

// foldersOf are those that LOG names: one, or archives and then the log's own.
func foldersOf(log string) []string {
	if _, err := os.Stat(log); err == nil {
		return []string{log} // whatever is in its name
	}
	return filepath.SplitList(log)
}

// folderOf is what LOG names, as one folder.
func folderOf(log string) fs.FS {
	var dirs []fs.FS
	for _, dir := range foldersOf(log) {
		dirs = append(dirs, os.DirFS(dir))
	}
	if len(dirs) == 1 {
		return dirs[0]
	}
	return audit.JoinFS(dirs...)
}

// homeOf is the log's own folder.
func homeOf(log string) string {
	dirs := foldersOf(log)
	if len(dirs) == 0 {
		return log
	}
	return dirs[len(dirs)-1]
}
