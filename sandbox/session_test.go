//go:build linux && (amd64 || arm64)

package sandbox

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

var agent = audit.Actor{Agent: "tester"}

// needSandbox skips where user namespaces and so on are not to be had, unless
// TWINWARD_FULL=1 says that they must be.
func needSandbox(t testing.TB) {
	t.Helper()
	if missing := probeOnce().Missing; len(missing) > 0 {
		if os.Getenv("TWINWARD_FULL") == "1" {
			t.Fatalf("TWINWARD_FULL=1, but this system lacks %v: %v", missing, probeOnce().Reasons)
		}
		t.Skipf("this system lacks %v: %v", missing, probeOnce().Reasons)
	}
}

// box starts a session, or skips the test where the system cannot have one.
func box(t testing.TB, log audit.Recorder, p *Policy, opts *Options) *Session {
	t.Helper()
	needSandbox(t)
	s, err := Start(context.Background(), p, agent, log, opts)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func sh(s *Session, script string) *Cmd { return s.Command(context.Background(), "sh", "-c", script) }

func TestSessionIsOnRecord(t *testing.T) {
	log := audittest.NewLog(t)
	s := box(t, log, nil, nil)
	out, err := sh(s, "id -u; pwd; hostname; echo hi > file").CombinedOutput()
	require.NoError(t, err, string(out))
	assert.Equal(t, "1000\n/sandbox\nsandbox\n", string(out))
	b, err := os.ReadFile(s.Workspace() + "/file")
	require.NoError(t, err)
	assert.Equal(t, "hi\n", string(b))
	var exit *ExitError
	require.ErrorAs(t, sh(s, "exit 3").Run(), &exit)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close(), "a second time")
	assert.NoDirExists(t, s.Workspace())
	<-s.Done()

	var kinds []string
	for _, r := range log.Records() {
		kinds = append(kinds, summary(r))
	}
	assert.Equal(t, []string{"sandbox.launch", "begin exec", "end ok", "begin exec", "end failed exit-3", "sandbox.exit"}, kinds)
}

func TestReportTellsTheTruth(t *testing.T) {
	s := box(t, audittest.NewLog(t), nil, nil)
	r := s.Report()
	for _, l := range Layers() {
		if l != LayerIDMap { // nothing to translate here
			assert.Contains(t, r.Layers, l)
		}
	}
	assert.NotZero(t, r.UID)
	assert.GreaterOrEqual(t, r.LandlockABI, 3)
	out, err := sh(s, "cat /proc/self/status").Output()
	require.NoError(t, err)
	for k, v := range r.Status {
		assert.Contains(t, string(out), k+":\t"+v+"\n", "the report differs from what a program has")
	}
	for _, without := range []Layer{LayerLandlock, LayerSeccomp, LayerCaps, LayerRlimits, LayerCgroup} {
		s, err := Start(context.Background(), nil, agent, audittest.NewLog(t), &Options{without: []Layer{without}})
		require.NoError(t, err)
		assert.NotContains(t, s.Report().Layers, without)
		s.Close()
	}
}

func TestStartRefuses(t *testing.T) {
	needSandbox(t)
	ctx := context.Background()
	log := audittest.NewLog(t)
	t.Setenv("TMPDIR", t.TempDir()) // other programs have sessions too
	_, err := Start(ctx, nil, agent, nil, nil)
	assert.ErrorIs(t, err, audit.ErrNoLog)
	_, err = Start(ctx, nil, audit.Actor{}, log, nil)
	assert.ErrorIs(t, err, audit.ErrNoActor)
	var pe *PolicyError
	_, err = Start(ctx, &Policy{Filesystem: Filesystem{ReadOnly: []string{"relative"}}}, agent, log, nil)
	assert.ErrorAs(t, err, &pe)
	_, err = Start(ctx, &Policy{Filesystem: Filesystem{ReadOnly: []string{"/etc"}}}, agent, log, nil)
	assert.ErrorAs(t, err, &pe)
	var le *LayerError
	_, err = Start(ctx, &Policy{Filesystem: Filesystem{ReadOnly: []string{"/no/such/path"}}}, agent, log, nil)
	assert.ErrorAs(t, err, &le)
	_, err = Start(ctx, nil, agent, log, &Options{Workspace: "/no/such/path"})
	assert.ErrorIs(t, err, os.ErrNotExist)
	gone, cancel := context.WithCancelCause(ctx)
	revoked := errors.New("revoked")
	cancel(revoked)
	_, err = Start(gone, nil, agent, log, nil)
	assert.ErrorIs(t, err, revoked)
	full := errors.New("disk full")
	log.Fail(full)
	_, err = Start(ctx, nil, agent, log, nil)
	assert.ErrorIs(t, err, full, "a launch that is not on record must not be")
	log.Fail(nil)
	assert.Empty(t, log.Records(), "nothing of this was a launch")
	left, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	assert.Empty(t, left, "a workspace was left behind")
}

func TestNothingRunsUnrecorded(t *testing.T) {
	log := audittest.NewLog(t)
	s := box(t, log, nil, nil)
	full := errors.New("disk full")
	log.Fail(full)
	err := sh(s, "touch ran").Run()
	log.Fail(nil)
	require.ErrorIs(t, err, full)
	assert.NoFileExists(t, s.Workspace()+"/ran")
	// And an outcome that cannot be recorded is told.
	c := sh(s, "read line")
	in, err := c.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	log.Fail(full)
	in.Close()
	assert.ErrorIs(t, c.Wait(), full)
	log.Fail(nil)
}

func TestCancelEndsTheSession(t *testing.T) {
	needSandbox(t)
	log := audittest.NewLog(t)
	ctx, cancel := context.WithCancel(context.Background())
	s, err := Start(ctx, nil, agent, log, nil)
	require.NoError(t, err)
	c := s.Command(context.Background(), "sh", "-c", "setsid sh -c 'echo up; sleep 1000' & wait")
	out, err := c.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "up\n", line)
	cancel()
	<-s.Done()
	assert.ErrorIs(t, c.Wait(), ErrEnded)
	assert.ErrorIs(t, sh(s, "true").Run(), ErrEnded)
	assert.NoDirExists(t, s.Workspace())
	r := log.Records()
	assert.Equal(t, []string{"end cancelled killed", "sandbox.exit"}, []string{summary(r[len(r)-2]), summary(r[len(r)-1])})
}

func TestCommand(t *testing.T) {
	s := box(t, audittest.NewLog(t), &Policy{Environment: Environment{"FROM_POLICY": "p"}}, nil)
	ctx := context.Background()
	t.Run("copies input and output", func(t *testing.T) {
		c := sh(s, "cat; echo err >&2")
		var out, errs bytes.Buffer
		big := strings.Repeat("0123456789", 100_000)
		c.Stdin, c.Stdout, c.Stderr = strings.NewReader(big), &out, &errs
		require.NoError(t, c.Run())
		assert.Equal(t, big, out.String())
		assert.Equal(t, "err\n", errs.String())
		assert.True(t, c.ProcessState.Success())
	})
	t.Run("does not want its input", func(t *testing.T) {
		c := sh(s, "exit 0")
		c.Stdin = strings.NewReader(strings.Repeat("x", 1<<20))
		assert.NoError(t, c.Run())
	})
	t.Run("pipes", func(t *testing.T) {
		c := sh(s, "while read l; do echo got $l; done")
		in, err := c.StdinPipe()
		require.NoError(t, err)
		out, err := c.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, c.Start())
		r := bufio.NewReader(out)
		for i := range 3 {
			fmt.Fprintln(in, i)
			l, err := r.ReadString('\n')
			require.NoError(t, err)
			assert.Equal(t, fmt.Sprintf("got %d\n", i), l)
		}
		require.NoError(t, in.Close())
		rest, err := io.ReadAll(r)
		require.NoError(t, err)
		assert.Empty(t, rest)
		require.NoError(t, c.Wait())
	})
	t.Run("environment and directory", func(t *testing.T) {
		c := sh(s, "echo $FROM_POLICY $MINE $HOME; pwd")
		c.Env, c.Dir = []string{"MINE=m", "HOME=/tmp"}, "/tmp"
		out, err := c.Output()
		require.NoError(t, err)
		assert.Equal(t, "p m /tmp\n/tmp\n", string(out))
	})
	t.Run("descriptors", func(t *testing.T) {
		r, w, err := os.Pipe()
		require.NoError(t, err)
		c := sh(s, "echo three >&3; ls -l /proc/self/fd | wc -l")
		c.ExtraFiles = []*os.File{w}
		out, err := c.Output()
		require.NoError(t, err)
		w.Close()
		got, err := io.ReadAll(r)
		require.NoError(t, err)
		assert.Equal(t, "three\n", string(got))
		assert.Equal(t, "6\n", string(out), "a total, 0, 1, 2, 3 and the directory itself")
	})
	t.Run("no directory descriptors", func(t *testing.T) {
		root, err := os.Open("/")
		require.NoError(t, err)
		defer root.Close()
		c := sh(s, "ls /proc/self/fd/3/")
		c.ExtraFiles = []*os.File{root}
		assert.ErrorContains(t, c.Run(), "lead out of the sandbox")
	})
	t.Run("opens its own pipes anew", func(t *testing.T) {
		out, err := sh(s, "echo a > /dev/stdout; echo b > /dev/stderr").CombinedOutput()
		require.NoError(t, err)
		assert.Equal(t, "a\nb\n", string(out))
	})
	t.Run("not found", func(t *testing.T) {
		assert.ErrorIs(t, s.Command(ctx, "no-such-program").Run(), ErrNotFound)
		assert.ErrorIs(t, s.Command(ctx, "/no/such/program").Run(), ErrNotFound)
		assert.ErrorIs(t, s.Command(ctx, "/etc/hosts").Run(), syscall.EACCES)
	})
	t.Run("failure", func(t *testing.T) {
		_, err := sh(s, "echo why >&2; exit 7").Output()
		var exit *ExitError
		require.ErrorAs(t, err, &exit)
		assert.Equal(t, 7, exit.ExitCode())
		assert.Equal(t, "why\n", string(exit.Stderr))
	})
	t.Run("signal", func(t *testing.T) {
		c := sh(s, "echo up; exec sleep 1000")
		out, err := c.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, c.Start())
		_, err = bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		require.NoError(t, c.Signal(syscall.SIGTERM))
		var exit *ExitError
		require.ErrorAs(t, c.Wait(), &exit)
		assert.Equal(t, syscall.SIGTERM, exit.Signal())
		assert.Equal(t, -1, exit.ExitCode())
	})
	t.Run("cancelled with its children", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		c := s.Command(ctx, "sh", "-c", "sleep 1000 & echo up; wait")
		out, err := c.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, c.Start())
		r := bufio.NewReader(out)
		_, err = r.ReadString('\n')
		require.NoError(t, err)
		cancel()
		_, err = io.ReadAll(r) // ends when the child is dead too
		require.NoError(t, err)
		assert.ErrorIs(t, c.Wait(), context.Canceled)
		assert.ErrorIs(t, s.Command(ctx, "true").Run(), context.Canceled)
	})
	t.Run("cancelled while one that left the group holds the pipe", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		c := s.Command(ctx, "sh", "-c", "setsid sh -c 'echo up; exec sleep 1000' &")
		started := make(chan struct{})
		c.Stdout = writerFunc(func(b []byte) (int, error) { close(started); return len(b), nil })
		require.NoError(t, c.Start())
		<-started
		cancel()
		assert.ErrorIs(t, c.Wait(), context.Canceled)
	})
	t.Run("more output than the host wants to hold", func(t *testing.T) {
		out, err := sh(s, "exec cat /dev/zero").Output()
		assert.ErrorIs(t, err, errOutput)
		var exit *ExitError
		require.ErrorAs(t, err, &exit)
		assert.Equal(t, syscall.SIGPIPE, exit.Signal())
		assert.Len(t, out, maxOutput)
	})
	t.Run("misuse", func(t *testing.T) {
		c := sh(s, "true")
		assert.Error(t, c.Wait(), "before Start")
		require.NoError(t, c.Run())
		assert.Error(t, c.Start(), "again")
		assert.Error(t, c.Wait(), "again")
		assert.Error(t, (&Cmd{Path: "true"}).Run(), "not made by a session")
	})
	t.Run("many at once and in a row", func(t *testing.T) {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for j := range 10 {
					out, err := sh(s, fmt.Sprintf("echo %d-%d", i, j)).Output()
					assert.NoError(t, err)
					assert.Equal(t, fmt.Sprintf("%d-%d\n", i, j), string(out))
				}
			})
		}
		wg.Wait()
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestForkBomb(t *testing.T) {
	s := box(t, audittest.NewLog(t), &Policy{Process: Process{MaxProcesses: 64}}, nil)
	out, err := sh(s, "i=0; while [ $i -lt 100 ]; do sleep 1000 >/dev/null 2>&1 & i=$((i+1)); done; echo all").CombinedOutput()
	assert.Error(t, err, "a hundred processes were allowed")
	assert.NotContains(t, string(out), "all")
	assert.Error(t, sh(s, "true & true & true & wait").Run(), "there was room left")
	select {
	case <-s.Done():
		t.Error("the session has ended")
	default:
	}
}

func TestSelf(t *testing.T) {
	roleless := box(t, audittest.NewLog(t), nil, nil)
	assert.ErrorIs(t, roleless.Command(context.Background(), Self).Run(), ErrNotFound, "not asked for")
	s := box(t, audittest.NewLog(t), nil, &Options{Self: true})
	c := s.Command(context.Background(), Self)
	c.Env = roleEnv("greet")
	out, err := c.Output()
	require.NoError(t, err)
	assert.Equal(t, "hello from inside, uid 1000\n", string(out))
}

func init() {
	roles["greet"] = func() { fmt.Printf("hello from inside, uid %d\n", os.Getuid()) }
}

// summary is a record in a few words.
func summary(r audit.Record) string {
	switch {
	case r.Event != nil:
		return string(r.Event.Kind)
	case r.Intent != nil:
		return "begin " + r.Intent.Action
	case r.Outcome != nil:
		return strings.TrimSpace("end " + string(r.Outcome.Status) + " " + r.Outcome.ErrorCode)
	}
	return "unknown"
}

// A slowRecorder begins no command before somebody gives up.
type slowRecorder struct {
	audit.Recorder
	asked chan struct{}
}

func (r *slowRecorder) Begin(ctx context.Context, in audit.Intent) (audit.Call, error) {
	close(r.asked)
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

// TestCloseWhileACommandIsDecided ends a session in which a command waits for its
// permission or its record, with a context of its own that does not end.
func TestCloseWhileACommandIsDecided(t *testing.T) {
	log := &slowRecorder{Recorder: audittest.NewLog(t), asked: make(chan struct{})}
	s := box(t, log, nil, nil)
	started := make(chan error, 1)
	go func() { started <- sh(s, "true").Start() }()
	<-log.asked
	require.NoError(t, s.Close())
	assert.ErrorIs(t, <-started, ErrEnded)
}

// TestEndsSession ends a session with the one program that it is for, whether that
// runs or cannot be started; without a word, the session lives on.
func TestEndsSession(t *testing.T) {
	s := box(t, audittest.NewLog(t), nil, nil)
	require.NoError(t, sh(s, "true").Run())
	c := sh(s, "exit 3")
	c.EndsSession = true
	var failed *ExitError
	require.ErrorAs(t, c.Run(), &failed)
	assert.Equal(t, 3, failed.ExitCode())
	assert.ErrorIs(t, sh(s, "true").Run(), ErrEnded)
	select {
	case <-s.Done():
	default:
		t.Error("Wait has returned, and the session is there")
	}

	s = box(t, audittest.NewLog(t), nil, nil)
	c = s.Command(t.Context(), "no-such-program")
	c.EndsSession = true
	require.ErrorIs(t, c.Start(), ErrNotFound)
	assert.ErrorIs(t, sh(s, "true").Run(), ErrEnded)
}

// TestStartHearsItsContext has a session whose first process does not act.
func TestStartHearsItsContext(t *testing.T) {
	for _, l := range launchers {
		log := audittest.NewLog(t)
		s := box(t, log, nil, launchedBy(l))
		require.NoError(t, syscall.Kill(s.box.InitPID(), syscall.SIGSTOP))
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		assert.ErrorIs(t, s.Command(ctx, "true").Start(), context.DeadlineExceeded)
		require.NoError(t, syscall.Kill(s.box.InitPID(), syscall.SIGCONT))
		require.NoError(t, sh(s, "true").Run())
		require.NoError(t, s.Close())
		var kinds []string
		for _, r := range log.Records() {
			kinds = append(kinds, summary(r))
		}
		assert.Equal(t, []string{"sandbox.launch", "begin exec", "end cancelled not-started", "begin exec", "end ok", "sandbox.exit"}, kinds)
	}
}
