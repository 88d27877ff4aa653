package gitanchor_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/gitanchor"
)

var ctx = context.Background()

// newRemote makes a repository that a host can only push to.
func newRemote(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		if os.Getenv("TWINWARD_FULL")+os.Getenv("TWINWARD_SOAK") != "" {
			t.Fatal("git is missing")
		}
		t.Skip("git is not installed")
	}
	// No settings of the machine's.
	t.Setenv("HOME", t.TempDir())
	t.Setenv("GIT_CONFIG_NOSYSTEM", "1")
	remote := filepath.Join(t.TempDir(), "remote.git")
	git(t, "init", "-q", "--bare", remote)
	git(t, "-C", remote, "config", "receive.denyNonFastForwards", "true")
	git(t, "-C", remote, "config", "receive.denyDeletes", "true")
	return remote
}

func git(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("git", args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

func newAnchor(t *testing.T, remote string) *gitanchor.Anchor {
	t.Helper()
	a, err := gitanchor.New(gitanchor.Options{Remote: remote, Branch: "audit/host7", Dir: filepath.Join(t.TempDir(), "copy")})
	require.NoError(t, err)
	return a
}

func writeLog(t *testing.T, dir string, a audit.Anchor, n int, agent string) error {
	t.Helper()
	log, err := audit.Open(dir, &audit.Options{KeyFile: dir + ".key", Anchors: []audit.Anchor{a}, AnchorEvery: -1, AnchorRecords: -1})
	if err != nil {
		return err
	}
	for range n {
		require.NoError(t, log.Append(ctx, audit.Event{Kind: audit.KindProbe, Actor: audit.Actor{Agent: agent}}))
	}
	_, err = log.Checkpoint(ctx)
	require.NoError(t, err)
	return log.Close()
}

func TestCheckpointsAreCommits(t *testing.T) {
	remote := newRemote(t)
	a := newAnchor(t, remote)
	latest, err := a.Latest(ctx)
	require.NoError(t, err)
	assert.Empty(t, latest, "a repository without the branch")
	dir := filepath.Join(t.TempDir(), "log")
	require.NoError(t, writeLog(t, dir, a, 3, "standup"))
	require.NoError(t, writeLog(t, dir, newAnchor(t, remote), 2, "standup"), "another local copy")

	auditor := newAnchor(t, remote)
	history, err := auditor.History(ctx, 0)
	require.NoError(t, err)
	require.Len(t, history, 4, "two by Checkpoint, two by Close")
	latest, err = auditor.Latest(ctx)
	require.NoError(t, err)
	assert.Equal(t, history[0], string(latest))
	require.NoError(t, auditor.Publish(ctx, latest))
	few, err := auditor.History(ctx, 2)
	require.NoError(t, err)
	assert.Equal(t, history[:2], few, "what is there is not committed again")
	key, err := audit.LoadKey(dir + ".key")
	require.NoError(t, err)
	rep, err := audit.Verify(ctx, os.DirFS(dir), &audit.VerifyOptions{Key: key.VerifierKey(), Anchors: history})
	require.NoError(t, err)
	assert.EqualValues(t, 5, rep.Anchored)
	assert.Equal(t, 4, rep.Anchors)
}

// Root on the host has the signing key, the log, the local copy and the right to
// push. It rewrites the log; the auditor has the key and the remote.
func TestRootOnTheHost(t *testing.T) {
	remote := newRemote(t)
	dir := filepath.Join(t.TempDir(), "log")
	require.NoError(t, writeLog(t, dir, newAnchor(t, remote), 4, "standup"))
	key, err := audit.LoadKey(dir + ".key")
	require.NoError(t, err)
	require.NoError(t, os.RemoveAll(dir))
	forger := filepath.Join(t.TempDir(), "forger")
	require.NoError(t, writeLog(t, dir, audit.FileAnchor(forger), 9, "nobody"))
	pinned := &audit.VerifyOptions{Key: key.VerifierKey()}
	_, err = audit.Verify(ctx, os.DirFS(dir), pinned)
	require.NoError(t, err, "the key alone finds nothing")

	// It cannot take the checkpoints back.
	tool := filepath.Join(t.TempDir(), "tool")
	git(t, "clone", "-q", "--branch", "audit/host7", remote, tool)
	git(t, "-C", tool, "checkout", "-q", "--orphan", "new")
	text, err := os.ReadFile(forger)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(tool, gitanchor.File), text, 0o600))
	git(t, "-C", tool, "-c", "user.name=x", "-c", "user.email=x", "commit", "-q", "-a", "-m", "checkpoint")
	require.Error(t, exec.Command("git", "-C", tool, "push", "-f", "origin", "new:audit/host7").Run())
	require.Error(t, exec.Command("git", "-C", tool, "push", "origin", ":audit/host7").Run())
	// It can add its own.
	assert.ErrorIs(t, writeLog(t, dir, newAnchor(t, remote), 1, "nobody"), audit.ErrTampered, "the log does not even open with its anchor")
	require.NoError(t, newAnchor(t, remote).Publish(ctx, text))

	pinned.Anchors, err = newAnchor(t, remote).History(ctx, 0)
	require.NoError(t, err)
	_, err = audit.Verify(ctx, os.DirFS(dir), pinned)
	assert.ErrorIs(t, err, audit.ErrTampered)
}

func TestWhatGitSays(t *testing.T) {
	newRemote(t)
	a, err := gitanchor.New(gitanchor.Options{Remote: "/no/such/repository?password", Branch: "b", Dir: filepath.Join(t.TempDir(), "copy")})
	require.NoError(t, err)
	for _, err := range []error{a.Publish(ctx, []byte("x")), func() error { _, err := a.Latest(ctx); return err }()} {
		assert.ErrorIs(t, err, audit.ErrAnchor)
		assert.NotContains(t, err.Error(), "password")
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	assert.ErrorIs(t, a.Publish(ended, []byte("x")), context.Canceled)
}

// A repository in the log's own folder is no anchor, whatever it is called.
func TestInTheLogsFolder(t *testing.T) {
	newRemote(t)
	dir := filepath.Join(t.TempDir(), "log")
	in, out := filepath.Join(dir, "git"), filepath.Join(t.TempDir(), "git")
	for _, o := range []gitanchor.Options{
		{Remote: in, Branch: "b", Dir: out}, {Remote: "file://" + in, Branch: "b", Dir: out}, {Remote: "file://localhost" + in, Branch: "b", Dir: out},
		{Remote: "ssh://git@example.com/x", Branch: "b", Dir: in},
	} {
		a, err := gitanchor.New(o)
		require.NoError(t, err)
		_, err = audit.Open(dir, &audit.Options{Anchors: []audit.Anchor{a}})
		assert.ErrorIs(t, err, audit.ErrAnchor)
		assert.ErrorContains(t, err, "inside the log's folder")
	}
	for _, remote := range []string{"git@example.com:" + in, "https://example.com" + in} {
		a, err := gitanchor.New(gitanchor.Options{Remote: remote, Branch: "b", Dir: out})
		require.NoError(t, err)
		assert.Equal(t, []string{out}, a.Paths())
	}
}

// Another ref whose name ends like the branch's is not the branch.
func TestRefsThatLookLikeTheBranch(t *testing.T) {
	remote := newRemote(t)
	other, err := gitanchor.New(gitanchor.Options{Remote: remote, Branch: "x/refs/heads/audit/host7", Dir: filepath.Join(t.TempDir(), "copy")})
	require.NoError(t, err)
	require.NoError(t, other.Publish(ctx, []byte("another's")))
	a := newAnchor(t, remote)
	latest, err := a.Latest(ctx)
	require.NoError(t, err)
	assert.Nil(t, latest)
	require.NoError(t, a.Publish(ctx, []byte("ours")))
	latest, err = a.Latest(ctx)
	require.NoError(t, err)
	assert.Equal(t, "ours", string(latest))
}

// A branch may hold anything: a large file is not read.
func TestLargeFile(t *testing.T) {
	remote := newRemote(t)
	a := newAnchor(t, remote)
	require.NoError(t, a.Publish(ctx, make([]byte, 64<<10)))
	_, err := a.Latest(ctx)
	require.NoError(t, err)
	require.NoError(t, a.Publish(ctx, make([]byte, 64<<10+1)))
	_, err = a.Latest(ctx)
	assert.ErrorIs(t, err, audit.ErrAnchor)
}

func TestOptions(t *testing.T) {
	good := gitanchor.Options{Remote: "r", Branch: "audit/host-7.example", Dir: "d"}
	_, err := gitanchor.New(good)
	require.NoError(t, err)
	for _, branch := range []string{"", "/", "-x", "x-", "a//b", "a..b", ".a", "a.lock", "a b", "a:b", "+a", "a^", "ä"} {
		o := good
		o.Branch = branch
		_, err := gitanchor.New(o)
		assert.ErrorIs(t, err, audit.ErrAnchor, branch)
	}
	for _, o := range []gitanchor.Options{{Branch: "b", Dir: "d"}, {Remote: "--upload-pack=x", Branch: "b", Dir: "d"}, {Remote: "r", Branch: "b"}} {
		_, err := gitanchor.New(o)
		assert.ErrorIs(t, err, audit.ErrAnchor)
	}
}
