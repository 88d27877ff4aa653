//go:build linux && (amd64 || arm64)

package sandbox

import (
	"context"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twinward-dev/twinward/audit/audittest"
)

// A screen reads a terminal and looks for what should appear on it.
type screen struct {
	t    *testing.T
	pty  *Pty
	seen string
}

// until reads on until text has appeared, and forgets what was before it.
func (s *screen) until(text string) string {
	s.t.Helper()
	b := make([]byte, 4096)
	for {
		if before, after, ok := strings.Cut(s.seen, text); ok {
			s.seen = after
			return before
		}
		n, err := s.pty.Read(b)
		s.seen += string(b[:n])
		if err != nil {
			require.NoError(s.t, err, "waiting for %q, the screen shows %q", text, s.seen)
		}
	}
}

func (s *screen) keys(text string) {
	s.t.Helper()
	_, err := s.pty.Write([]byte(text))
	require.NoError(s.t, err)
}

// terminal starts a program with a terminal, which is closed after a minute if
// the test hangs.
func terminal(t *testing.T, c *Cmd, size WindowSize) *screen {
	t.Helper()
	p, err := c.StartPty(size)
	require.NoError(t, err)
	stop := time.AfterFunc(time.Minute, func() { p.Close() })
	t.Cleanup(func() { stop.Stop(); p.Close() })
	return &screen{t: t, pty: p}
}

func TestPty(t *testing.T) { eachLauncher(t, testPty) }

func testPty(t *testing.T, opts *Options) {
	s := box(t, audittest.NewLog(t), nil, opts)
	ctx := context.Background()
	t.Run("is a terminal with a name, a size and an owner", func(t *testing.T) {
		c := sh(s, `tty; stty size; echo $TERM; stat -c %u "$(tty)"; echo reopened > "$(tty)"; echo own > /dev/tty; ps -o tty= -p $$; exit 4`)
		out := terminal(t, c, WindowSize{Rows: 30, Cols: 101})
		all, err := io.ReadAll(out.pty)
		require.NoError(t, err, "the end is io.EOF")
		assert.Equal(t, "/dev/pts/0\r\n30 101\r\nxterm-256color\r\n1000\r\nreopened\r\nown\r\npts/0\r\n", strings.ReplaceAll(string(all), " \r", "\r"))
		var exit *ExitError
		require.ErrorAs(t, c.Wait(), &exit)
		assert.Equal(t, 4, exit.ExitCode())
	})
	t.Run("resizes", func(t *testing.T) {
		c := s.Command(ctx, "bash", "-c", `trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.01; done`)
		out := terminal(t, c, WindowSize{})
		out.until("up\r\n")
		require.NoError(t, out.pty.Resize(WindowSize{Rows: 11, Cols: 22}))
		out.until("11 22\r\n")
		assert.NoError(t, c.Wait())
	})
	t.Run("shell with jobs", func(t *testing.T) {
		c := s.Command(ctx, "bash", "--norc", "-i")
		c.Env = []string{"PS1=ready> ", "TERM=dumb"}
		out := terminal(t, c, WindowSize{})
		assert.NotContains(t, out.until("ready> "), "no job control")
		// What a job says is seen only when the terminal is its own.
		out.keys(`bash -c 'trap "printf ba%s ck" CONT; printf run%s ning; while :; do sleep 0.01; done'` + "\r")
		out.until("running")
		out.keys("\x1a")
		assert.Contains(t, out.until("ready> "), "Stopped")
		out.keys("fg\r")
		out.until("back")
		out.keys("\x03")
		out.until("ready> ")
		out.keys("jobs; echo left=$(jobs | wc -l)\r")
		out.until("left=0\r\n")
		out.until("ready> ")
		out.keys("\x04") // end of file
		out.until("exit")
		assert.NoError(t, c.Wait())
	})
	t.Run("no echo of a password", func(t *testing.T) {
		c := s.Command(ctx, "bash", "-c", `read -rsp 'Password: ' p; echo; echo "${#p} characters"`)
		out := terminal(t, c, WindowSize{})
		out.until("Password: ")
		out.keys("secret\r")
		assert.NotContains(t, out.until("6 characters\r\n"), "secret")
		assert.NoError(t, c.Wait())
	})
	t.Run("pager", func(t *testing.T) {
		c := s.Command(ctx, "less", "/etc/passwd")
		if sh(s, "command -v less").Run() != nil {
			c = s.Command(ctx, "more", "/etc/passwd")
		}
		out := terminal(t, c, WindowSize{Rows: 5, Cols: 40})
		out.until("sandbox")
		out.keys("q")
		assert.NoError(t, c.Wait())
	})
	t.Run("hang up", func(t *testing.T) {
		c := sh(s, "echo up; sleep 1000")
		out := terminal(t, c, WindowSize{})
		out.until("up")
		require.NoError(t, out.pty.Close())
		var exit *ExitError
		require.ErrorAs(t, c.Wait(), &exit)
		assert.Equal(t, syscall.SIGHUP, exit.Signal())
	})
	t.Run("the end does not wait for what stays in the background", func(t *testing.T) {
		c := sh(s, "trap '' HUP; sleep 1000 & echo up")
		out := terminal(t, c, WindowSize{})
		all, err := io.ReadAll(out.pty)
		require.NoError(t, err)
		assert.Equal(t, "up\r\n", string(all))
		assert.NoError(t, c.Wait())
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		c := s.Command(ctx, "bash", "-c", "echo up; sleep 1000")
		out := terminal(t, c, WindowSize{})
		out.until("up")
		cancel()
		assert.ErrorIs(t, c.Wait(), context.Canceled)
	})
	t.Run("error apart", func(t *testing.T) {
		var errs strings.Builder
		c := sh(s, "test -t 0 && test -t 1 && ! test -t 2; echo $? >&2")
		c.Stderr = &errs
		out := terminal(t, c, WindowSize{})
		_, err := io.ReadAll(out.pty)
		require.NoError(t, err)
		require.NoError(t, c.Wait())
		assert.Equal(t, "0\n", errs.String())
	})
	t.Run("not started", func(t *testing.T) {
		c := s.Command(ctx, "no-such-program")
		_, err := c.StartPty(WindowSize{})
		assert.ErrorIs(t, err, ErrNotFound)
		c = sh(s, "true")
		c.Stdin = strings.NewReader("")
		_, err = c.StartPty(WindowSize{})
		assert.Error(t, err)
		_, err = (&Cmd{Path: "true"}).StartPty(WindowSize{})
		assert.Error(t, err)
	})
	t.Run("python", func(t *testing.T) {
		if sh(s, "command -v python3").Run() != nil {
			t.Skip("no python3 inside")
		}
		c := s.Command(ctx, "python3", "-q")
		c.Env = []string{"TERM=dumb", "PYTHON_BASIC_REPL=1"}
		out := terminal(t, c, WindowSize{})
		out.until(">>> ")
		out.keys("import os,sys; print(os.isatty(0), os.ttyname(1)[:9])\r")
		out.until("True /dev/pts/\r\n")
		// A pty that a program makes for itself works beside it.
		out.keys("import pty; pty.spawn(['sh', '-c', 'echo in''side $(tty)'])\r")
		out.until("inside /dev/pts/")
		out.until(">>> ")
		out.keys("exit()\r")
		assert.NoError(t, c.Wait())
	})
	require.NoError(t, s.Close())
	_, err := sh(s, "true").StartPty(WindowSize{})
	assert.ErrorIs(t, err, ErrEnded)
}

// hostTerminal is a terminal of the host's own.
func hostTerminal(t *testing.T) (master, slave *os.File) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, master.Fd(), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	require.Zero(t, errno)
	slave = os.NewFile(fd, "slave")
	t.Cleanup(func() { master.Close(); slave.Close() })
	return master, slave
}

// TestTerminalOfTheHostStaysOutside gives a program what a user's shell would:
// it can write there by way of the host, and never has the descriptor.
func TestTerminalOfTheHostStaysOutside(t *testing.T) {
	s := box(t, audittest.NewLog(t), nil, nil)
	master, slave := hostTerminal(t)
	c := sh(s, "test -t 1 || echo not a terminal; test -t 2 || echo neither")
	c.Stdout, c.Stderr = slave, slave
	require.NoError(t, c.Run())
	const want = "not a terminal\r\nneither\r\n"
	b := make([]byte, len(want)) // it comes in pieces
	_, err := io.ReadFull(master, b)
	require.NoError(t, err)
	assert.Equal(t, want, string(b))
	c = sh(s, "true")
	c.Stdin = slave
	assert.ErrorContains(t, c.Run(), "StartPty")
	c = sh(s, "true")
	c.ExtraFiles = []*os.File{slave}
	assert.ErrorContains(t, c.Run(), "StartPty")
	c = sh(s, "true")
	c.ExtraFiles = []*os.File{slave}
	_, err = c.StartPty(WindowSize{})
	assert.ErrorContains(t, err, "StartPty")
}

func TestWaitDelay(t *testing.T) {
	s := box(t, audittest.NewLog(t), nil, nil)
	t.Run("a daemon holds the output", func(t *testing.T) {
		c := sh(s, "setsid sleep 1000 & echo out")
		var out strings.Builder
		c.Stdout, c.WaitDelay = &out, 10*time.Millisecond
		assert.ErrorIs(t, c.Run(), exec.ErrWaitDelay)
		assert.Equal(t, "out\n", out.String())
		assert.True(t, c.ProcessState.Success())
	})
	t.Run("input that never comes", func(t *testing.T) {
		r, w := io.Pipe()
		defer w.Close()
		c := sh(s, "exit 3")
		c.Stdin, c.WaitDelay = r, 10*time.Millisecond
		err := c.Run()
		assert.ErrorIs(t, err, exec.ErrWaitDelay)
		var exit *ExitError
		assert.ErrorAs(t, err, &exit)
	})
	t.Run("asked to end first", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		c := s.Command(ctx, "sh", "-c", "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.01; done")
		c.Cancel = func() error { return c.Signal(syscall.SIGTERM) }
		c.WaitDelay = time.Minute
		var out strings.Builder
		c.Stdout = writerFunc(func(b []byte) (int, error) {
			if strings.HasPrefix(string(b), "up") {
				cancel()
			}
			return out.Write(b)
		})
		assert.ErrorIs(t, c.Run(), context.Canceled)
		assert.Equal(t, "up\nbye\n", out.String())
		assert.Equal(t, 5, c.ProcessState.ExitCode())
	})
	t.Run("and then made to", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		c := s.Command(ctx, "sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.01; done")
		c.Cancel = func() error { return c.Signal(syscall.SIGTERM) }
		c.WaitDelay = 10 * time.Millisecond
		c.Stdout = writerFunc(func(b []byte) (int, error) { cancel(); return len(b), nil })
		assert.ErrorIs(t, c.Run(), context.Canceled)
		assert.Equal(t, syscall.SIGKILL, c.ProcessState.Signal())
	})
}

func TestEnviron(t *testing.T) {
	s := box(t, audittest.NewLog(t), &Policy{Environment: Environment{"FROM_POLICY": "p", "HOME": "/tmp"}}, nil)
	c := s.Command(context.Background(), "env", "-0")
	c.Env = []string{"MINE=a=b", "MINE=c", "PATH=/usr/bin:/bin"}
	want := c.Environ()
	out, err := c.Output()
	require.NoError(t, err)
	assert.ElementsMatch(t, want, strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"))
	assert.Contains(t, want, "MINE=c")
	assert.Equal(t, "env -0", c.String())
}
