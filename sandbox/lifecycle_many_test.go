//go:build linux && (amd64 || arm64)

package sandbox

import (
	"bufio"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twinward-dev/twinward/audit/audittest"
)

// rounds returns how often a loop runs in plain, full and soak mode.
func rounds(plain, full, soak int) int {
	switch {
	case os.Getenv("TWINWARD_SOAK") == "1":
		return soak
	case os.Getenv("TWINWARD_FULL") == "1":
		return full
	}
	return plain
}

// TestLaunchesUnderStress starts, uses and ends sessions, four at a time, while
// the collector of this process runs as often as it can. None may fail, and
// nothing may be left.
func TestLaunchesUnderStress(t *testing.T) {
	needSandbox(t)
	n := rounds(12, 100, 10_000)
	t.Setenv("TMPDIR", t.TempDir())
	defer debug.SetGCPercent(debug.SetGCPercent(1))
	stop := make(chan struct{})
	var noise sync.WaitGroup
	noise.Go(func() {
		var keep [64][]byte
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				keep[i%len(keep)] = make([]byte, 1<<uint(i%16))
				if i%1024 == 0 {
					runtime.Gosched()
				}
			}
		}
	})
	before, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	for _, launcher := range launchers {
		work := make(chan int)
		var workers sync.WaitGroup
		for range 4 {
			workers.Go(func() {
				for i := range work {
					s, err := Start(context.Background(), nil, agent, discard{}, launchedBy(launcher))
					if !assert.NoError(t, err, "launch %d", i) {
						continue
					}
					assert.NoError(t, s.Command(context.Background(), "true").Run(), "launch %d", i)
					assert.NoError(t, s.Close(), "launch %d", i)
				}
			})
		}
		for i := range n {
			work <- i
		}
		close(work)
		workers.Wait()
	}
	close(stop)
	noise.Wait()
	after, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	assert.Equal(t, string(before), string(after))
	left, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	assert.Empty(t, left)
	t.Logf("%d launches by each of %q", n, launchers)
}

// TestBombAndDaemon has a program inside that multiplies without end and a
// daemon that has left its session, its group and its parents, and takes no
// signal. Another session does not notice, and none outlives the end.
func TestBombAndDaemon(t *testing.T) {
	needSandbox(t)
	for _, launcher := range launchers {
		bombed, err := Start(context.Background(), &Policy{Process: Process{MaxProcesses: 64}}, agent, audittest.NewLog(t), launchedBy(launcher))
		require.NoError(t, err)
		t.Cleanup(func() { bombed.Close() })
		m := mark()
		daemon := bombed.Command(context.Background(), "sh", "-c", `trap "" TERM HUP INT QUIT; (setsid sh -c 'trap "" TERM HUP INT QUIT; (setsid sleep $0 </dev/null >/dev/null 2>&1 &) ; echo up' $0)`, m)
		out, err := daemon.Output()
		require.NoError(t, err)
		require.Equal(t, "up\n", string(out))
		require.True(t, appears(m), "the daemon did not survive its parents")

		bomb := sh(bombed, "f() { f | f & }; echo up; f 2>/dev/null; while :; do f 2>/dev/null; done")
		pipe, err := bomb.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, bomb.Start())
		_, err = bufio.NewReader(pipe).ReadString('\n')
		require.NoError(t, err)

		other, err := Start(context.Background(), nil, agent, audittest.NewLog(t), launchedBy(launcher))
		require.NoError(t, err)
		require.NoError(t, sh(other, "true & true & wait").Run())
		require.NoError(t, other.Close())
		require.NoError(t, bombed.Close())
		assert.Error(t, bomb.Wait(), "it ended with the session, or for want of processes")
		assert.Empty(t, processes(m))
	}
}

// TestStartFailsCleanly makes launches fail at every stage and finds nothing of
// them: no workspace, no process, no mount, no descriptor.
func TestStartFailsCleanly(t *testing.T) {
	needSandbox(t)
	t.Setenv("TMPDIR", t.TempDir())
	file := t.TempDir() + "/file"
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	fifo := t.TempDir() + "/fifo"
	require.NoError(t, unix.Mkfifo(fifo, 0o666))
	loop := t.TempDir() + "/loop"
	require.NoError(t, os.Symlink(loop, loop))
	gone := t.TempDir() + "/gone"
	full := audittest.NewLog(t)
	full.Fail(errors.New("disk full"))
	bad := func(p ...string) *Policy {
		return &Policy{Filesystem: Filesystem{ReadOnly: append(SystemPaths(), p...)}}
	}
	once := func() {
		for name, start := range map[string]func() (*Session, error){
			"a path that is not there": func() (*Session, error) {
				return Start(context.Background(), bad(gone), agent, discard{}, nil)
			},
			"a path that is a pipe": func() (*Session, error) { return Start(context.Background(), bad(fifo), agent, discard{}, nil) },
			"a path that is a loop": func() (*Session, error) { return Start(context.Background(), bad(loop), agent, discard{}, nil) },
			"a workspace that is a file": func() (*Session, error) {
				return Start(context.Background(), nil, agent, discard{}, &Options{Workspace: file})
			},
			"a workspace that is gone": func() (*Session, error) {
				return Start(context.Background(), nil, agent, discard{}, &Options{Workspace: gone})
			},
			"a log that is full": func() (*Session, error) { return Start(context.Background(), nil, agent, full, nil) },
			"a deadline": func() (*Session, error) {
				ctx, cancel := context.WithCancel(context.Background())
				go cancel()
				s, err := Start(ctx, nil, agent, discard{}, nil)
				if err == nil { // it was quicker; then it ends at once
					<-s.Done()
					return nil, context.Canceled
				}
				return s, err
			},
		} {
			s, err := start()
			assert.Error(t, err, name)
			assert.Nil(t, s, name)
		}
	}
	once()
	fds := descriptors(t)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	for range rounds(2, 20, 200) {
		once()
	}
	assert.LessOrEqual(t, descriptors(t), fds)
	after, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	assert.Equal(t, string(mounts), string(after))
	left, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	assert.Empty(t, left)
	assert.Empty(t, children(), "a process was left")
}

func descriptors(t *testing.T) int {
	all, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(all)
}

// children returns the processes that this one has started and not waited for.
func children() []string {
	var out []string
	all, _ := filepath.Glob("/proc/self/task/*/children")
	for _, f := range all {
		b, _ := os.ReadFile(f)
		out = append(out, strings.Fields(string(b))...)
	}
	return out
}
