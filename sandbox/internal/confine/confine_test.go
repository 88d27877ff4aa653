//go:build linux && (amd64 || arm64)

package confine

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// roles are what this binary does when it is run inside a room, by name.
var roles = map[string]func(){}

// race tells this binary not to sleep at its end when it has the race detector.
var race = "GORACE=" + os.Getenv("GORACE")

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && roles[os.Args[1]] != nil {
		roles[os.Args[1]]()
		os.Exit(0)
	}
	if len(os.Args) > 1 && os.Args[1] == "normal" {
		fmt.Println("a normal program")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// run starts this binary with what a forger controls and returns what it said.
func run(t *testing.T, argv0 string, files []*os.File, env ...string) string {
	cmd := exec.Command("/proc/self/exe", "normal")
	cmd.Args[0] = argv0
	cmd.Env, cmd.ExtraFiles = append(env, race), files
	out, err := cmd.Output()
	require.NoError(t, err)
	return string(out)
}

// TestHookSleeps starts the program in every way that looks like a launch and
// is not one: main must run each time.
func TestHookSleeps(t *testing.T) {
	nonce := strings.Repeat("n", nonceSize)
	body, err := (&order{}).encode()
	require.NoError(t, err)
	content := []byte(magic + nonce + string(body))
	memory := func(seals int, content []byte) *os.File {
		fd, err := unix.MemfdCreate("order", unix.MFD_ALLOW_SEALING)
		require.NoError(t, err)
		_, err = unix.Write(fd, content)
		require.NoError(t, err)
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
		require.NoError(t, err)
		f := os.NewFile(uintptr(fd), "order")
		t.Cleanup(func() { f.Close() })
		return f
	}
	socket := func(kind int, first string) *os.File {
		p, err := unix.Socketpair(unix.AF_UNIX, kind, 0)
		require.NoError(t, err)
		if first != "" {
			_, err = unix.Write(p[0], []byte(first))
			require.NoError(t, err)
		}
		f := os.NewFile(uintptr(p[1]), "socket")
		t.Cleanup(func() { f.Close(); unix.Close(p[0]) })
		return f
	}
	plain, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer plain.Close()
	for name, files := range map[string][]*os.File{
		"nothing inherited":        nil,
		"an ordinary file":         {plain, plain},
		"not sealed":               {memory(0, content), socket(unix.SOCK_SEQPACKET, nonce)},
		"a seal is missing":        {memory(allSeals&^unix.F_SEAL_WRITE, content), socket(unix.SOCK_SEQPACKET, nonce)},
		"other magic":              {memory(allSeals, []byte("something else"+string(content))), socket(unix.SOCK_SEQPACKET, nonce)},
		"too short":                {memory(allSeals, []byte(magic)), socket(unix.SOCK_SEQPACKET, nonce)},
		"no socket":                {memory(allSeals, content), plain},
		"a stream":                 {memory(allSeals, content), socket(unix.SOCK_STREAM, nonce)},
		"the nonce has not come":   {memory(allSeals, content), socket(unix.SOCK_SEQPACKET, "")},
		"another nonce":            {memory(allSeals, content), socket(unix.SOCK_SEQPACKET, strings.Repeat("x", nonceSize))},
		"the nonce and more":       {memory(allSeals, content), socket(unix.SOCK_SEQPACKET, nonce+"n")},
		"an order that is no JSON": {memory(allSeals, []byte(magic+nonce+"\x01\x00\x00\x00{")), socket(unix.SOCK_SEQPACKET, nonce)},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, "a normal program\n", run(t, "twinward-init", files, "TWINWARD_INIT=1", "twinward-init=1"))
		})
	}
}

// TestHookWakesOnlyAsPID1 gives the real thing to a process that is not pid 1
// of anything: it must refuse, and run nothing. (Were it not to, the check that
// its namespaces differ from the host's would still stop it: see the next test.)
func TestHookWakesOnlyAsPID1(t *testing.T) {
	host, files := genuine(t)
	assert.Empty(t, run(t, "anything", files))
	for _, f := range files {
		f.Close()
	}
	m, _, err := new(mailbox).recv(host)
	require.NoError(t, err)
	assert.Equal(t, msgFailed, m.Kind)
	assert.Equal(t, LayerPID, m.Fail.Layer)
}

// genuine returns what wakes the hook, and the host's end of its socket.
func genuine(t *testing.T) (host int, files []*os.File) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(p[0]) })
	nonce := []byte(strings.Repeat("n", nonceSize))
	_, err = unix.Write(p[0], nonce)
	require.NoError(t, err)
	body, err := (&order{}).encode()
	require.NoError(t, err)
	fd, err := sealed("order", append(append([]byte(magic), nonce...), body...))
	require.NoError(t, err)
	files = []*os.File{os.NewFile(uintptr(fd), "order"), os.NewFile(uintptr(p[1]), "socket")}
	t.Cleanup(func() { files[0].Close(); files[1].Close() })
	return p[0], files
}

// TestPrivilegedProgramsTakeNoOrders gives the real thing to a set-user-id copy
// of this program, which has rights that whoever starts it has not.
func TestPrivilegedProgramsTakeNoOrders(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make a program that runs as somebody else")
	}
	dir, err := os.MkdirTemp("/var/tmp", "")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	require.NoError(t, os.Chmod(dir, 0o755))
	self, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	copied := dir + "/program"
	require.NoError(t, os.WriteFile(copied, self, 0o755))
	require.NoError(t, os.Chown(copied, 54321, 54321))
	require.NoError(t, os.Chmod(copied, 0o755|os.ModeSetuid))
	host, files := genuine(t)
	cmd := exec.Command(copied, "normal")
	cmd.Dir, cmd.Env, cmd.ExtraFiles = "/", []string{}, files
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 54322, Gid: 54322}}
	out, err := cmd.Output()
	require.NoError(t, err)
	assert.Empty(t, out)
	m, _, err := new(mailbox).recv(host)
	require.NoError(t, err)
	assert.Equal(t, msgFailed, m.Kind)
	assert.Equal(t, LayerUser, m.Fail.Layer)
}

func TestInitRefusesTheHostsNamespaces(t *testing.T) {
	for _, host := range []map[string]string{nil, readNamespaces("self")} {
		s := &initState{ord: &order{HostNS: host, Spec: Spec{
			Optional: Layers(), Without: Layers(), // not even then
		}}}
		_, err := s.checkNamespaces(readNamespaces("self"))
		var le *LayerError
		require.ErrorAs(t, err, &le)
		assert.Equal(t, LayerUser, le.Layer)
	}
}

func TestResolve(t *testing.T) {
	dir, err := os.MkdirTemp("/var/tmp", "")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	require.NoError(t, os.Mkdir(dir+"/real", 0o755))
	require.NoError(t, os.Symlink("real", dir+"/a"))
	require.NoError(t, os.Symlink(dir+"/a", dir+"/b"))
	require.NoError(t, os.Symlink("loop", dir+"/loop"))
	real, links, err := resolve(dir + "/b")
	require.NoError(t, err)
	assert.Equal(t, dir+"/real", real)
	assert.Equal(t, [][2]string{{dir + "/b", dir + "/a"}, {dir + "/a", "real"}}, links)
	_, _, err = resolve(dir + "/loop")
	assert.ErrorIs(t, err, unix.ELOOP)
	_, _, err = resolve("relative")
	assert.Error(t, err)
	_, _, err = resolve(dir + "/none")
	assert.ErrorIs(t, err, os.ErrNotExist)
	// A link that appears after the path was resolved is not followed.
	_, err = detach(dir + "/a")
	assert.ErrorIs(t, err, unix.ELOOP)
}

func TestMergeEnv(t *testing.T) {
	assert.Equal(t, []string{"A=3", "B=2", "C="}, mergeEnv([]string{"A=1", "B=2", "bad", "=x"}, []string{"A=3", "C="}))
}

// TestLaunchRefuses sees a typed error that names the layer, and nothing left
// behind, for what cannot be built.
func TestLaunchRefuses(t *testing.T) {
	for name, spec := range map[string]*Spec{
		"no such bind":    {Binds: []Bind{{Source: "/no/such/path"}}},
		"a device":        {Binds: []Bind{{Source: "/dev/null"}}},
		"relative":        {Binds: []Bind{{Source: "usr"}}},
		"no workspace":    {Workspace: "/no/such/workspace"},
		"file workspace":  {Workspace: "/etc/passwd"},
		"file over a dir": {Files: []File{{Path: "/etc", Data: nil}}},
	} {
		t.Run(name, func(t *testing.T) {
			if spec.Workspace == "" {
				spec.Workspace, spec.OwnWorkspace = t.TempDir(), true
			}
			spec.Hostname = "sandbox"
			b, err := Launch(context.Background(), spec)
			var le *LayerError
			require.ErrorAs(t, err, &le)
			assert.Nil(t, b)
			assert.Equal(t, LayerMount, le.Layer, le)
		})
	}
	_, err := Launch(context.Background(), &Spec{Ports: make([]uint16, MaxPorts+1)})
	assert.Error(t, err)
}

func TestMessageLimits(t *testing.T) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0)
	require.NoError(t, err)
	require.Error(t, send(p[0], &message{Text: strings.Repeat("x", maxPacket)}))
	require.Error(t, send(p[0], &message{}, make([]int, maxFDs+1)...))
	require.NoError(t, send(p[0], &message{Kind: "a", ID: 7}, p[0]))
	m, fds, err := new(mailbox).recv(p[1])
	require.NoError(t, err)
	assert.Equal(t, &message{Kind: "a", ID: 7}, m)
	assert.Len(t, fds, 1)
	flags, err := unix.FcntlInt(uintptr(fds[0]), unix.F_GETFD, 0)
	require.NoError(t, err)
	assert.Equal(t, unix.FD_CLOEXEC, flags)
	closeAll(fds)
	unix.Close(p[0])
	_, _, err = new(mailbox).recv(p[1])
	assert.ErrorIs(t, err, io.EOF)
	unix.Close(p[1])
}

func TestOrderRoundTrip(t *testing.T) {
	in := &order{Spec: Spec{Workspace: "/w", Files: []File{{Path: "/a", Data: []byte("one")}, {Path: "/b"}, {Path: "/c", Data: []byte("three")}}}, Origins: make([]original, 3), KUID: 7}
	b, err := in.encode()
	require.NoError(t, err)
	out, err := decode(b)
	require.NoError(t, err)
	assert.Equal(t, "/w", out.Workspace)
	assert.Equal(t, "one", string(out.Files[0].Data))
	assert.Equal(t, "three", string(out.Files[2].Data))
	for n := range b {
		_, err := decode(b[:n])
		assert.Error(t, err, "cut at %d", n)
	}
	_, err = decode(append(b, 0))
	assert.Error(t, err, "trailing data")
}

func FuzzOrder(f *testing.F) {
	b, _ := (&order{Spec: Spec{Files: []File{{Path: "/a", Data: []byte("one")}}}, Origins: make([]original, 1)}).encode()
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if ord, err := decode(b); err == nil {
			_, err := ord.encode()
			assert.NoError(t, err)
		}
	})
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"Kind":"exited","ID":1,"Exit":{"Code":0}}`))
	f.Add([]byte(`{"Fail":{"Errno":1}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0)
		require.NoError(t, err)
		defer unix.Close(p[0])
		defer unix.Close(p[1])
		if unix.Send(p[0], b, 0) != nil || len(b) == 0 {
			return
		}
		m, fds, err := new(mailbox).recv(p[1])
		assert.Empty(t, fds)
		if err == nil && m.Fail != nil {
			assert.Error(t, m.Fail.err())
		}
	})
}
