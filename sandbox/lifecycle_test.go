//go:build linux && (amd64 || arm64)

package sandbox

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit/audittest"
)

// processes returns those of the whole system whose arguments hold a mark.
func processes(mark string) []string {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var out []string
	for _, f := range all {
		if b, err := os.ReadFile(f); err == nil && bytes.Contains(b, []byte(mark)) {
			out = append(out, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return out
}

// appears reports whether there is such a process. One that is about to execute has
// no arguments for a moment.
func appears(mark string) bool {
	for range 10_000 {
		if len(processes(mark)) > 0 {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

func mark() string { return fmt.Sprintf("1%08d", rand.IntN(1e8)) } // sleeps for some years

func init() {
	// A host that starts a session with a daemon in it, says so, and hangs.
	roles["host"] = func() {
		s, err := Start(context.Background(), nil, agent, discard{}, launchedBy(Launcher(os.Getenv("SANDBOX_TEST_LAUNCHER"))))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		c := s.Command(context.Background(), "sh", "-c", "setsid sleep $0 >/dev/null & echo up; sleep $0", os.Args[1])
		c.Stdout = os.Stdout
		_ = c.Run()
	}
}

// TestKilledHost kills hosts with SIGKILL, some when their session is up and
// some at any moment of its making, and finds no process of theirs.
func TestKilledHost(t *testing.T) {
	needSandbox(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	t.Setenv("TMPDIR", t.TempDir())
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	for i := range rounds(6, 20, 200) {
		m := mark()
		host := exec.Command("/proc/self/exe", m)
		host.Env = append(os.Environ(), roleVar+"=host", "SANDBOX_TEST_LAUNCHER="+string(launchers[i/2%len(launchers)]))
		out, err := host.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, host.Start())
		if i%2 == 0 {
			line, err := bufio.NewReader(out).ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "up\n", line)
			require.True(t, appears(m))
		} else {
			// A moment, not a synchronisation: whichever it is, the end is the same.
			time.Sleep(time.Duration(rnd.IntN(60)) * time.Millisecond)
		}
		require.NoError(t, host.Process.Kill())
		// Everything inside holds the host's standard output, or init itself is
		// dying: the pipe ends with the last of them.
		_, _ = bufio.NewReader(out).ReadString(0)
		_ = host.Wait()
		// The kernel kills a pid namespace after its init, so give it its time.
		require.Eventually(t, func() bool { return len(processes(m)) == 0 }, time.Minute, time.Millisecond)
	}
	// What a host that was killed cannot take away is the folder of its workspace.
	after, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	assert.Equal(t, string(mounts), string(after))
	left, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	for _, e := range left {
		assert.True(t, strings.HasPrefix(e.Name(), "sandbox-"), "%s was left", e.Name())
	}
}

// TestNothingIsLeft counts what a host can leak, before and after sessions.
func TestNothingIsLeft(t *testing.T) {
	needSandbox(t)
	once := func(m string, launcher Launcher) {
		opts := launchedBy(launcher)
		opts.Self = true
		s, err := Start(context.Background(), &Policy{Network: Network{Allow: []Rule{{Host: "a.example.com", Ports: []uint16{80, 443}}}}}, agent, audittest.NewLog(t), opts)
		require.NoError(t, err)
		c := s.Command(context.Background(), "sh", "-c", "setsid sleep $0 & mkdir -p a/b; touch a/b/c; chmod 000 a/b a; echo up; sleep $0", m)
		out, err := c.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, c.Start())
		_, err = bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		require.NoError(t, s.Close())
		assert.ErrorIs(t, c.Wait(), ErrEnded)
		assert.Empty(t, processes(m))
		assert.NoDirExists(t, s.Workspace())
	}
	count := func() (fds int, mounts string) {
		all, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		b, err := os.ReadFile("/proc/self/mountinfo")
		require.NoError(t, err)
		return len(all), string(b)
	}
	for _, launcher := range launchers {
		once(mark(), launcher) // what the runtime keeps once and for all
	}
	fds, mounts := count()
	for i := range 6 {
		once(mark(), launchers[i%len(launchers)])
	}
	after, mountsAfter := count()
	assert.Equal(t, mounts, mountsAfter)
	assert.LessOrEqual(t, after, fds)
}

// TestHostThatNobodyElseMayRead starts from an executable that only its owner
// may read, in a folder that only its owner may enter.
func TestHostThatNobodyElseMayRead(t *testing.T) {
	needSandbox(t)
	exe, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o700))
	require.NoError(t, os.WriteFile(dir+"/host", exe, 0o700))
	for _, deleted := range []string{"", "deleted"} {
		host := exec.Command(dir + "/host")
		host.Env = append(os.Environ(), roleVar+"=self", "SANDBOX_TEST_DELETE="+deleted)
		out, err := host.CombinedOutput()
		require.NoError(t, err, string(out))
		assert.Equal(t, "hello from inside, uid 1000\n", string(out))
	}
}

func init() {
	roles["self"] = func() {
		if os.Getenv("SANDBOX_TEST_DELETE") != "" {
			if exe, err := os.Executable(); err != nil || os.Remove(exe) != nil {
				panic("cannot delete the executable")
			}
		}
		s, err := Start(context.Background(), nil, agent, discard{}, &Options{Self: true})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		defer s.Close()
		c := s.Command(context.Background(), Self)
		c.Env = roleEnv("greet")
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		if err := c.Run(); err != nil {
			fmt.Println(err)
		}
	}
}

func TestManySessions(t *testing.T) {
	needSandbox(t)
	var all sync.WaitGroup
	users := make([]int, rounds(8, 20, 200))
	for i := range users {
		all.Go(func() {
			s, err := Start(context.Background(), nil, agent, audittest.NewLog(t), launchedBy(launchers[i%len(launchers)]))
			if !assert.NoError(t, err) {
				return
			}
			defer func() { assert.NoError(t, s.Close()) }()
			out, err := sh(s, fmt.Sprintf("echo %d > mine; ls /sandbox; ls /proc | grep -c '^[0-9]'", i)).Output()
			assert.NoError(t, err)
			assert.True(t, strings.HasPrefix(string(out), "mine\n"), string(out))
			users[i] = s.Report().UID
		})
	}
	all.Wait()
	if os.Geteuid() == 0 {
		seen := map[int]bool{}
		for _, u := range users {
			assert.GreaterOrEqual(t, u, 0x70000000)
			assert.False(t, seen[u], "two sessions share a user")
			seen[u] = true
		}
	}
}

// TestWorkspaceOfTheHost uses a folder that exists: files in it belong to the
// session's user inside, and to their owner outside, also when that is root.
func TestWorkspaceOfTheHost(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/given", []byte("given\n"), 0o600))
	extra := t.TempDir()
	s := box(t, audittest.NewLog(t), &Policy{Filesystem: Filesystem{ReadWrite: []string{extra}}}, &Options{Workspace: dir})
	out, err := sh(s, "cat given; echo made > made; stat -c %u given made; echo x > "+extra+"/x").CombinedOutput()
	require.NoError(t, err, string(out))
	assert.Equal(t, "given\n1000\n1000\n", string(out))
	require.NoError(t, s.Close())
	for _, f := range []string{dir + "/given", dir + "/made", extra + "/x"} {
		fi, err := os.Stat(f)
		require.NoError(t, err, "it is the host's, so Close keeps it")
		assert.Equal(t, os.Geteuid(), owner(fi), f)
	}
	if os.Geteuid() == 0 {
		assert.Contains(t, s.Report().Layers, LayerIDMap)
	}
}

// TestPaths checks what policy shows of the host, and how.
func TestPaths(t *testing.T) {
	ro, rw := t.TempDir(), t.TempDir()
	for _, d := range []string{ro, rw} {
		require.NoError(t, os.Chmod(d, 0o777))
		require.NoError(t, os.WriteFile(d+"/file", []byte("text"), 0o666))
		require.NoError(t, os.Mkdir(d+"/sub", 0o777))
	}
	require.NoError(t, os.WriteFile(rw+"/locked", nil, 0o666))
	s := box(t, audittest.NewLog(t), &Policy{Filesystem: Filesystem{
		ReadOnly:  append(SystemPaths(), ro, rw+"/locked"),
		ReadWrite: []string{rw, ro + "/sub"},
	}}, nil)
	for _, c := range []struct {
		script string
		ok     bool
	}{
		{"cat " + ro + "/file", true},
		{"echo > " + ro + "/file", false},
		{"touch " + ro + "/new", false},
		{"echo x > " + ro + "/sub/new", true}, // the longer path decides
		{"echo x > " + rw + "/new", true},
		{"cat " + rw + "/locked", true},
		{"echo > " + rw + "/locked", false},
		{"rm -f " + rw + "/locked", false},
		{"mv " + rw + "/new " + rw + "/sub/moved", true},
		{"test -e " + filepath.Dir(ro) + "/../../etc/shadow", false},
	} {
		err := sh(s, c.script).Run()
		assert.Equal(t, c.ok, err == nil, "%s: %v", c.script, err)
	}
}

// TestLinksLeadNowhereReserved shows a link whose target policy may not name.
func TestLinksLeadNowhereReserved(t *testing.T) {
	needSandbox(t)
	for _, to := range []string{"/", "/sys", "/proc/sys", "/dev", "/run"} {
		link := filepath.Join(t.TempDir(), "link")
		require.NoError(t, os.Symlink(to, link))
		_, err := Start(context.Background(), &Policy{Filesystem: Filesystem{ReadOnly: []string{link}}}, agent, audittest.NewLog(t), nil)
		var le *LayerError
		require.ErrorAs(t, err, &le, to)
		assert.ErrorContains(t, le, "makes for itself")
	}
}

// TestProtectedPathStaysPut moves the way to a read-only folder, which lies in a
// writable one, and makes another in its place: the host would find that one.
func TestProtectedPathStaysPut(t *testing.T) {
	rw := t.TempDir()
	require.NoError(t, os.MkdirAll(rw+"/repo/.git/hooks", 0o755))
	require.NoError(t, os.WriteFile(rw+"/repo/.git/hooks/commit", []byte("good"), 0o644))
	s := box(t, audittest.NewLog(t), &Policy{Filesystem: Filesystem{
		ReadOnly:  append(SystemPaths(), rw+"/repo/.git/hooks"),
		ReadWrite: []string{rw},
	}}, nil)
	for _, dir := range []string{rw + "/repo/.git", rw + "/repo"} {
		assert.Error(t, sh(s, "mv "+dir+" "+dir+".old").Run(), "%s was moved", dir)
	}
	require.NoError(t, sh(s, "cd "+rw+"/repo/.git && echo x > new && mv new ../moved && rm ../moved").Run())
	require.NoError(t, s.Close())
	b, err := os.ReadFile(rw + "/repo/.git/hooks/commit")
	require.NoError(t, err)
	assert.Equal(t, "good", string(b))
}

// owner returns the user that a file belongs to.
func owner(fi os.FileInfo) int { return int(fi.Sys().(*syscall.Stat_t).Uid) }
