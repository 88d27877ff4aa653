//go:build linux && (amd64 || arm64)

package confine

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func init() {
	roles["attack"] = func() {
		n, _ := strconv.Atoi(os.Args[2])
		for range n {
			_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_TRACEME, 0, 0, 0, 0, 0)
			if errno != unix.EPERM {
				fmt.Println(errno)
				os.Exit(1)
			}
		}
		_, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		say("packet socket", err)
		say("new namespace", unix.Unshare(unix.CLONE_NEWUSER))
		say("mount", unix.Mount("none", "/tmp", "tmpfs", 0, ""))
		_, _, errno := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0)
		say("clone3", errno)
		_, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 262)
		say("MPTCP", err)
		say("set-id", unix.Fchmod(0, 0o4755))
	}
}

// A tally counts denials.
type tally struct {
	mu   sync.Mutex
	seen map[Denial]int
}

func (c *tally) tell(d Denial) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen == nil {
		c.seen = map[Denial]int{}
	}
	c.seen[d]++
}

func TestAttacksAreReported(t *testing.T) {
	under(t, func(t *testing.T, launch func(func(*Spec)) *Box) {
		var c tally
		b := launch(func(s *Spec) { s.OnDenial = c.tell })
		require.Empty(t, b.Report().Unseen[LayerSeccomp])
		require.Equal(t, "1", b.Report().Status["Seccomp_filters"])
		out, exit, err := inside(t, b, SelfPath, "attack", "300")
		require.NoError(t, err)
		require.Zero(t, exit.Code, out)
		assert.Equal(t, "packet socket: EPERM\nnew namespace: EPERM\nmount: EPERM\nclone3: ENOSYS\nMPTCP: EPERM\nset-id: EPERM\n", out)
		b.Close()
		want := map[Denial]int{}
		for what, n := range map[string]int{"ptrace": 300, "socket": 1, "unshare": 1, "mount": 1} {
			want[Denial{Layer: LayerSeccomp, What: what, Program: "self"}] = n
		}
		assert.Equal(t, want, c.seen, "attacks, and nothing that honest programs do")
	})
}

// TestWaitingForAnAnswerEndsWithTheRoom has a host that does not answer.
func TestWaitingForAnAnswerEndsWithTheRoom(t *testing.T) {
	under(t, func(t *testing.T, launch func(func(*Spec)) *Box) {
		asked, release := make(chan bool, 1), make(chan bool)
		b := launch(func(s *Spec) {
			s.OnDenial = func(Denial) {
				select {
				case asked <- true:
				default:
				}
				<-release
			}
		})
		p, err := b.Exec(Exec{Path: SelfPath, Args: []string{SelfPath, "attack", "2"}}, []*os.File{nil, nil, nil})
		require.NoError(t, err)
		<-asked // the second attack waits
		_, err = b.Exec(Exec{Path: "/bin/true", Args: []string{"true"}}, []*os.File{nil, nil, nil})
		require.NoError(t, err, "everybody else goes on")
		require.NoError(t, p.Signal(unix.SIGKILL, false))
		killed := make(chan Exit)
		go func() { killed <- p.Wait() }()
		select {
		case e := <-killed:
			assert.Equal(t, int(unix.SIGKILL), e.Signal)
		case <-time.After(time.Minute):
			t.Error("a process that waits for the host cannot be killed")
		}
		close(release)
		b.Close()
	})
}

func TestEveryAttackHasAName(t *testing.T) {
	for _, nr := range attacks {
		assert.NotEmpty(t, attackNames[nr], nr)
	}
	for _, r := range commonRules {
		if r.attack {
			assert.NotEmpty(t, attackNames[r.number], r.number)
		}
	}
}
