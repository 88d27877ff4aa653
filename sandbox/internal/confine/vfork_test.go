//go:build linux && (amd64 || arm64)

package confine

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

var launchers = []Launcher{LauncherReexec, LauncherVfork}

// output runs a shell script in a room and returns what it said.
func output(t testing.TB, b *Box, script string) (string, Exit) {
	r, w, err := b.Pipe()
	require.NoError(t, err)
	defer r.Close()
	p, err := b.Exec(Exec{Path: "sh", Args: []string{"sh", "-c", script}}, []*os.File{nil, w, w})
	w.Close()
	require.NoError(t, err)
	out, err := io.ReadAll(r)
	require.NoError(t, err)
	return string(out), p.Wait()
}

// TestLaunchersMakeTheSameRoom compares all that a program inside can see of how
// it is confined.
func TestLaunchersMakeTheSameRoom(t *testing.T) {
	volatile := regexp.MustCompile(`(?m)^\d+ \d+ \d+:\d+ |uid=\d+|gid=\d+|pipe:\[\d+\]|/sandbox-[^ ]+|/TestLaunchers[^ ]+`)
	for _, script := range []string{
		"cut -d' ' -f4-6,8- /proc/self/mountinfo | sort",
		"ls -lan / /dev /etc /run /run/twinward /var | sed 's/ [A-Z][a-z][a-z] .*:[0-9][0-9]//' | grep -v proc$; cat /etc/*",
		"ls /proc/self/fd; readlink /proc/self/fd/0; pwd; umask; ulimit -a; id; env | sort; hostname",
		"grep -E '^(Umask|Uid|Gid|Groups|Sig...:|Cap|NoNew|Secc|Threads)' /proc/self/status; cat /proc/self/limits",
		"cat /proc/net/dev /proc/net/route /proc/net/tcp6 /proc/net/udp6 | awk '{print $2,$3,$4}' | sort; cat /proc/self/cgroup",
		"kill -0 1; cat /proc/1/status; all=$(ls /proc); echo \"$all\" | grep -c '^[0-9]'; cat /proc/keys /proc/key-users; readlink /proc/self/exe /proc/self/root",
	} {
		var rooms []string
		for _, l := range launchers {
			b := standing(t, &Spec{Launcher: l, Ports: []uint16{80, 443}, Files: []File{{Path: "/etc/given", Data: []byte("given\n")}, {Path: "/etc/longer", Source: "/etc/services", Data: []byte("given\n")}}})
			out, _ := output(t, b, script)
			r := b.Report()
			rooms = append(rooms, fmt.Sprintln(r.Layers, r.LandlockABI, r.Status)+volatile.ReplaceAllString(out, ""))
			b.Close()
		}
		assert.NotEmpty(t, rooms[0])
		uid := regexp.MustCompile(`1[89]\d{8}|2[01]\d{8}`) // of the room, when the host is root
		assert.Equal(t, uid.ReplaceAllString(rooms[0], "U"), uid.ReplaceAllString(rooms[1], "U"), script)
	}
}

// TestCommandErrors asks for what cannot be started: the same error under both.
func TestCommandErrors(t *testing.T) {
	for _, l := range launchers {
		b := standing(t, &Spec{Launcher: l})
		out, _ := output(t, b, "cd /tmp; mkdir -p bin/folder; echo x > bin/plain; printf '#!/no/such\\n' > bin/orphan; chmod +x bin/orphan; echo ok")
		require.Equal(t, "ok\n", out)
		path := []string{"PATH=/tmp/bin:relative:/usr/bin"}
		for _, c := range []struct {
			exec Exec
			want error
		}{
			{Exec{Path: "no-such-program"}, unix.ENOENT},
			{Exec{Path: "/no/such"}, unix.ENOENT},
			{Exec{Path: ""}, unix.ENOENT},
			{Exec{Path: "/tmp"}, unix.EACCES},
			{Exec{Path: "/etc/hostname/x"}, unix.ENOENT},
			{Exec{Path: "plain", Env: path}, unix.EACCES},
			{Exec{Path: "folder", Env: path}, unix.ENOENT},
			{Exec{Path: "orphan", Env: path}, unix.ENOENT},
			{Exec{Path: "true", Dir: "/no/such"}, unix.ENOENT},
			{Exec{Path: "true", Dir: "/dev/null"}, unix.ENOTDIR},
			{Exec{Path: "true", Args: []string{"true", strings.Repeat("x", 1<<18)}}, unix.E2BIG},
			{Exec{Path: "true", Env: []string{"PATH=/none"}}, unix.ENOENT},
			{Exec{Path: "true\x00x"}, unix.EINVAL},
			{Exec{Path: "true", Dir: "/\x00x"}, unix.EINVAL},
			{Exec{Path: "true", Args: []string{"true", "a\x00b"}}, unix.EINVAL},
			{Exec{Path: "true", Env: []string{"A=b\x00c"}}, unix.EINVAL},
		} {
			_, err := b.Exec(c.exec, []*os.File{nil, nil, nil})
			var ee *ExecError
			require.ErrorAs(t, err, &ee, "%s %v", l, c.exec.Path)
			assert.ErrorIs(t, err, c.want, "%s %q in %q", l, c.exec.Path, c.exec.Dir)
		}
		out, exit := output(t, b, "echo still here; exit 3")
		assert.Equal(t, "still here\n", out)
		assert.Equal(t, 3, exit.Code)
	}
}

// TestDescriptors gives commands many descriptors in every pattern of null ones.
func TestDescriptors(t *testing.T) {
	for _, l := range launchers {
		b := standing(t, &Spec{Launcher: l})
		for pattern := 0; pattern < 1<<6; pattern += 3 {
			r, w, err := b.Pipe()
			require.NoError(t, err)
			files := []*os.File{nil, w, nil}
			var given []*os.File
			for i := range 6 {
				var f *os.File
				if pattern&(1<<i) != 0 {
					f, err = os.CreateTemp(t.TempDir(), "")
					require.NoError(t, err)
					fmt.Fprint(f, i)
					_, _ = f.Seek(0, 0)
					given = append(given, f)
				}
				files = append(files, f)
			}
			p, err := b.Exec(Exec{Path: "bash", Args: []string{"bash", "-c", "for i in 3 4 5 6 7 8; do read -u $i x; echo -n $x,; done; ls /proc/self/fd | wc -l"}}, files)
			require.NoError(t, err)
			w.Close()
			out, err := io.ReadAll(r)
			require.NoError(t, err)
			r.Close()
			for _, f := range given {
				f.Close()
			}
			want := ""
			for i := range 6 {
				if pattern&(1<<i) != 0 {
					want += fmt.Sprint(i)
				}
				want += ","
			}
			require.Equal(t, want+"10\n", string(out), "%s %06b", l, pattern)
			require.Equal(t, 0, p.Wait().Code)
		}
	}
}

// TestCommandsOfEachSize crosses the size up to which a command is received, and
// from which on it is mapped: its descriptors come with it all the same.
func TestCommandsOfEachSize(t *testing.T) {
	for _, l := range launchers {
		b := standing(t, &Spec{Launcher: l})
		sizes := []int{0, 1, 100 << 10}
		for n := requestSize - 12<<10; n < requestSize+512; n += 509 {
			sizes = append(sizes, n)
		}
		for _, n := range sizes {
			r, w, err := b.Pipe()
			require.NoError(t, err)
			given, err := os.CreateTemp(t.TempDir(), "")
			require.NoError(t, err)
			fmt.Fprint(given, "given")
			_, _ = given.Seek(0, 0)
			p, err := b.Exec(Exec{Path: "sh", Args: []string{"sh", "-c", "cat <&3; echo \" ${#0}\"", strings.Repeat("x", n)}}, []*os.File{nil, w, nil, given})
			w.Close()
			given.Close()
			require.NoError(t, err, "%s %d", l, n)
			out, err := io.ReadAll(r)
			r.Close()
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("given %d\n", n), string(out), "%s", l)
			require.Zero(t, p.Wait().Code)
		}
	}
}

// TestUnknownLauncher is an error, not a default.
func TestUnknownLauncher(t *testing.T) {
	_, err := Launch(context.Background(), &Spec{Launcher: "other"})
	assert.ErrorContains(t, err, "unknown launcher")
}

// TestAbandonedStart has an init that does not act, and a caller who does not wait
// for it: what is started later is killed.
func TestAbandonedStart(t *testing.T) {
	for _, l := range launchers {
		b := standing(t, &Spec{Launcher: l})
		require.NoError(t, b.init.Signal(unix.SIGSTOP))
		r, w, err := os.Pipe()
		require.NoError(t, err)
		defer r.Close()
		done := make(chan struct{})
		close(done)
		_, err = b.Exec(Exec{Path: "sleep", Args: []string{"sleep", "1000"}, Done: done}, []*os.File{nil, w, nil})
		w.Close()
		require.ErrorIs(t, err, ErrAbandoned, string(l))
		require.NoError(t, b.init.Signal(unix.SIGCONT))
		require.NoError(t, r.SetReadDeadline(time.Now().Add(time.Minute)))
		_, err = r.Read(make([]byte, 1)) // the last who holds the other end is gone
		assert.ErrorIs(t, err, io.EOF)
		_, exit, err := inside(t, b, "/bin/true")
		require.NoError(t, err, "the room goes on")
		assert.Zero(t, exit.Code)
		b.Close()
	}
}

// TestStoppedStarts lets a program stop everything, over and over, until it meets
// a command that does not execute yet: the host gets its error, and does not wait
// for ever with an init that cannot act any more.
func TestStoppedStarts(t *testing.T) {
	const tries = 300
	for _, l := range launchers {
		b := standing(t, &Spec{Launcher: l})
		b.patience = 2 * time.Second
		p, err := b.Exec(Exec{Path: "bash", Args: []string{"bash", "-c", "while :; do kill -STOP -1; done"}}, []*os.File{nil, nil, nil})
		require.NoError(t, err)
		for n := 0; err == nil && n < tries; n++ {
			_, err = b.Exec(Exec{Path: "true", Args: []string{"true"}}, []*os.File{nil, nil, nil})
		}
		if err == nil {
			t.Logf("%s: no child was stopped before it executed", l)
			continue
		}
		assert.ErrorIs(t, err, ErrEnded, string(l))
		<-b.Done()
		assert.True(t, p.Wait().Lost)
	}
}

// TestNamespacesByDescriptor asks the kernel both ways.
func TestNamespacesByDescriptor(t *testing.T) {
	for _, l := range launchers {
		b := standing(t, &Spec{Launcher: l})
		want := readNamespaces(fmt.Sprint(b.InitPID()))
		assert.Len(t, want, len(nsKinds))
		assert.Equal(t, want, b.namespaces())
		assert.Equal(t, want, b.Report().Namespaces)
	}
}

// TestFileWithASource makes a file of what the host has and more; a source that
// is none is an error before anything is started.
func TestFileWithASource(t *testing.T) {
	source := filepath.Join(t.TempDir(), "source")
	require.NoError(t, os.WriteFile(source, bytes.Repeat([]byte("0123456789abcde\n"), 20000), 0o644))
	for _, l := range launchers {
		b := standing(t, &Spec{Launcher: l, Files: []File{{Path: "/etc/copy", Source: source, Data: []byte("more\n")}}})
		out, _ := output(t, b, "wc -c </etc/copy; tail -n 2 /etc/copy; ls -l /etc/copy | cut -c1-10; ls /proc/self/fd")
		assert.Equal(t, "320005\n0123456789abcde\nmore\n-rw-r--r--\n0\n1\n2\n3\n", out)
		b.Close()
		for _, none := range []string{source + "-none", t.TempDir()} {
			_, err := Launch(context.Background(), &Spec{Launcher: l, Workspace: t.TempDir(), OwnWorkspace: true, Files: []File{{Path: "/etc/copy", Source: none}}})
			var le *LayerError
			require.ErrorAs(t, err, &le)
			assert.Equal(t, "open "+none, le.Step)
		}
	}
}

// TestMountThroughLink: a place that has become beneath a link of the room's own
// is opened without following it.
func TestMountThroughLink(t *testing.T) {
	for _, link := range []string{"", "/way"} {
		r := &roomProgram{spec: &Spec{}, dirs: map[string]bool{}}
		if link != "" {
			r.link(link, "/etc")
		}
		r.attach(r.slot(), "way/place", true)
		opens := slices.ContainsFunc(r.steps, func(s step) bool { return s.nr == unix.SYS_OPENAT2 })
		assert.Equal(t, link != "", opens)
	}
}

// TestHarmlessProc: of a host that masks parts of its /proc, a room is shown what
// is there.
func TestHarmlessProc(t *testing.T) {
	defer func(all []string) { harmlessProc = all }(harmlessProc)
	harmlessProc = []string{"uptime", "no-such-file", "version"}
	b := standing(t, &Spec{Launcher: LauncherVfork, Tier: TierMaskedProc}) // init of the other has variables of its own
	out, _ := output(t, b, "ls -a /proc; cat /proc/uptime >/dev/null && echo x >/proc/version")
	assert.Equal(t, ".\n..\nuptime\nversion\nsh: 1: cannot create /proc/version: Read-only file system\n", out)
	assert.NotContains(t, b.Report().Layers, LayerProc)
	assert.Equal(t, TierMaskedProc, b.Report().Tier)
}

// TestSignalsMeetNobodyElse gives the number of a command that has ended to
// another one, as the kernel does sooner or later: the other gets no signal.
func TestSignalsMeetNobodyElse(t *testing.T) {
	b := standing(t, &Spec{Launcher: LauncherVfork})
	start := func() (p *Process, in, out *os.File) {
		inR, in, err := b.Pipe()
		require.NoError(t, err)
		out, outW, err := b.Pipe()
		require.NoError(t, err)
		t.Cleanup(func() { in.Close(); out.Close() })
		p, err = b.Exec(Exec{Path: "cat", Args: []string{"cat"}}, []*os.File{inR, outW, nil})
		require.NoError(t, err)
		inR.Close()
		outW.Close()
		return p, in, out
	}
	echo := func(in, out *os.File) {
		t.Helper()
		_, err := in.WriteString("x")
		require.NoError(t, err)
		got := make([]byte, 1)
		_, err = io.ReadFull(out, got)
		require.NoError(t, err, "it is not there any more")
	}
	old, oldIn, _ := start()
	other, otherIn, otherOut := start()
	require.NotNil(t, old.handle)
	number := old.PID
	old.PID = other.PID
	echo(otherIn, otherOut)

	// While the one lives, what is sent to it by the wrong number still reaches it.
	require.NoError(t, old.Signal(unix.SIGTERM, false))
	exit := <-old.exit
	assert.Equal(t, int(unix.SIGTERM), exit.Signal)

	// Now it is reaped, and its descriptor still open.
	for _, group := range []bool{false, true} {
		require.NoError(t, old.Signal(unix.SIGKILL, group))
	}
	// What a kernel before 6.9 is given to do, in init.
	packet, err := b.proto.signal(old, int(unix.SIGKILL), true)
	require.NoError(t, err)
	require.NoError(t, b.send(packet, int(old.handle.Fd())))
	echo(otherIn, otherOut)
	old.exit <- exit
	old.Wait()
	require.NoError(t, old.Signal(unix.SIGKILL, true))
	old.PID = number
	require.NoError(t, old.Signal(unix.SIGKILL, true))
	echo(otherIn, otherOut)

	packet, err = b.proto.signal(other, int(unix.SIGKILL), true)
	require.NoError(t, err)
	require.NoError(t, b.send(packet, int(other.handle.Fd())))
	assert.Equal(t, int(unix.SIGKILL), other.Wait().Signal)
	oldIn.Close()
	out, _ := output(t, b, "ls /proc/self/fd | wc -l")
	assert.Equal(t, "4\n", out, "no descriptor of a command is inherited")
}

func init() {
	// Sends descriptors that nobody receives, until the kernel lets it send no more.
	roles["send-descriptors"] = func() {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		for err == nil {
			err = unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(slices.Repeat([]int{2}, maxFDs)...), nil, 0)
		}
		fmt.Println(err)
		_, _ = io.ReadAll(os.Stdin)
	}
}

// TestDescriptorsInFlight has a program inside that uses up the descriptors which
// its user, who may be the host's own and that of other rooms, may have on their way
// between processes. Commands start all the same and, where the kernel does not let
// init send theirs, are refused: the room lives on.
func TestDescriptorsInFlight(t *testing.T) {
	for _, l := range launchers {
		b := standing(t, &Spec{Launcher: l, Self: true, Limits: Limits{OpenFiles: 64}})
		stdin, hold, err := b.Pipe()
		require.NoError(t, err)
		said, w, err := b.Pipe()
		require.NoError(t, err)
		p, err := b.Exec(Exec{Path: SelfPath, Args: []string{SelfPath, "send-descriptors"}}, []*os.File{stdin, w, nil})
		require.NoError(t, err)
		stdin.Close()
		w.Close()
		line, err := bufio.NewReader(said).ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, unix.ETOOMANYREFS.Error()+"\n", line)
		out, exit := output(t, b, "ulimit -n")
		assert.Equal(t, "64\n", out, string(l))
		assert.Zero(t, exit.Code)

		few := unix.Rlimit{Cur: 64, Max: 64}
		require.NoError(t, unix.Prlimit(b.InitPID(), unix.RLIMIT_NOFILE, &few, nil))
		fds := openFiles(t)
		_, err = b.Exec(Exec{Path: "true", Args: []string{"true"}}, []*os.File{nil, nil, nil})
		if l == LauncherVfork { // the other hands nothing out
			require.ErrorIs(t, err, unix.ETOOMANYREFS)
			assert.Equal(t, fds, openFiles(t))
		}
		hold.Close()
		said.Close()
		p.Wait()
		_, exit = output(t, b, "true")
		assert.Zero(t, exit.Code, string(l))
		b.Close()
	}
}
