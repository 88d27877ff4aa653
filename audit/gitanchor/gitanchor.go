// Package gitanchor keeps the checkpoints of an audit log in a git repository
// that the log's host can push to and not rewrite.
//
// Each checkpoint is a commit on a branch of its own, with one file. Nothing is
// ever pushed with force: a host whose log was rewritten or rolled back finds a
// newer checkpoint there when it opens the log. The protection is the server's:
// let it refuse forced pushes and the deletion of the branch
// (receive.denyNonFastForwards and receive.denyDeletes, or a protected branch).
//
// The auditor clones the branch and gives its checkpoint to [audit.Verify], or
// all that it ever had: [History].
package gitanchor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// Options configure an anchor.
type Options struct {
	// Remote is the repository to push to: a URL or a path, as git takes it.
	Remote string
	// Branch is the branch of this log, which nothing else may use.
	Branch string
	// Dir is a folder for the local copy. It is made if missing, and can be deleted.
	// It must lie outside the log's folder.
	Dir string
	// Env are variables for git besides those of the process, such as
	// GIT_SSH_COMMAND. Git never asks for a password.
	Env []string
	// Timeout bounds one command of git. Zero means 20 seconds.
	Timeout time.Duration
}

// File is the name of the file that holds the checkpoint.
const File = "checkpoint"

// maxFile is the largest checkpoint that is read, in bytes.
const maxFile = 64 << 10

// Anchor is an [audit.AnchorReader] over a branch of a repository. It runs the
// command git.
type Anchor struct {
	o  Options
	mu sync.Mutex
}

// New returns an anchor. It does not ask the remote anything yet.
func New(o Options) (*Anchor, error) {
	switch {
	case o.Remote == "" || strings.HasPrefix(o.Remote, "-"):
		return nil, fmt.Errorf("%w: the remote repository %q", audit.ErrAnchor, o.Remote)
	case o.Dir == "":
		return nil, fmt.Errorf("%w: no folder for the local copy", audit.ErrAnchor)
	case !validBranch(o.Branch):
		return nil, fmt.Errorf("%w: %q is no name of a branch (letters, digits, and . _ / - between them)", audit.ErrAnchor, o.Branch)
	}
	if o.Timeout == 0 {
		o.Timeout = 20 * time.Second
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", audit.ErrAnchor, err)
	}
	o.Dir = dir
	return &Anchor{o: o}, nil
}

// Paths implements [audit.PathAnchor]: the local copy, and the repository itself if
// it is on this machine.
func (a *Anchor) Paths() []string {
	paths := []string{a.o.Dir}
	switch path, isFile := strings.CutPrefix(a.o.Remote, "file://"); {
	case isFile:
		paths = append(paths, strings.TrimPrefix(path, "localhost"))
	case !strings.Contains(a.o.Remote, "://") && !isHostPath(a.o.Remote):
		paths = append(paths, a.o.Remote)
	}
	return paths
}

// isHostPath reports whether git takes a remote for HOST:PATH, which is so if there
// is no slash before the colon (a Windows drive is one letter).
func isHostPath(remote string) bool {
	host, _, ok := strings.Cut(remote, ":")
	return ok && len(host) > 1 && !strings.ContainsAny(host, `/\`)
}

// validBranch allows fewer names than git does.
func validBranch(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || strings.HasSuffix(part, ".lock") || strings.Contains(part, "..") ||
			strings.ContainsAny(part[:1]+part[len(part)-1:], ".-") {
			return false
		}
		for _, r := range part {
			if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", r) {
				return false
			}
		}
	}
	return true
}

// Publish implements [audit.Anchor]: it returns once the remote has the commit.
// It fails if the branch has moved on by somebody else's doing in between.
func (a *Anchor) Publish(ctx context.Context, checkpoint []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	tip, err := a.fetch(ctx)
	if err != nil {
		return err
	}
	blob, err := a.git(ctx, checkpoint, "hash-object", "-w", "--stdin")
	if err != nil {
		return err
	}
	tree, err := a.git(ctx, fmt.Appendf(nil, "100644 blob %s\t%s\n", blob, File), "mktree")
	if err != nil {
		return err
	}
	args := []string{"commit-tree", tree, "-m", "checkpoint"}
	if tip != "" {
		old, err := a.git(ctx, nil, "rev-parse", "--verify", tip+"^{tree}")
		if err != nil {
			return err
		}
		if old == tree {
			return nil // it is there
		}
		args = append(args, "-p", tip)
	}
	commit, err := a.git(ctx, nil, args...)
	if err != nil {
		return err
	}
	_, err = a.git(ctx, nil, "push", "--quiet", "--no-verify", "--", a.o.Remote, commit+":refs/heads/"+a.o.Branch)
	return err
}

// Latest implements [audit.AnchorReader].
func (a *Anchor) Latest(ctx context.Context) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	tip, err := a.fetch(ctx)
	if err != nil || tip == "" {
		return nil, err
	}
	return a.file(ctx, tip)
}

// History returns the checkpoints that the branch ever had, newest first, for
// [audit.VerifyOptions.Anchors]: at most so many, all if that is 0.
func (a *Anchor) History(ctx context.Context, most int) ([]string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	tip, err := a.fetch(ctx)
	if err != nil || tip == "" {
		return nil, err
	}
	args := []string{"rev-list", "--first-parent"}
	if most > 0 {
		args = append(args, fmt.Sprintf("--max-count=%d", most))
	}
	commits, err := a.git(ctx, nil, append(args, tip, "--")...)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, commit := range strings.Fields(commits) {
		text, err := a.file(ctx, commit)
		if err != nil {
			return nil, err
		}
		all = append(all, string(text))
	}
	return all, nil
}

// fetch returns the remote's newest commit, or nothing if there is no branch.
func (a *Anchor) fetch(ctx context.Context) (string, error) {
	if err := os.MkdirAll(a.o.Dir, 0o700); err != nil {
		return "", fmt.Errorf("%w: %w", audit.ErrAnchor, err)
	}
	if _, err := os.Stat(filepath.Join(a.o.Dir, "HEAD")); errors.Is(err, os.ErrNotExist) {
		if _, err := a.git(ctx, nil, "init", "--quiet", "--bare", "--template="); err != nil {
			return "", err
		}
	}
	ref := "refs/heads/" + a.o.Branch
	out, err := a.git(ctx, nil, "ls-remote", "--", a.o.Remote, ref)
	if err != nil || !listed(out, ref) {
		return "", err
	}
	// A plus: a branch that was replaced at the remote is what it is.
	if _, err := a.git(ctx, nil, "fetch", "--quiet", "--no-tags", "--", a.o.Remote, "+"+ref+":"+ref); err != nil {
		return "", err
	}
	return a.git(ctx, nil, "rev-parse", "--verify", ref+"^{commit}")
}

// listed reports whether a ref is in the output of ls-remote, whose patterns also
// fit the ends of names.
func listed(out, ref string) bool {
	for line := range strings.Lines(out) {
		if _, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t"); ok && name == ref {
			return true
		}
	}
	return false
}

// file returns the checkpoint in a commit.
func (a *Anchor) file(ctx context.Context, commit string) ([]byte, error) {
	size, err := a.git(ctx, nil, "cat-file", "-s", commit+":"+File)
	if err != nil {
		return nil, err
	}
	if n, err := strconv.Atoi(size); err != nil || n > maxFile {
		return nil, fmt.Errorf("%w: the file %s has %s bytes", audit.ErrAnchor, File, size)
	}
	return a.run(ctx, nil, "cat-file", "blob", commit+":"+File)
}

// git runs a command and returns what it printed, without the newline.
func (a *Anchor) git(ctx context.Context, stdin []byte, args ...string) (string, error) {
	out, err := a.run(ctx, stdin, args...)
	return strings.TrimSuffix(string(out), "\n"), err
}

func (a *Anchor) run(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, a.o.Timeout)
	defer cancel()
	// Nobody's hooks and signing keys, and no object that is not what it says.
	all := append([]string{"--git-dir=" + a.o.Dir, "-c", "core.hooksPath=" + os.DevNull, "-c", "commit.gpgSign=false", "-c", "push.gpgSign=false",
		"-c", "fetch.fsckObjects=true", "-c", "gc.auto=0", "-c", "core.fsync=all"}, args...)
	cmd := exec.CommandContext(ctx, "git", all...)
	cmd.WaitDelay = time.Second
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Env = append(environ(),
		"GIT_TERMINAL_PROMPT=0", "LC_ALL=C", "GIT_AUTHOR_NAME=audit", "GIT_AUTHOR_EMAIL=", "GIT_COMMITTER_NAME=audit", "GIT_COMMITTER_EMAIL=")
	cmd.Env = append(cmd.Env, a.o.Env...)
	var out bytes.Buffer
	var said head
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		// The first line says what it is about. A URL in it may hold a password.
		line, _, _ := strings.Cut(strings.TrimSpace(string(said)), "\n")
		line = strings.ReplaceAll(line, a.o.Remote, "(remote)")
		return nil, fmt.Errorf("%w: git %s: %w: %.200s", audit.ErrAnchor, args[0], errors.Join(err, ctx.Err()), line)
	}
	return out.Bytes(), nil
}

// A head keeps the beginning of what is written to it: a server says as much as it
// likes.
type head []byte

// maxHead is how much.
const maxHead = 4 << 10

func (h *head) Write(p []byte) (int, error) {
	*h = append(*h, p[:min(len(p), maxHead-len(*h))]...)
	return len(p), nil
}

// environ is the process's environment without what points git elsewhere.
func environ() []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		switch name {
		case "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_NAMESPACE":
		default:
			env = append(env, kv)
		}
	}
	return env
}
