//go:build linux && (amd64 || arm64)

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// makeFiles makes files, by path and content; a path that ends with / is a folder.
func makeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		full := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(full), 0o755))
		if strings.HasSuffix(name, "/") {
			require.NoError(t, os.MkdirAll(full, 0o755))
			continue
		}
		require.NoError(t, os.WriteFile(full, []byte(text), 0o644))
	}
}

// tree returns what is beneath dir: the content of files, "dir" for folders.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, p)
		switch {
		case err != nil || rel == ".":
		case e.IsDir():
			out[rel] = "dir"
		case e.Type().IsRegular():
			b, err := os.ReadFile(p)
			require.NoError(t, err)
			out[rel] = string(b)
		default:
			out[rel] = e.Type().String()
		}
		return err
	}))
	return out
}

func TestImportAndExport(t *testing.T) {
	for _, host := range []bool{false, true} {
		name := map[bool]string{false: "own workspace", true: "workspace of the host"}[host]
		t.Run(name, func(t *testing.T) {
			log := audittest.NewLog(t)
			opts := &Options{}
			if host {
				opts.Workspace = t.TempDir()
			}
			s := box(t, log, nil, opts)
			ctx := context.Background()
			src := t.TempDir()
			makeFiles(t, src, map[string]string{"project/main.go": "package main", "project/sub/deep/file": "deep", "project/empty/": "", "project/run.sh": "echo ran"})
			require.NoError(t, os.Chmod(src+"/project/run.sh", 0o4775))
			require.NoError(t, os.Chmod(src+"/project/main.go", 0o440))
			got, err := s.Import(ctx, "/sandbox/work/here", src+"/project", nil)
			require.NoError(t, err)
			assert.Equal(t, Copied{Files: 3, Bytes: 24}, got)
			out, err := sh(s, "cd work/here && stat -c '%n %u %g %a' main.go run.sh sub sub/deep/file .. && ./run.sh && echo more >> main.go && echo new > sub/new && rm -r empty").CombinedOutput()
			require.NoError(t, err, string(out))
			assert.Equal(t, "main.go 1000 1000 640\nrun.sh 1000 1000 755\nsub 1000 1000 755\nsub/deep/file 1000 1000 644\n.. 1000 1000 755\nran\n", string(out))

			dst := t.TempDir()
			makeFiles(t, dst, map[string]string{"back/main.go": "old", "back/kept": "kept", "back/sub/old": "old"})
			got, err = s.Export(ctx, "work/here", dst+"/back", nil)
			require.NoError(t, err)
			assert.Equal(t, Copied{Files: 4, Bytes: 33}, got)
			assert.Equal(t, map[string]string{"back": "dir", "back/main.go": "package mainmore\n", "back/kept": "kept", "back/run.sh": "echo ran", "back/sub": "dir",
				"back/sub/old": "old", "back/sub/new": "new\n", "back/sub/deep": "dir", "back/sub/deep/file": "deep"}, tree(t, dst))
			fi, err := os.Stat(dst + "/back/run.sh")
			require.NoError(t, err)
			assert.Equal(t, os.FileMode(0o755), fi.Mode(), "set-id, or writable by others")
			assert.Equal(t, os.Geteuid(), owner(fi))

			_, err = s.Export(ctx, "/sandbox/work/here/main.go", dst+"/one.go", nil)
			require.NoError(t, err)
			_, err = s.ImportFS(ctx, ".", fstest.MapFS{"a/b": {Data: []byte("embedded")}}, nil)
			require.NoError(t, err)
			require.NoError(t, sh(s, "test $(cat a/b) = embedded; echo x >> a/b; ! ls -a | grep partial").Run())
			_, err = s.Export(ctx, "none", dst+"/x", nil)
			assert.ErrorIs(t, err, fs.ErrNotExist)
			for _, p := range []string{"/etc/passwd", "../x", "/sandbox/../etc", "/sandboxes"} {
				_, err = s.Export(ctx, p, dst+"/x", nil)
				assert.ErrorIs(t, err, fs.ErrInvalid, p)
				_, err = s.Import(ctx, p, src, nil)
				assert.ErrorIs(t, err, fs.ErrInvalid, p)
			}
			require.NoError(t, s.Close())
			_, err = s.Export(ctx, "a", dst+"/late", nil)
			if host {
				assert.NoError(t, err)
			} else {
				assert.ErrorIs(t, err, ErrEnded)
			}
			r := log.Records()
			assert.Equal(t, []string{"sandbox.launch", "begin import", "end ok", "begin exec", "end ok", "begin export", "end ok"}, summaries(r[:7]))
			assert.EqualValues(t, 33, r[6].Outcome.Bytes)
		})
	}
}

func summaries(records []audit.Record) (out []string) {
	for _, r := range records {
		out = append(out, summary(r))
	}
	return out
}

// TestExportOfWhatIsNotWhatItSeems has a program leave everything that could lead
// the host astray, one at a time.
func TestExportOfWhatIsNotWhatItSeems(t *testing.T) {
	s := box(t, audittest.NewLog(t), nil, nil)
	ctx := context.Background()
	for _, c := range []struct {
		name, script string
		err          error
		opts         ExportOptions
	}{
		{name: "link to a secret", script: "ln -s /etc/shadow x", err: ErrFileKind},
		{name: "link to a folder", script: "ln -s /etc x", err: ErrFileKind},
		{name: "link that dangles", script: "ln -s nowhere x", err: ErrFileKind},
		{name: "link above", script: "mkdir real; echo a > real/x; ln -s real link", err: ErrFileKind},
		{name: "pipe", script: "mkfifo x", err: ErrFileKind},
		{name: "name that clears the screen", script: `touch "$(printf 'a\033[2J')"`, err: ErrFileName},
		{name: "name with a line", script: `touch "$(printf 'a\nb')"`, err: ErrFileName},
		{name: "name that reads backwards", script: `touch "$(printf 'gpj.\342\200\256exe')"`, err: ErrFileName},
		{name: "name that is not UTF-8", script: `touch "$(printf 'a\377')"`, err: ErrFileName},
		{name: "name with a backslash", script: `touch 'a\b'`, err: ErrFileName},
		{name: "sparse bomb", script: "truncate -s 1T x || truncate -s 3G x", err: ErrFileLimit},
		{name: "many files", script: "for i in 1 2 3 4 5 6; do touch $i; done", err: ErrFileLimit, opts: ExportOptions{CopyOptions: CopyOptions{MaxEntries: 5}}},
		{name: "many bytes", script: "echo 12345 > a; echo 12345 > b", err: ErrFileLimit, opts: ExportOptions{CopyOptions: CopyOptions{MaxBytes: 11}}},
		{name: "very deep", script: "i=0; while [ $i -lt 120 ]; do mkdir d; cd d; i=$((i+1)); done", err: ErrFileLimit},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := sh(s, "rm -rf /sandbox/out; mkdir /sandbox/out; cd /sandbox/out; touch good; "+c.script).CombinedOutput()
			require.NoError(t, err, string(out))
			dst := t.TempDir()
			makeFiles(t, dst, map[string]string{"out/good": "mine"})
			_, err = s.Export(ctx, "out", dst+"/out", &c.opts)
			require.ErrorIs(t, err, c.err)
			assert.Equal(t, map[string]string{"out": "dir", "out/good": "mine"}, tree(t, dst), "something was changed or left")
			if c.err == ErrFileKind {
				c.opts.SkipOthers = true
				got, err := s.Export(ctx, "out", dst+"/out", &c.opts)
				require.NoError(t, err)
				assert.Len(t, got.Skipped, 1)
				assert.Empty(t, tree(t, dst)["out/good"], "it was not replaced")
			}
		})
	}
	t.Run("by way of a link", func(t *testing.T) {
		require.NoError(t, sh(s, "rm -rf out; mkdir out; ln -s /etc out/etc; ln -s /etc/passwd out/file; mkdir real; touch real/x; ln -s ../real out/real").Run())
		for _, p := range []string{"out/etc/passwd", "out/etc", "out/file", "out/real/x", "out/real"} {
			_, err := s.Export(ctx, p, t.TempDir()+"/x", nil)
			assert.Error(t, err, p)
			_, err = s.Import(ctx, p, "/etc/hostname", nil)
			assert.Error(t, err, p)
		}
	})
	t.Run("links of the host stay", func(t *testing.T) {
		require.NoError(t, sh(s, "rm -rf out; mkdir -p out/sub; echo new > out/sub/file; echo new > out/file").Run())
		for _, at := range []string{"out", "out/sub", "out/file"} {
			kept, dst := t.TempDir(), t.TempDir()
			makeFiles(t, kept, map[string]string{"file": "kept"})
			require.NoError(t, os.MkdirAll(filepath.Dir(dst+"/"+at), 0o755))
			to := kept
			if at == "out/file" {
				to += "/file"
			}
			require.NoError(t, os.Symlink(to, dst+"/"+at))
			_, err := s.Export(ctx, "out", dst+"/out", nil)
			assert.Error(t, err, at)
			assert.Equal(t, map[string]string{"file": "kept"}, tree(t, kept), at)
		}
		// A hard link is replaced, not written through.
		dst := t.TempDir()
		makeFiles(t, dst, map[string]string{"kept": "kept", "out/": ""})
		require.NoError(t, os.Link(dst+"/kept", dst+"/out/file"))
		_, err := s.Export(ctx, "out", dst+"/out", nil)
		require.NoError(t, err)
		assert.Equal(t, "kept", tree(t, dst)["kept"])
		assert.Equal(t, "new\n", tree(t, dst)["out/file"])
	})
	t.Run("import of links and devices", func(t *testing.T) {
		src := t.TempDir()
		require.NoError(t, os.Symlink("/etc/passwd", src+"/link"))
		_, err := s.Import(ctx, "in", src, nil)
		assert.ErrorIs(t, err, ErrFileKind)
		_, err = s.Import(ctx, "in", src+"/link", nil)
		assert.ErrorIs(t, err, ErrFileKind)
		_, err = s.Import(ctx, "in", "/dev/zero", nil)
		assert.ErrorIs(t, err, ErrFileKind)
		require.NoError(t, sh(s, "! test -e in").Run())
	})
}

func TestExportOfProtectedPaths(t *testing.T) {
	log := audittest.NewLog(t)
	s := box(t, log, nil, nil)
	ctx := context.Background()
	for _, c := range []struct {
		files string // made inside, in out
		to    string // where out goes, "out" if empty
		found string
	}{
		{files: ".git/hooks/post-checkout", found: "/sandbox/out/.git/hooks/post-checkout"},
		{files: "a/b/.git/config", found: "/sandbox/out/a/b/.git/config"},
		{files: ".GIT/Config", found: "/sandbox/out/.GIT/Config"},
		{files: ".mcp.json", found: "/sandbox/out/.mcp.json"},
		{files: "x/.vscode/tasks.json", found: "/sandbox/out/x/.vscode/tasks.json"},
		{files: ".claude/settings.json", found: "/sandbox/out/.claude/settings.json"},
		{files: ".envrc", found: "/sandbox/out/.envrc"},
		{files: ".git", found: "/sandbox/out/.git"},
		{files: "bare/HEAD bare/objects/x bare/refs/x bare/config", found: "/sandbox/out/bare/config"},
		{files: "hooks/pre-commit", to: ".git", found: "/sandbox/out/hooks/pre-commit"},
		{files: "mcp.json", to: "out"},
		{files: "git/hooks/x config src/config refs/x", to: "out"},
	} {
		t.Run(c.files, func(t *testing.T) {
			out, err := sh(s, "rm -rf out; mkdir out; cd out; for f in "+c.files+"; do mkdir -p $(dirname $f); echo planted > $f; done").CombinedOutput()
			require.NoError(t, err, string(out))
			dst := t.TempDir()
			if c.to == "" {
				c.to = "out"
			}
			_, err = s.Export(ctx, "out", dst+"/"+c.to, nil)
			if c.found == "" {
				assert.NoError(t, err)
				return
			}
			var refused *ProtectedError
			require.ErrorAs(t, err, &refused)
			assert.Contains(t, refused.Paths, c.found)
			assert.Empty(t, tree(t, dst))
			last := log.Records()[len(log.Records())-1]
			assert.Equal(t, "end failed protected-paths", summary(last))
			assert.Contains(t, last.Outcome.Checks, "protected:"+c.found)
			got, err := s.Export(ctx, "out", dst+"/"+c.to, &ExportOptions{AllowProtected: true})
			require.NoError(t, err)
			assert.Contains(t, got.Protected, c.found)
			last = log.Records()[len(log.Records())-1]
			assert.Equal(t, "end ok", summary(last))
			assert.Contains(t, last.Outcome.Checks, "protected:"+c.found)
		})
	}
	t.Run("config for a repository that is there", func(t *testing.T) {
		require.NoError(t, sh(s, "rm -rf out; mkdir out; touch out/config").Run())
		dst := t.TempDir()
		makeFiles(t, dst, map[string]string{"repo/HEAD": "", "repo/objects/": "", "repo/refs/": ""})
		var refused *ProtectedError
		_, err := s.Export(ctx, "out", dst+"/repo", nil)
		assert.ErrorAs(t, err, &refused)
		_, err = s.Export(ctx, "out/config", dst+"/repo/config", nil)
		assert.ErrorAs(t, err, &refused)
	})
}

func TestIsProtected(t *testing.T) {
	list := []string{".git/hooks", "/srv/cache/x", ".env"}
	for path, want := range map[string]bool{
		"/sandbox/.git/hooks": true, "/sandbox/a/.git/hooks/b": true, "/sandbox/.Git/HOOKS": true, "/sandbox/.git/hook": false, "/sandbox/.git": false,
		"/srv/cache/x": true, "/srv/cache/x/y": true, "/sandbox/srv/cache/x": false, "/srv/cache": false,
		"/sandbox/.env": true, "/sandbox/.env.local": false, "/sandbox/x.env": false, "/": false, "": false,
	} {
		assert.Equal(t, want, isProtected(list, path), path)
	}
}

// TestExportRace exports while a program puts links to a secret in the place of
// folders and files, as fast as it can: nothing but what is in the workspace ever
// arrives.
func TestExportRace(t *testing.T) {
	secret := t.TempDir()
	makeFiles(t, secret, map[string]string{"secret": "secret"})
	for i := range swapFiles {
		makeFiles(t, secret, map[string]string{fmt.Sprintf("folder/file%d", i): "secret"})
	}
	require.NoError(t, os.Chmod(secret, 0o755))
	s := box(t, audittest.NewLog(t), nil, &Options{Self: true})
	ctx, cancel := context.WithCancel(context.Background())
	c := s.Command(ctx, Self)
	c.Env = append(roleEnv("swap"), "SANDBOX_TEST_SECRET="+secret)
	var wg sync.WaitGroup
	up := make(chan struct{})
	c.Stdout = writerFunc(func(b []byte) (int, error) { close(up); return len(b), nil })
	wg.Go(func() { assert.ErrorIs(t, c.Run(), context.Canceled) })
	<-up
	arrived, refused := 0, 0
	for range loops(20, 300, 3000) {
		dst := t.TempDir()
		_, err := s.Export(ctx, "out", dst+"/out", &ExportOptions{CopyOptions: CopyOptions{SkipOthers: true}})
		if err != nil {
			refused++
			assert.Empty(t, tree(t, dst))
			continue
		}
		arrived++
		for p, text := range tree(t, dst) {
			assert.NotContains(t, text, "secret", p)
		}
	}
	t.Logf("%d arrived, %d refused", arrived, refused)
	cancel()
	wg.Wait()
}

// swapFiles is how many chances one copy of the folder gives.
const swapFiles = 100

func init() {
	roles["swap"] = func() {
		secret := os.Getenv("SANDBOX_TEST_SECRET")
		must := func(err error) {
			if err != nil && !errors.Is(err, fs.ErrExist) {
				panic(err)
			}
		}
		must(os.MkdirAll("out/folder", 0o755))
		for i := range swapFiles {
			must(os.WriteFile(fmt.Sprintf("out/folder/file%d", i), []byte("good"), 0o644))
		}
		must(os.WriteFile("out/file", []byte("good"), 0o644))
		must(os.Symlink(secret+"/folder", "evil-folder"))
		must(os.Symlink(secret+"/secret", "evil-file"))
		os.Stdout.WriteString("up")
		for {
			for _, name := range []string{"folder", "file"} {
				if err := exchange("evil-"+name, "out/"+name); err != nil {
					panic(err)
				}
			}
		}
	}
}

// loops returns a number of rounds for plain, full and soak mode.
func loops(plain, full, soak int) int {
	switch {
	case os.Getenv("TWINWARD_SOAK") == "1":
		return soak
	case os.Getenv("TWINWARD_FULL") == "1":
		return full
	}
	return plain
}

func TestWorkspaceThatVanishes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "work")
	require.NoError(t, os.Mkdir(dir, 0o755))
	s := box(t, audittest.NewLog(t), nil, &Options{Workspace: dir})
	require.NoError(t, os.Remove(dir))
	_, err := s.Export(context.Background(), ".", t.TempDir()+"/x", nil)
	assert.ErrorIs(t, err, ErrWorkspace)
	// Another one in its place is not the session's.
	require.NoError(t, os.Mkdir(dir, 0o755))
	makeFiles(t, dir, map[string]string{"file": "not the session's"})
	_, err = s.Export(context.Background(), ".", t.TempDir()+"/x", nil)
	assert.ErrorIs(t, err, ErrWorkspace)
	_, err = s.ImportFS(context.Background(), ".", fstest.MapFS{"a": {}}, nil)
	assert.ErrorIs(t, err, ErrWorkspace)
	_, err = Start(context.Background(), nil, agent, audittest.NewLog(t), &Options{Workspace: dir + "/file"})
	assert.ErrorIs(t, err, ErrWorkspace)
	_, err = Start(context.Background(), nil, agent, audittest.NewLog(t), &Options{Workspace: dir + "/none"})
	assert.ErrorIs(t, err, ErrWorkspace)
}

func exchange(a, b string) error {
	return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
}
