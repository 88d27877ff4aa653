//go:build linux && (amd64 || arm64)

package sandbox

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

func init() {
	roles["holders"] = holdersRole
	roles["runs-only"] = runsOnlyRole
	roles["waits"] = func() {
		fmt.Print("x")
		_, _ = io.ReadAll(os.Stdin)
	}
}

// holdersRole connects to the address $2 in the way $1, with a socket of its own
// making, says hello and prints what happens.
func holdersRole() {
	way, addr := os.Args[1], os.Args[2]
	if way == "talk" {
		fmt.Print(tryTalk(addr))
		return
	}
	dst, err := resolveInside(addr)
	if err != nil {
		fmt.Print(err)
		return
	}
	kind := unix.SOCK_STREAM | unix.SOCK_CLOEXEC
	if way == "open" {
		kind = unix.SOCK_STREAM
	}
	fd, err := unix.Socket(unix.AF_INET, kind, 0)
	if err != nil {
		fmt.Print(err)
		return
	}
	switch way {
	case "child": // another program holds it too
		c := exec.Command("/bin/sleep", "1000")
		c.ExtraFiles = []*os.File{os.NewFile(uintptr(fd), "socket")}
		if err := c.Start(); err != nil {
			fmt.Print(err)
			return
		}
		defer c.Process.Kill()
	case "flight": // one more reference is on its way to somebody
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(fd), nil, 0)
		}
		if err != nil {
			fmt.Print(err)
			return
		}
	case "hide": // nobody may look at its descriptors
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
			fmt.Print(err)
			return
		}
	}
	if err := unix.Connect(fd, dst); err != nil {
		fmt.Print(ending(err))
		return
	}
	unix.Write(fd, []byte("hello"))
	b := make([]byte, 5)
	if n, _ := unix.Read(fd, b); n == 5 {
		fmt.Print(string(b))
		return
	}
	fmt.Print("reset")
}

func resolveInside(addr string) (*unix.SockaddrInet4, error) {
	host, port, _ := strings.Cut(addr, ":")
	dst := &unix.SockaddrInet4{}
	fmt.Sscan(port, &dst.Port)
	a, err := lookupInside(host)
	dst.Addr = a
	return dst, err
}

// A rule for programs is about who holds the connection, all of them, and never
// about who started them.
func TestPrograms(t *testing.T) {
	for _, l := range launchers {
		t.Run(string(l), func(t *testing.T) { testPrograms(t, l) })
	}
}

func testPrograms(t *testing.T, l Launcher) {
	log := audittest.NewLog(t)
	port := echoServer(t)
	work := t.TempDir()
	require.NoError(t, os.Chmod(work, 0o777))
	exe, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	copied := filepath.Join(work, "copy")
	require.NoError(t, os.WriteFile(copied, exe, 0o755))
	sum := sha256.Sum256(exe)
	rule := func(host string, ps ...Program) Rule {
		return Rule{Host: host, Ports: []uint16{port}, Private: true, Programs: ps}
	}
	self := Program{Path: Self}
	p := rules(
		rule("self.example.com", self), rule("bash.example.com", Program{Path: "/bin/bash"}),
		rule("copy.example.com", Program{Path: "/sandbox/copy", SHA256: strings.Repeat("0", 64)}),
		rule("sum.example.com", Program{Path: "/sandbox/copy", SHA256: hex.EncodeToString(sum[:])}),
		rule("both.example.com", self), Rule{Host: "**.example.com", Ports: []uint16{port}, Private: true},
		Rule{Host: "tools.local", Ports: []uint16{80, 443}, Programs: []Program{self}},
	)
	r := hosts{}
	for _, h := range []string{"self", "bash", "copy", "sum", "both", "any"} {
		r[h+".example.com."] = "127.0.0.1"
	}
	s := box(t, log, p, &Options{Self: true, Resolver: r, Workspace: work, Launcher: l})
	require.NoError(t, s.Handle("tools.local", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "tools") })))
	run := func(program, way, host string) string {
		cmd := s.Command(t.Context(), program, way, fmt.Sprintf("%s.example.com:%d", host, port))
		cmd.Env = roleEnv("holders")
		out, err := cmd.Output()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	hidden := "reset" // nobody but root may look at its descriptors
	hiding := 1
	if os.Geteuid() == 0 {
		hidden = "hello"
		hiding--
	}
	for _, c := range []struct{ program, way, host, want string }{
		{Self, "talk", "self", "hello"},
		{Self, "talk", "bash", "reset"},
		{Self, "talk", "any", "hello"},
		{"/sandbox/copy", "talk", "self", "reset"}, // the same bytes, but where anybody can write
		{"/sandbox/copy", "talk", "copy", "reset"},
		{"/sandbox/copy", "talk", "sum", "hello"},
		{Self, "plain", "self", "hello"},
		{Self, "child", "self", "reset"},
		{Self, "flight", "self", "reset"},
		{Self, "open", "self", "reset"}, // it could come from before an exec
		{Self, "hide", "self", hidden},
		{Self, "child", "any", "hello"},
	} {
		assert.Equal(t, c.want, run(c.program, c.way, c.host), "%+v", c)
	}
	// A shell whose parent is allowed is not, nor the reverse.
	shell := s.Command(t.Context(), "/bin/bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/self.example.com/%d && echo hello >&3 && read -t 20 x <&3 && echo $x", port))
	out, _ := shell.Output()
	assert.Empty(t, string(out))
	assert.Equal(t, []string{"200 tools", "200 tools", "200 tools"}, try(t, s, "get https://tools.local/", "proxied https://tools.local/", "proxied http://tools.local/"))

	require.NoError(t, s.Close())
	var programs []string
	denied := map[string]int{}
	for _, rec := range log.Records() {
		if rec.Outcome != nil {
			for _, c := range rec.Outcome.Checks {
				if program, ok := strings.CutPrefix(c, "program:"); ok {
					programs = append(programs, program)
				}
			}
		}
		if rec.Event != nil && rec.Event.Kind == audit.KindDenial {
			denied[rec.Event.Decision.Reason]++
		}
	}
	slices.Sort(programs)
	assert.Equal(t, []string{Self, "/sandbox/copy"}, slices.Compact(programs))
	assert.Equal(t, 7, denied[CauseProgram])
	assert.Equal(t, hiding, denied[CauseProgramHidden])
}

// denials prints the refusals that are put on record.
type denials struct{ discard }

func (denials) Append(_ context.Context, e audit.Event) error {
	if e.Kind == audit.KindDenial {
		fmt.Println(e.Decision.Reason, strings.Contains(e.Detail["why"], "(runs-only) hides what it has open"))
	}
	return nil
}

// runsOnlyRole is a host that is no root, whose session has a program which may be
// run and not be read, of a user who does not exist inside: $1 is the folder of
// it, $2 an echo server's port.
func runsOnlyRole() {
	fail := func(err error) {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	dir, port := os.Args[1], os.Args[2]
	var n uint16
	fmt.Sscan(port, &n)
	programs := []Program{{Path: Self}, {Path: dir + "/runs-only"}}
	p := rules(Rule{Host: "a.example.com", Ports: []uint16{n}, Private: true, Programs: programs})
	p.Filesystem.ReadOnly = append(SystemPaths(), dir)
	s, err := Start(context.Background(), p, agent, denials{}, &Options{Self: true, Resolver: hosts{"a.example.com.": "127.0.0.1"}})
	fail(err)
	talk := func(program string) {
		cmd := s.Command(context.Background(), program, "talk", "a.example.com:"+port)
		cmd.Env = roleEnv("holders")
		out, err := cmd.Output()
		fail(err)
		fmt.Println(string(out))
	}
	talk(Self)
	talk(dir + "/runs-only")
	// It need not do anything to be somebody who may hold what others connect.
	waits := s.Command(context.Background(), dir+"/runs-only")
	waits.Env = roleEnv("waits")
	in, err := waits.StdinPipe()
	fail(err)
	out, err := waits.StdoutPipe()
	fail(err)
	fail(waits.Start())
	_, err = io.ReadFull(out, make([]byte, 1))
	fail(err)
	talk(Self)
	fail(in.Close())
	fail(waits.Wait())
	talk(Self)
	fail(s.Close())
}

// TestRunsOnlyPrograms: a process that a host cannot look into is not overlooked.
func TestRunsOnlyPrograms(t *testing.T) {
	needSandbox(t)
	if os.Geteuid() != 0 {
		t.Skip("it takes a host with a second user")
	}
	dir, err := os.MkdirTemp("", "sandbox-runs-only-") // where others come through
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	exe, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	for name, mode := range map[string]os.FileMode{"": 0o755, "host": 0o755, "runs-only": 0o711} {
		if name != "" {
			require.NoError(t, os.WriteFile(dir+"/"+name, exe, mode))
		}
		require.NoError(t, os.Chmod(dir+"/"+name, mode))
	}
	cmd := exec.Command(dir+"/host", dir, fmt.Sprint(echoServer(t)))
	cmd.Dir, cmd.Env = "/", append(roleEnv("runs-only"), "TMPDIR=/tmp")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	require.NoError(t, err, "%s%s", out, errs.String())
	assert.Equal(t, "hello\nprogram-hidden true\nreset\nprogram-hidden true\nreset\nhello\n", string(out))
}

// New rules about programs cut what other programs hold.
func TestSetNetworkOfPrograms(t *testing.T) {
	log := audittest.NewLog(t)
	port := echoServer(t)
	rule := Rule{Host: "a.example.com", Ports: []uint16{port}, Private: true, Programs: []Program{{Path: Self}}}
	s := box(t, log, rules(rule), &Options{Self: true, Resolver: hosts{"a.example.com.": "127.0.0.1"}})
	addr := fmt.Sprintf("talk a.example.com:%d", port)
	assert.Equal(t, []string{"hello"}, try(t, s, addr))
	rule.Programs = []Program{{Path: "/bin/bash"}}
	require.NoError(t, s.SetNetwork(t.Context(), Network{Allow: []Rule{rule}}, byAlice))
	assert.Equal(t, []string{"reset"}, try(t, s, addr))
}
