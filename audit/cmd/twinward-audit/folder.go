package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/postgres"
)

// foldersOf are those that LOG names: one, or archives and then the log's own.
func foldersOf(log string) []string {
	if _, err := os.Stat(log); err == nil || inDatabase(log) {
		return []string{log} // whatever is in its name
	}
	return filepath.SplitList(log)
}

// inDatabase reports whether LOG is a log in PostgreSQL.
func inDatabase(log string) bool {
	return strings.HasPrefix(log, "postgres://") || strings.HasPrefix(log, "postgresql://")
}

// databaseOf is a log in PostgreSQL as a folder, until ctx ends.
func databaseOf(ctx context.Context, log string) (fs.FS, error) {
	url, name, _ := strings.Cut(log, "#")
	if name == "" {
		return nil, fmt.Errorf("%w: write the log's name behind the database, after #", errUsage)
	}
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("%w: the database: %w", errUsage, err)
	}
	context.AfterFunc(ctx, pool.Close)
	return postgres.FS(ctx, pool, name), nil
}

// A failing folder is one that is not there.
type failing struct{ err error }

func (f failing) Open(string) (fs.File, error) { return nil, f.err }

// folderOf is what LOG names, as one folder. It is open until ctx ends.
func folderOf(ctx context.Context, log string) fs.FS {
	if inDatabase(log) {
		dir, err := databaseOf(ctx, log)
		if err != nil {
			return failing{err}
		}
		return dir
	}
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

// beside is what lies beside the log's own folder, such as LOG.values, where its
// host puts it.
func beside(log, suffix string) string {
	home := homeOf(log)
	if abs, err := filepath.Abs(home); err == nil && !inDatabase(log) {
		home = abs
	}
	return home + suffix
}

// segmentsIn are the names of a log's files in a folder, in order.
func segmentsIn(folder fs.FS) []string {
	entries, _ := fs.ReadDir(folder, ".") // where nothing can be read there is no log
	var names []string
	for _, e := range entries {
		if ok, _ := path.Match("audit.v1.*.jsonl", e.Name()); ok {
			names = append(names, e.Name())
		}
	}
	return names
}
