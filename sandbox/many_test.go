//go:build linux && (amd64 || arm64)

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
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

// hosted counts what a host process holds.
func hosted(t *testing.T) (fds, goroutines int) {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(all) - 1, runtime.NumGoroutine()
}

// get asks a served name, without a program that not every system has.
const get = `exec 3<>/dev/tcp/tools.local/80; printf 'GET / HTTP/1.0\r\nHost: tools.local\r\n\r\n' >&3; tail -n 1 <&3`

// TestHundredsOfSessions has them all at once in one process: each is its own
// actor, and the end of one is the end of no other.
func TestHundredsOfSessions(t *testing.T) { eachLauncher(t, testHundreds) }

func testHundreds(t *testing.T, opts *Options) {
	needSandbox(t)
	t.Setenv("TMPDIR", t.TempDir())
	one := func(ctx context.Context, name string) (*Session, error) {
		actor := agent
		actor.Instance = name
		s, err := Start(ctx, &Policy{Network: Network{Allow: []Rule{{Host: "tools.local", Ports: []uint16{80}}}}}, actor, audittest.NewLog(t), opts)
		if err != nil {
			return nil, err
		}
		return s, s.Handle("tools.local", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "I am "+audit.ActorFrom(r.Context()).Instance)
		}))
	}
	ask := func(s *Session, name string) {
		c := s.Command(context.Background(), "bash", "-c", get)
		c.Env = []string{"RES_OPTIONS=timeout:30 attempts:5"} // two processors for hundreds
		out, err := c.CombinedOutput()
		assert.NoError(t, err, string(out))
		assert.Equal(t, "I am "+name, string(out))
	}
	first, err := one(context.Background(), "first") // what the runtime keeps once and for all
	require.NoError(t, err)
	ask(first, "first")
	require.NoError(t, first.Close())
	fds, goroutines := hosted(t)

	n := loops(8, 40, 200)
	sessions, cancels := make([]*Session, n), make([]context.CancelFunc, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			ctx, cancel := context.WithCancel(context.Background())
			cancels[i] = cancel
			s, err := one(ctx, fmt.Sprint(i))
			if assert.NoError(t, err) {
				sessions[i] = s
				ask(s, fmt.Sprint(i))
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	// Every other one ends, three ways at once.
	for i := 0; i < n; i += 2 {
		for range 3 {
			all.Go(func() { assert.NoError(t, sessions[i].Close()) })
		}
		all.Go(cancels[i])
	}
	all.Wait()
	for i, s := range sessions {
		all.Go(func() {
			if i%2 == 1 {
				ask(s, fmt.Sprint(i))
				return
			}
			assert.ErrorIs(t, sh(s, "true").Run(), ErrEnded)
			assert.NoDirExists(t, s.Workspace())
		})
	}
	all.Wait()
	for i, s := range sessions {
		all.Go(func() { cancels[i](); <-s.Done(); assert.NoError(t, s.Close()) })
	}
	all.Wait()
	left, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	assert.Empty(t, left)
	// Goroutines end a moment after what they did is seen.
	assert.Eventually(t, func() bool {
		f, g := hosted(t)
		return f <= fds && g <= goroutines+1
	}, time.Minute, 10*time.Millisecond, "a host with %d descriptors and %d goroutines does not get back to that", fds, goroutines)
}

func init() {
	// A host that has fewer and fewer descriptors left: it says how often a
	// session could not be had, and what was left of those.
	roles["scarce"] = func() {
		attempt := func() error {
			s, err := Start(context.Background(), nil, agent, discard{}, &Options{Launcher: Launcher(os.Getenv("SANDBOX_TEST_LAUNCHER"))})
			if err != nil {
				return err
			}
			err = s.Command(context.Background(), "/bin/true").Run()
			return errors.Join(err, s.Close())
		}
		count := func() int {
			all, err := os.ReadDir("/proc/self/fd")
			if err != nil {
				panic(err)
			}
			return len(all)
		}
		if err := attempt(); err != nil {
			panic(err)
		}
		var full syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &full); err != nil {
			panic(err)
		}
		before, refused := count(), 0
		for free := 0; ; free++ {
			few := full
			few.Cur = uint64(before + free)
			if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few); err != nil {
				panic(err)
			}
			err := attempt()
			if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &full); err != nil {
				panic(err)
			}
			if n := count(); n > before {
				fmt.Printf("%d descriptors are left of an attempt with %d: %v\n", n-before, free, err)
				os.Exit(1)
			}
			if err == nil {
				break
			}
			if refused++; refused > 500 {
				fmt.Println("it never succeeds:", err)
				os.Exit(1)
			}
		}
		fmt.Printf("%d refused\n", refused)
	}
}

// TestHostWithoutDescriptors starts with none left, one, two and so on until
// there are enough: before that it is an error each time, and nothing stays.
func TestHostWithoutDescriptors(t *testing.T) { eachLauncher(t, testWithoutDescriptors) }

func testWithoutDescriptors(t *testing.T, opts *Options) {
	needSandbox(t)
	tmp := t.TempDir()
	m := mark()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	host := exec.CommandContext(ctx, "/proc/self/exe", m)
	host.Env = append(os.Environ(), roleVar+"=scarce", "TMPDIR="+tmp, "SANDBOX_TEST_LAUNCHER="+string(opts.Launcher))
	out, err := host.CombinedOutput()
	require.NoError(t, err, string(out))
	t.Logf("%s", out)
	left, err := os.ReadDir(tmp)
	require.NoError(t, err)
	assert.Empty(t, left, "workspaces")
	assert.Empty(t, processes(m))
}

// TestFullTmp fills /tmp: the program is told, and the session lives on.
func TestFullTmp(t *testing.T) {
	s := box(t, audittest.NewLog(t), &Policy{Filesystem: Filesystem{TmpSize: 1 << 20}}, nil)
	out, err := s.Command(context.Background(), "dd", "if=/dev/zero", "of=/tmp/big", "bs=64k", "count=100").CombinedOutput()
	var exit *ExitError
	require.ErrorAs(t, err, &exit)
	assert.Contains(t, string(out), "No space left on device")
	assert.NoError(t, sh(s, "rm /tmp/big; echo x > /tmp/small").Run())
}

// TestDaemonsDoNotHoldUp starts programs that leave others behind, in ways that
// daemons do, and waits for each.
func TestDaemonsDoNotHoldUp(t *testing.T) {
	s := box(t, audittest.NewLog(t), nil, nil)
	m := mark()
	var out strings.Builder
	c := sh(s, "(setsid sh -c 'sleep "+m+" </dev/null >/dev/null 2>&1 &') ; echo gone")
	c.Stdout = &out
	require.NoError(t, c.Run())
	assert.Equal(t, "gone\n", out.String())
	assert.True(t, appears("sleep\x00"+m), "it goes on")
	require.NoError(t, s.Close())
	assert.Empty(t, processes("sleep\x00"+m))
}
