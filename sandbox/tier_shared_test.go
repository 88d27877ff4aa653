//go:build linux && (amd64 || arm64)

package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/sandbox/internal/confine"
	"github.com/twinward-dev/twinward/sandbox/internal/escape"
)

func init() {
	roles["shared-net"] = sharedNet
	roles["shared-signals"] = sharedSignals
	roles["shared-host"] = func() {
		s, err := Start(context.Background(), nil, agent, discard{}, &Options{Tier: TierNoNamespaces, Self: true})
		if err == nil {
			err = daemon(s, os.NewFile(3, "pipe"))
		}
		fmt.Println(err)
		select {}
	}
}

// sharedBox starts a session without namespaces.
func sharedBox(t testing.TB, log audit.Recorder, p *Policy, opts *Options) *Session {
	t.Helper()
	if err := confine.ProbeShared(); err != nil {
		if os.Getenv("TWINWARD_FULL") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	if opts == nil {
		opts = &Options{}
	}
	opts.Tier = TierNoNamespaces
	s, err := Start(context.Background(), p, agent, log, opts)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func TestSharedFiles(t *testing.T) {
	outside := t.TempDir() // of the user's own, where everything is allowed to him
	require.NoError(t, os.Chmod(outside, 0o777))
	require.NoError(t, os.WriteFile(outside+"/file", []byte("secret"), 0o666))
	require.NoError(t, os.Chmod(outside+"/file", 0o666))
	old := time.Unix(1e9, 0)
	require.NoError(t, os.Chtimes(outside+"/file", old, old))
	log := audittest.NewLog(t)
	s := sharedBox(t, log, nil, nil)
	for _, c := range []struct{ script, want string }{
		{"pwd", s.home + "\n"},
		{"echo $HOME; cd $TMPDIR && pwd", s.home + "\n" + s.side + "/tmp\n"},
		{"echo hi >f && chmod 755 f && stat -c %a f && touch -d @7 f && stat -c %Y f", "755\n7\n"},
		{"mkdir -m 700 d && echo x >d/f && chmod 640 ./d/../d/f && cd d && chmod 600 f && stat -c %a f && ln -s f l && touch -h -d @9 l && stat -c %Y l", "600\n9\n"},
		{"cp -p f g && stat -c '%a %Y' g; tar cf t f && tar xf t && echo ok; chmod 4755 f 2>/dev/null || echo no set-id", "755 7\nok\nno set-id\n"},
		{"echo t >$TMPDIR/t && chmod 600 $TMPDIR/t && cat $TMPDIR/t", "t\n"},
		{"cat OUT/file || echo no", "no\n"},
		{"chmod 000 OUT/file || echo no", "no\n"},
		{"ln -s OUT/file s && chmod 000 s || echo no", "no\n"},
		{"ln -s OUT o && chmod 000 o/file || echo no", "no\n"},
		{"cd OUT && chmod 000 file || echo no", "no\n"},
		{"touch OUT/file || echo no", "no\n"},
		{"touch -h -d @7 OUT/file || echo no", "no\n"},
		{"chmod 000 /proc/$$/cwd/f || echo no", "no\n"},
		{"chmod 700 nothing 2>/dev/null || echo no", "no\n"},
		{"ls OUT || echo no", "no\n"},
		{"echo x >OUT/new || echo no", "no\n"},
		{"mv OUT/file . || echo no", "no\n"},
		{"ln OUT/file . || echo no", "no\n"},
		{"rm OUT/file || echo no", "no\n"},
		{"cat /proc/$PPID/cmdline || echo no", "no\n"},
		{"cat /proc/cpuinfo >/dev/null && echo yes", "yes\n"},
		{"ls /tmp || echo no", "no\n"},
		{"echo secret | cat /dev/stdin", "secret\n"},
	} {
		out, _ := sh(s, "exec 2>/dev/null; "+strings.ReplaceAll(c.script, "OUT", outside)).Output()
		assert.Equal(t, c.want, string(out), c.script)
	}
	if os.Getuid() == 0 { // it acts on what is the session's user's, not on what root may
		require.NoError(t, os.WriteFile(s.Workspace()+"/root", nil, 0o644))
		closed := t.TempDir()
		require.NoError(t, os.Chmod(closed, 0o700))
		require.NoError(t, os.WriteFile(closed+"/there", nil, 0o644))
		out, _ := sh(s, "chmod 666 root; chmod 666 "+closed+"/there; chmod 666 "+closed+"/absent").CombinedOutput()
		assert.Regexp(t, "^.*'root': Operation not permitted\n.*there': Permission denied\n.*absent': Permission denied\n$", string(out))
	}
	fi, err := os.Stat(outside + "/file")
	require.NoError(t, err)
	assert.Equal(t, "-rw-rw-rw- 1000000000", fmt.Sprint(fi.Mode(), " ", fi.ModTime().Unix()), "nothing has changed outside")

	r := s.Report()
	assert.Equal(t, TierNoNamespaces, r.Tier)
	assert.Equal(t, []Layer{LayerRlimits, LayerNoNewPrivs, LayerCaps, LayerLandlock, LayerSeccomp, LayerNetwork}, r.Layers)
	assert.GreaterOrEqual(t, r.LandlockABI, 6)
	assert.NotZero(t, r.UID)
	require.NoError(t, s.Close())
	assert.NoDirExists(t, s.side)
	assert.NoDirExists(t, s.Workspace())
	for _, e := range log.Records() {
		if e := e.Event; e != nil && e.Kind == audit.KindLaunch {
			assert.Equal(t, "no-namespaces", e.Detail["tier"])
		}
	}
}

// sharedNet says how attempts to reach something end.
func sharedNet() {
	say := func(what string, err error) {
		var errno unix.Errno
		switch {
		case err == nil:
			fmt.Println(what, "ok")
		case errors.As(err, &errno):
			fmt.Println(what, unix.ErrnoName(errno))
		default:
			fmt.Println(what, err)
		}
	}
	connect := func(what string, family, kind int, to unix.Sockaddr) {
		fd, err := unix.Socket(family, kind, 0)
		if err == nil {
			err = unix.Connect(fd, to)
		}
		say(what, err)
	}
	port, _ := strconv.Atoi(os.Args[1])
	for _, url := range []string{"http://tools.local/", "http://other.local/", "https://tools.local/"} {
		res, err := http.Get(url)
		if err != nil {
			say(url, err)
			continue
		}
		b, _ := io.ReadAll(res.Body)
		fmt.Println(url, res.StatusCode, string(b))
	}
	lo, six := [4]byte{127, 0, 0, 1}, [16]byte{15: 1}
	mapped := [16]byte{10: 0xff, 0xff, 127, 0, 0, 1}
	connect("server of the host", unix.AF_INET, unix.SOCK_STREAM, &unix.SockaddrInet4{Addr: lo, Port: port})
	connect("server of the host, mapped", unix.AF_INET6, unix.SOCK_STREAM, &unix.SockaddrInet6{Addr: mapped, Port: port})
	connect("an address", unix.AF_INET, unix.SOCK_STREAM, &unix.SockaddrInet4{Addr: [4]byte{192, 0, 2, 1}, Port: 443})
	connect("the proxy", unix.AF_INET, unix.SOCK_STREAM, &unix.SockaddrInet4{Addr: lo, Port: proxyPort})
	connect("the proxy, mapped", unix.AF_INET6, unix.SOCK_STREAM, &unix.SockaddrInet6{Addr: mapped, Port: proxyPort})
	connect("its port elsewhere", unix.AF_INET6, unix.SOCK_STREAM, &unix.SockaddrInet6{Addr: six, Port: proxyPort})
	connect("socket of the host", unix.AF_UNIX, unix.SOCK_STREAM, &unix.SockaddrUnix{Name: os.Args[2]})
	connect("abstract socket", unix.AF_UNIX, unix.SOCK_SEQPACKET, &unix.SockaddrUnix{Name: "@" + os.Args[2]})
	_, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	say("UDP", err)
	for _, kind := range []int{unix.SOCK_DGRAM, unix.SOCK_RAW} {
		_, err = unix.Socket(unix.AF_UNIX, kind, 0)
		say("Unix datagrams", err)
		_, err = unix.Socketpair(unix.AF_UNIX, kind, 0)
		say("a pair of them", err)
	}
	_, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	say("a pair of streams", err)
	fd, _ := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	say("listen", unix.Listen(fd, 1))
	say("bind", unix.Bind(fd, &unix.SockaddrInet4{}))
	say("not a socket", unix.Connect(0, &unix.SockaddrInet4{Addr: lo, Port: proxyPort}))
	say("nothing", unix.Connect(999, &unix.SockaddrInet4{Addr: lo, Port: proxyPort}))
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	connect("of a program that hides", unix.AF_INET, unix.SOCK_STREAM, &unix.SockaddrInet4{Addr: [4]byte{192, 0, 2, 2}, Port: 443})
}

func TestSharedNetwork(t *testing.T) {
	port := echoServer(t)
	path := t.TempDir() + "/socket"
	for _, name := range []string{path, "@" + path} {
		l, err := net.Listen("unix", name)
		require.NoError(t, err)
		defer l.Close()
		require.NoError(t, os.Chmod(path, 0o777))
	}
	log := audittest.NewLog(t)
	s := sharedBox(t, log, rules(Rule{Host: "tools.local", Ports: []uint16{80, 443}}), &Options{Self: true})
	require.NoError(t, s.Handle("tools.local", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, audit.ActorFrom(r.Context()).Agent)
	})))
	c := s.Command(t.Context(), Self, strconv.Itoa(int(port)), path)
	c.Env = roleEnv("shared-net")
	out, err := c.CombinedOutput()
	require.NoError(t, err, string(out))
	hidden := "of a program that hides ECONNREFUSED\n"
	if os.Getuid() != 0 { // only root can look into it
		hidden = "of a program that hides EACCES\n"
	}
	assert.Equal(t, `http://tools.local/ 200 tester
http://other.local/ 403 the session's policy refuses this: unlisted-host
`+"\nhttps://tools.local/ 200 tester"+`
server of the host ECONNREFUSED
server of the host, mapped ECONNREFUSED
an address ECONNREFUSED
the proxy ok
the proxy, mapped ok
its port elsewhere ECONNREFUSED
socket of the host EACCES
abstract socket EACCES
UDP EPERM
Unix datagrams EPERM
a pair of them EPERM
Unix datagrams EPERM
a pair of them EPERM
a pair of streams ok
listen EPERM
bind EPERM
not a socket ENOTSOCK
nothing EBADF
`+hidden, string(out))

	// Somebody else of the machine finds the proxy's port, and nobody there.
	other, err := net.Dial("tcp", s.box.Listeners.TCP[proxyPort].Addr().String())
	if err == nil { // it may be turned away before that is known here
		_ = other.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(other, "GET http://tools.local/ HTTP/1.1\r\nHost: tools.local\r\n\r\n")
		b, err := io.ReadAll(other)
		assert.Empty(t, b)
		assert.NotErrorIs(t, err, os.ErrDeadlineExceeded)
		other.Close()
	}

	require.NoError(t, s.SetNetwork(t.Context(), Network{Allow: []Rule{{Host: "tools.local", Ports: []uint16{80, 8443}}}}, byAlice), "ports need nothing inside")
	require.NoError(t, s.Close())
	var refused []string
	for _, r := range log.Records() {
		if e := r.Event; e != nil && e.Kind == audit.KindProbe && e.Action == "connect" {
			assert.Equal(t, string(LayerNetwork), e.Source)
			refused = append(refused, strings.Replace(e.Detail["object"], path, "PATH", 1))
		}
	}
	slices.Sort(refused)
	want := []string{fmt.Sprintf("127.0.0.1:%d", port), "192.0.2.1:443", "PATH", "[::1]:3128", fmt.Sprintf("[::ffff:127.0.0.1]:%d", port), "\x00PATH"}
	if os.Getuid() == 0 {
		want = append(want, "192.0.2.2:443")
	} else {
		want = append(want, "its socket cannot be taken: operation not permitted")
	}
	slices.Sort(want)
	assert.Equal(t, want, refused)
}

// sharedSignals tries to end init from inside: as a process, and each thread.
func sharedSignals() {
	init, reached := os.Getppid(), 0
	for id := init; id < init+200; id++ {
		if unix.Tgkill(init, id, unix.SIGKILL) == nil || unix.Kill(id, 0) == nil && id != os.Getpid() {
			reached++
		}
	}
	other, _ := strconv.Atoi(os.Args[1])
	fmt.Println(reached, unix.Kill(init, unix.SIGKILL), unix.Kill(other, unix.SIGKILL))
	_ = unix.Kill(-1, unix.SIGSTOP)
}

func TestSharedSignalsStayIn(t *testing.T) {
	s := sharedBox(t, audittest.NewLog(t), nil, &Options{Self: true})
	other := s.Command(t.Context(), "cat")
	in, err := other.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, other.Start())
	c := s.Command(t.Context(), Self, strconv.Itoa(other.Pid()))
	c.Env = roleEnv("shared-signals")
	out, err := c.CombinedOutput()
	require.NoError(t, err, string(out))
	// What it reaches is its own threads.
	assert.Regexp(t, `^\d operation not permitted operation not permitted\n$`, string(out))
	require.NoError(t, in.Close())
	require.NoError(t, other.Wait(), "the other command lives")
	require.NoError(t, sh(s, "true").Run())
}

// daemon starts a process that leaves its parent, group and session, and holds
// the write end of a pipe; it returns when that is so.
func daemon(s *Session, w *os.File) error {
	c := sh(s, "(setsid sh -c 'trap \"\" TERM HUP; echo up; exec sleep 1000' >&3 &)")
	c.ExtraFiles = []*os.File{w}
	return c.Run()
}

func TestSharedEnds(t *testing.T) {
	s := sharedBox(t, audittest.NewLog(t), nil, nil)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	require.NoError(t, daemon(s, w))
	w.Close()
	up, err := bufio.NewReader(r).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "up\n", up)
	require.NoError(t, s.Close())
	require.NoError(t, unix.SetNonblock(int(r.Fd()), true))
	n, err := unix.Read(int(r.Fd()), make([]byte, 1))
	assert.NoError(t, err, "Close returned while a process was left")
	assert.Zero(t, n)
}

func TestSharedEndsWithItsHost(t *testing.T) {
	sharedBox(t, audittest.NewLog(t), nil, nil).Close()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVar+"=shared-host")
	cmd.ExtraFiles = []*os.File{w}
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	w.Close()
	said, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, "<nil>\n", said)
	in := bufio.NewReader(r)
	up, err := in.ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, "up\n", up)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.NoError(t, r.SetReadDeadline(time.Now().Add(time.Minute)))
	_, err = in.ReadByte()
	assert.ErrorIs(t, err, io.EOF, "what ran inside outlived the host")
}

func TestSharedRefuses(t *testing.T) {
	start := func(p *Policy, o Options) error {
		o.Tier = TierNoNamespaces
		s, err := Start(t.Context(), p, agent, audittest.NewLog(t), &o)
		if err == nil {
			s.Close()
		}
		return err
	}
	for field, p := range map[string]*Policy{
		"filesystem.tmp_size":       {Filesystem: Filesystem{TmpSize: 1 << 20}},
		"process.exec":              {Process: Process{Exec: ExecStrict}},
		"devices":                   {Devices: []string{"gpu"}},
		"inference.programs":        {Inference: &Inference{Programs: []Program{{Path: "/bin/sh"}}}},
		"network.allow[0].programs": rules(Rule{Host: "example.com", Ports: []uint16{443}, Programs: []Program{{Path: "/bin/sh"}}}),
	} {
		var pe *PolicyError
		if assert.ErrorAs(t, start(p, Options{}), &pe, field) {
			assert.Equal(t, field, pe.Field)
			assert.Contains(t, pe.Problem, "no-namespaces")
		}
	}
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(dir+"/.git/hooks", 0o755))
	for why, c := range map[string]struct {
		p    *Policy
		o    Options
		want Layer
	}{
		"watch a network that is the host's": {nil, Options{RecordProbes: true}, LayerNet},
		"a protected place in the workspace": {nil, Options{Workspace: dir}, LayerMount},
		"read-only beneath writable":         {&Policy{Filesystem: Filesystem{ReadWrite: []string{dir}, ReadOnly: append(SystemPaths(), dir+"/.git")}}, Options{}, LayerMount},
		"the other launcher":                 {nil, Options{Launcher: LauncherVfork}, LayerProc},
	} {
		var le *LayerError
		if assert.ErrorAs(t, start(c.p, c.o), &le, why) {
			assert.Equal(t, c.want, le.Layer, why)
			assert.NotEmpty(t, le.Hint, why)
		}
	}
	err := start(&Policy{Filesystem: Filesystem{Protect: []string{}}}, Options{Workspace: dir})
	if os.Getuid() != 0 {
		assert.NoError(t, err)
		return
	}
	var le *LayerError
	require.ErrorAs(t, err, &le, "nothing translates owners")
	assert.Equal(t, LayerIDMap, le.Layer)
}

// sharedAccepts are the probes that get through without namespaces, and why that
// is no way out: they learn that something is there, or find the absence of a
// wall of which another stands in the place.
var sharedAccepts = map[string]string{
	"find a disk or a device that controls the machine": "its name; it cannot be opened",
	"fill the host's memory through /tmp":               "its /tmp is a folder of the host's, as is its workspace",
	"open a process of the host":                        "to wait for its end; it cannot be signalled or read",
	"change the scheduling of a process of the host":    "to read it",
	"stop everything there is":                          "the kernel reports success and reaches nobody",
	"see init in /proc":                                 "that it exists",
	"learn the host's name":                             "no namespace of names",
	"find set-id programs that work":                    "no_new_privs makes them ordinary ones",
}

func TestSharedEscapes(t *testing.T) {
	sharedBox(t, audittest.NewLog(t), nil, nil).Close()
	tg := lay(t)
	found := raid{tier: TierNoNamespaces}.run(t, tg)
	all := escape.Probes()
	open := 0
	for i, p := range all {
		f, ok := found[p.Name]
		why, known := sharedAccepts[p.Name]
		if strings.HasPrefix(p.Name, "share the host's ") {
			why, known = "that is the tier", true
		}
		if known {
			all[i].Accepted = why
		}
		switch {
		case !ok:
			t.Errorf("%s: the probe did not report", p.Name)
		case f.Open && all[i].Accepted == "":
			open++
			t.Errorf("%s: got through", p.Name)
		}
	}
	t.Logf("%d of %d probes open, uid %d\n%s", open, len(all), os.Getuid(), escape.Table(all, found))
}

// TestSharedLayersHold takes one layer away at a time.
func TestSharedLayersHold(t *testing.T) {
	sharedBox(t, audittest.NewLog(t), nil, nil).Close()
	tg := lay(t)
	for layer, demanded := range map[Layer][]string{
		LayerLandlock: {"read a secret of the host", "write in a directory of the host", "write in a read-only tree"},
		LayerSeccomp:  {"attach a shared memory segment of the host", "set times in a read-only tree", "connect to a socket in the host's file system", "send a datagram to the host's loopback"},
		LayerRlimits:  {"have no limit on processes"},
	} {
		found := raid{tier: TierNoNamespaces, without: []Layer{layer}, only: demanded}.run(t, tg)
		for _, name := range demanded {
			assert.True(t, found[name].Open, "%s: still blocked without %s: %s", name, layer, found[name].Seen)
		}
	}
}

// TestSharedWork is what people do all day, where it takes the most of a tier.
func TestSharedWork(t *testing.T) {
	s := sharedBox(t, audittest.NewLog(t), nil, nil)
	for _, c := range []struct{ program, script, want string }{
		{"git", "git init -q r && cd r && echo a >f && git add . && git -c user.email=a@b -c user.name=n commit -qm x && cd .. && git clone -q r c && cat c/f", "a\n"},
		{"python3", `python3 -c 'import subprocess,tempfile; tempfile.NamedTemporaryFile(); print(subprocess.check_output(["echo","hi"]))'`, "b'hi\\n'\n"},
		{"node", `node -e 'const fs=require("fs"); fs.writeFileSync("x","1"); fs.chmodSync("x",0o700); fs.utimesSync("x",7,7); console.log(fs.statSync("x").mtimeMs, require("child_process").execSync("echo sub")+"")'`, "7000 sub\n\n"},
		{"npm", `mkdir p && echo '{"name":"p","version":"1.0.0","bin":{"pp":"x.js"}}' >p/package.json && printf '#!/usr/bin/env node\nconsole.log("ran")' >p/x.js && npm pack --silent ./p >/dev/null && npm init -y >/dev/null && npm install --silent --offline ./p-1.0.0.tgz && node_modules/.bin/pp`, "ran\n"},
		{"bash", "bash -c 'diff <(echo a) <(echo a) && echo same; sleep 0.01 & wait; echo waited'", "same\nwaited\n"},
	} {
		t.Run(c.program, func(t *testing.T) {
			needPrograms(t, c.program)
			if c.program == "npm" && !full() {
				t.Skip("it takes some seconds")
			}
			out, err := sh(s, c.script).CombinedOutput()
			assert.NoError(t, err)
			assert.Equal(t, c.want, string(out))
		})
	}

	c := sh(s, "read x </dev/tty && stty size && echo got $x")
	p, err := c.StartPty(WindowSize{Rows: 7, Cols: 70})
	require.NoError(t, err)
	defer p.Close()
	_, err = p.Write([]byte("key\n"))
	require.NoError(t, err)
	out, _ := io.ReadAll(p)
	assert.Contains(t, string(out), "7 70\r\ngot key\r\n")
	assert.NoError(t, c.Wait())
}
