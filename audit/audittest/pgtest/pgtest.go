//go:build unix

// Package pgtest runs a PostgreSQL of its own for a test: an ordinary child
// process that listens on a Unix socket in a temporary folder, and on no port.
// It is for the tests of every package that keeps something in PostgreSQL.
package pgtest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A Server is a running PostgreSQL. Its methods are for the goroutine of the
// test.
type Server struct {
	t    testing.TB
	bin  string
	dir  string
	user *syscall.Credential // who runs it: PostgreSQL refuses to be root
	set  []string            // settings

	cmd    *exec.Cmd
	out    *output
	exited chan struct{} // closed when cmd has
}

// Durable is the setting for a server that syncs what it commits: for figures. A
// test's server need not survive the machine.
const Durable = "fsync=on"

// Start runs an empty server until the test ends, with settings such as
// "max_connections=10". It skips the test unless TWINWARD_FULL is set; then a
// machine without PostgreSQL fails it.
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	if os.Getenv("TWINWARD_FULL") == "" && os.Getenv("TWINWARD_SOAK") == "" {
		t.Skip("this test runs a PostgreSQL: set TWINWARD_FULL=1")
	}
	s := &Server{t: t, bin: find(t), set: settings}
	dir, err := os.MkdirTemp("", "pg") // short: a socket's path has about 100 bytes
	if err != nil {
		t.Fatal(err)
	}
	s.dir = dir
	t.Cleanup(func() {
		s.Stop()
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("pgtest: %v", err)
		}
	})
	if os.Getuid() == 0 {
		const nobody = 65534
		s.user = &syscall.Credential{Uid: nobody, Gid: nobody, NoSetGroups: true}
		if err := os.Chown(dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := s.command("initdb", "-D", s.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("pgtest: initdb: %v\n%s", err, out)
	}
	s.Run()
	return s
}

// DSN is how to connect, for PostgreSQL clients.
func (s *Server) DSN() string {
	return fmt.Sprintf("host=%s user=postgres dbname=postgres", s.dir)
}

// Run starts the server again after Stop or Kill, with what it holds.
func (s *Server) Run() {
	s.t.Helper()
	s.out = &output{}
	s.start()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if s.command("pg_isready", "-q", "-h", s.dir).Run() == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("pgtest: the server does not come up:\n%s", s.out)
		}
		select {
		case <-s.exited: // processes of the one that was killed are still at work
			s.start()
		default:
		}
	}
}

func (s *Server) start() {
	s.t.Helper()
	args := []string{"-D", s.data(), "-k", s.dir, "-c", "listen_addresses=", "-c", "fsync=off"}
	for _, set := range s.set {
		args = append(args, "-c", set) // the last one counts
	}
	s.cmd = s.command("postgres", args...)
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("pgtest: %v", err)
	}
	cmd, exited := s.cmd, make(chan struct{})
	s.exited = exited
	go func() {
		_ = cmd.Wait() // its status is that of the signal
		close(exited)
	}()
}

// Stop ends the server at once, with all connections.
func (s *Server) Stop() { s.end(syscall.SIGQUIT) } // immediate shutdown

// Kill ends the server as a crash does: it cannot tell anybody, its own processes
// included.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

func (s *Server) end(how syscall.Signal) {
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	_ = s.cmd.Process.Signal(how)
	<-s.exited
	s.cmd = nil
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.user}
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PGDATABASE=postgres")
	return cmd
}

// find returns the folder of the newest PostgreSQL.
func find(t testing.TB) string {
	t.Helper()
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path)
		}
	}
	var all []string
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin"} {
		found, _ := filepath.Glob(pattern) // the patterns are right
		all = append(all, found...)
	}
	if len(all) == 0 {
		t.Fatal("pgtest: there is no initdb in PATH or below /usr/lib/postgresql: install PostgreSQL 15 or later")
	}
	slices.SortFunc(all, func(a, b string) int {
		if c := len(a) - len(b); c != 0 { // 9 before 15
			return c
		}
		return strings.Compare(a, b)
	})
	return all[len(all)-1]
}

// output keeps what the server says, for a test that fails.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
