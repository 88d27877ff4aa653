//go:build linux && (amd64 || arm64)

package confine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// children returns the processes that this one has started and not waited for.
func children(t testing.TB) []string {
	all, err := filepath.Glob("/proc/self/task/*/children")
	require.NoError(t, err)
	var out []string
	for _, f := range all {
		b, _ := os.ReadFile(f)
		out = append(out, strings.Fields(string(b))...)
	}
	return out
}

// TestEveryStepMayFail makes each call of a room's program fail in turn: a typed
// error that names the step and the errno, and no process, mount or descriptor
// is left behind.
func TestEveryStepMayFail(t *testing.T) {
	standing(t, &Spec{Launcher: LauncherVfork}).Close()
	spec := &Spec{Launcher: LauncherVfork, Hostname: "sandbox", Workspace: t.TempDir(), OwnWorkspace: true, Self: true,
		Binds: []Bind{{Source: "/usr"}}, Files: []File{{Path: "/etc/given", Source: "/etc/passwd", Data: []byte("given\n")}}}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	every := 7 // of the calls, in plain mode
	if os.Getenv("TWINWARD_FULL") == "1" {
		every = 1
	}
	fds := openFiles(t)
	steps, tolerated := 1<<20, []string{}
	for i := int(seed % uint64(every)); i < steps; i += every {
		before, during := "", ""
		b, err := launch(context.Background(), spec, func(v *vfork) {
			steps = len(v.room.steps)
			if i >= steps {
				return
			}
			s := v.room.steps[i]
			during = s.what
			if s.nr == callValue || s.nr == unix.SYS_EXIT_GROUP || s.nr == unix.SYS_CLOSE {
				during = ""
				return
			}
			before = fmt.Sprint(s.words)
			// A call that the kernel does not know.
			op := v.block.mem[wordSize*(headerWords+opWords*i):]
			copy(op[wordSize*opNR:], []byte{0xff, 0xff, 0, 0, 0, 0, 0, 0})
		})
		if during == "" {
			require.NoError(t, err)
			b.Close()
			b.closeListeners()
			continue
		}
		if err == nil {
			b.Close()
			b.closeListeners()
			tolerated = append(tolerated, during)
			continue
		}
		var le *LayerError
		require.ErrorAs(t, err, &le, "step %d: %s %s", i, during, before)
		assert.Equal(t, during, le.Step)
		assert.ErrorIs(t, err, unix.ENOSYS)
		assert.NotEmpty(t, le.Layer, during)
		require.Empty(t, children(t), during)
	}
	for _, what := range tolerated {
		// A rule has a second call, which is made for files only.
		if !strings.HasPrefix(what, "rule for /") {
			assert.Equal(t, "leave the host's keyring", what, "failing did not matter")
		}
	}
	after, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	assert.Equal(t, string(mounts), string(after))
	assert.LessOrEqual(t, openFiles(t), fds)
}

// TestNothingOfTheHostIsReachable starts commands while programs inside try to
// read the memory, environment, descriptors and maps of every process that they
// can name, and looks for a secret of the host in what they found.
func TestNothingOfTheHostIsReachable(t *testing.T) {
	secret := []byte(fmt.Sprintf("canary-%d-%d", rand.Uint64(), rand.Uint64()))
	t.Setenv("CONFINE_CANARY", string(secret))
	heap := bytes.Repeat(secret, 1000)
	commands := 100
	switch {
	case os.Getenv("TWINWARD_SOAK") == "1":
		commands = 10000
	case os.Getenv("TWINWARD_FULL") == "1":
		commands = 1000
	}
	for _, l := range launchers {
		b := standing(t, &Spec{Launcher: l})
		// Who may read a process's maps may read its memory. (Bash may give what it
		// had read of another file for bytes of /proc/…/mem, so that is not asked.)
		const spy = `
			while :; do
				for p in $(seq 1 $((RANDOM % 64 + 8))) $(($(cut -d' ' -f5 /proc/loadavg) + 1)) $(($(cut -d' ' -f5 /proc/loadavg) + 2)); do
					[ $p = $$ ] && continue
					{ read -r x </proc/$p/environ; } 2>/dev/null && echo "$p environ"
					{ read -r x </proc/$p/maps; } 2>/dev/null && case $x in 00400000-00401000*) echo "$p maps $x";; esac
					for f in /proc/$p/fd/*; do [ -S $f ] && echo "$p socket $f"; done
				done
			done 2>/dev/null`
		r, w, err := b.Pipe()
		require.NoError(t, err)
		var spies []*Process
		for range 2 {
			p, err := b.Exec(Exec{Path: "bash", Args: []string{"bash", "-c", spy}, Env: []string{"MARK=spy"}}, []*os.File{nil, w, nil})
			require.NoError(t, err)
			spies = append(spies, p)
		}
		w.Close()
		for range commands {
			p, err := b.Exec(Exec{Path: "/usr/bin/true", Args: []string{"true"}}, []*os.File{nil, nil, nil})
			require.NoError(t, err)
			require.Equal(t, 0, p.Wait().Code)
		}
		for _, p := range spies {
			require.NoError(t, p.Signal(unix.SIGKILL, true))
		}
		found, err := io.ReadAll(r)
		require.NoError(t, err)
		r.Close()
		for line := range strings.Lines(string(found)) {
			assert.NotContains(t, line, string(secret))
			for _, bad := range []string{"maps", "socket"} {
				assert.NotContains(t, line, bad, "%s: a process that a spy should not reach", l)
			}
		}
		b.Close()
	}
	runtime.KeepAlive(heap)
}

// TestManyLaunches starts rooms from many goroutines while the collector works.
func TestManyLaunches(t *testing.T) {
	rounds := 4
	switch {
	case os.Getenv("TWINWARD_SOAK") == "1":
		rounds = 250
	case os.Getenv("TWINWARD_FULL") == "1":
		rounds = 25
	}
	standing(t, &Spec{Launcher: LauncherVfork}).Close()
	stop := make(chan struct{})
	var stress, all sync.WaitGroup
	stress.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = bytes.Repeat([]byte("x"), 1<<20)
				runtime.GC()
			}
		}
	})
	// Other tests start programs as other users, after which it is not.
	require.NoError(t, unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0))
	defer standing(t, &Spec{Launcher: LauncherVfork}).Close() // a room that stands meanwhile
	fds := openFiles(t)
	for range 4 {
		all.Go(func() {
			for range rounds {
				b, err := Launch(context.Background(), &Spec{Launcher: LauncherVfork, Hostname: "sandbox", Workspace: t.TempDir(), OwnWorkspace: true,
					Binds: []Bind{{Source: "/usr"}, {Source: "/bin"}, {Source: "/lib"}, {Source: "/lib64", Optional: true}}})
				if !assert.NoError(t, err) {
					return
				}
				p, err := b.Exec(Exec{Path: "/usr/bin/true", Args: []string{"true"}}, []*os.File{nil, nil, nil})
				if assert.NoError(t, err) {
					assert.Equal(t, 0, p.Wait().Code)
				}
				b.Close()
				b.closeListeners()
			}
		})
	}
	all.Wait()
	close(stop)
	stress.Wait()
	assert.Len(t, children(t), 1)
	assert.LessOrEqual(t, openFiles(t), fds)
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	require.NoError(t, err)
	assert.Equal(t, 1, dumpable, "the host is what it was")
}

// TestInitIsSmall bounds the memory that a room takes besides its commands.
func TestInitIsSmall(t *testing.T) {
	b := standing(t, &Spec{Launcher: LauncherVfork, Ports: []uint16{80, 443}})
	for range 20 {
		_, exit := output(t, b, "true")
		require.Equal(t, 0, exit.Code)
	}
	pss := pssOf(t, b.InitPID())
	t.Logf("init: %d kB PSS", pss)
	assert.LessOrEqual(t, pss, 100)
}

// pssOf returns the proportional set size of a process in kB.
func pssOf(t testing.TB, pid int) (kb int) {
	f, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(f)) {
		if _, err := fmt.Sscanf(line, "Pss: %d kB", &kb); err == nil {
			return kb
		}
	}
	t.Fatal("no Pss")
	return 0
}

// TestTrim lets a process go on with its work while its own pages are dropped.
func TestTrim(t *testing.T) {
	var work sync.WaitGroup
	for range 4 {
		work.Go(func() {
			for i := range 200 {
				assert.Equal(t, i, len(fmt.Sprintf("%*d", i, 0)[:i]))
				runtime.Gosched()
			}
		})
	}
	for range 10 {
		trim()
	}
	work.Wait()
	_, err := os.ReadFile("/proc/self/status")
	assert.NoError(t, err)
}

// TestManyDeliveries has more descriptors than one message can carry: each file has
// what its own original begins with.
func TestManyDeliveries(t *testing.T) {
	const n = 2*maxFDs + 3
	spec := &Spec{Launcher: LauncherVfork}
	dir := t.TempDir()
	want := ""
	for i := range n {
		source := fmt.Sprintf("%s/%d", dir, i)
		require.NoError(t, os.WriteFile(source, fmt.Append(nil, i, "-"), 0o600))
		spec.Files = append(spec.Files, File{Path: fmt.Sprintf("/etc/many/%04d", i), Source: source, Data: fmt.Append(nil, i, ";")})
		want += fmt.Sprintf("%d-%d;", i, i)
	}
	spec.MoreFiles = func() ([]File, error) { return []File{{Path: "/etc/many/last", Data: []byte("last")}}, nil }
	b := standing(t, spec)
	got, _ := output(t, b, "cat /etc/many/*")
	assert.Equal(t, want+"last", got)
}

// TestDeliveryUnderAnotherNumber: the program knows what is delivered by the numbers
// that the kernel gives it, so a number that it did not expect is the end.
func TestDeliveryUnderAnotherNumber(t *testing.T) {
	standing(t, &Spec{Launcher: LauncherVfork}).Close()
	fds := openFiles(t)
	spec := &Spec{Launcher: LauncherVfork, Hostname: "sandbox", Workspace: t.TempDir(), OwnWorkspace: true,
		Files: []File{{Path: "/etc/given", Source: "/etc/passwd"}}}
	_, err := launch(context.Background(), spec, func(v *vfork) { v.plan.inside[0]++ })
	var le *LayerError
	require.ErrorAs(t, err, &le)
	assert.ErrorContains(t, err, "came as")
	assert.Empty(t, children(t))
	assert.LessOrEqual(t, openFiles(t), fds)
}

// TestNothingToDeliver: the child waits already when it turns out that there is
// nothing for it. It ends without having done anything.
func TestNothingToDeliver(t *testing.T) {
	for _, l := range launchers {
		standing(t, &Spec{Launcher: l}).Close()
		fds := openFiles(t)
		want := errors.New("no key")
		for _, spec := range []*Spec{
			{MoreFiles: func() ([]File, error) { return nil, want }},
			{Binds: []Bind{{Source: "/no/such"}}},
			{Files: []File{{Path: "/etc/given", Source: "/no/such"}}},
		} {
			spec.Launcher, spec.Hostname, spec.Workspace, spec.OwnWorkspace = l, "sandbox", t.TempDir(), true
			_, err := Launch(context.Background(), spec)
			if spec.MoreFiles != nil {
				require.ErrorIs(t, err, want)
			} else {
				require.ErrorIs(t, err, unix.ENOENT)
			}
			assert.Empty(t, children(t))
		}
		assert.LessOrEqual(t, openFiles(t), fds)
	}
}

// TestProgramTooLarge: the child waits already when the host finds that what it
// should do has no room. It ends without having done anything.
func TestProgramTooLarge(t *testing.T) {
	standing(t, &Spec{Launcher: LauncherVfork}).Close()
	fds := openFiles(t)
	_, err := Launch(context.Background(), &Spec{Launcher: LauncherVfork, Hostname: strings.Repeat("x", roomMemory), Workspace: t.TempDir(), OwnWorkspace: true})
	require.ErrorContains(t, err, "too large")
	assert.Empty(t, children(t))
	assert.LessOrEqual(t, openFiles(t), fds)
}
