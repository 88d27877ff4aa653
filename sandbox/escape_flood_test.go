//go:build linux && (amd64 || arm64)

package sandbox

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

func init() {
	// Programs that make calls which are refused by the host, from many threads,
	// and are killed while they wait for its answer.
	roles["flood"] = func() {
		if len(os.Args) > 1 {
			_, _, _ = unix.Syscall6(unix.SYS_KEYCTL, unix.KEYCTL_SESSION_TO_PARENT, 0, 0, 0, 0, 0)
			fmt.Println("refused")
			for range 16 {
				go func() {
					runtime.LockOSThread()
					for {
						_, _, _ = unix.Syscall6(unix.SYS_KEYCTL, unix.KEYCTL_SESSION_TO_PARENT, 0, 0, 0, 0, 0)
						_, _, _ = unix.Syscall6(unix.SYS_MOUNT, 0, 0, 0, 0, 0, 0)
					}
				}()
			}
			time.Sleep(time.Hour)
		}
		for n := 0; ; n++ {
			cmd := exec.Command("/proc/self/exe", "child")
			cmd.Env = os.Environ()
			said, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				fmt.Println(err)
				return
			}
			if n%2 == 0 { // every other one is killed when it is at it for sure
				_, _ = said.Read(make([]byte, 1))
			}
			time.Sleep(time.Duration(n%7) * 3 * time.Millisecond)
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			if n == 3 {
				fmt.Println("up")
			}
		}
	}
}

// TestFloodOfAttacks has programs that do nothing but what the host is told of.
// The session stays usable, other sessions do not notice, the log does not fill,
// and the end comes.
func TestFloodOfAttacks(t *testing.T) {
	needSandbox(t)
	for _, launcher := range launchers {
		log := audittest.NewLog(t)
		opts := launchedBy(launcher)
		opts.Self = true
		s := box(t, log, nil, opts)
		other := box(t, audittest.NewLog(t), nil, launchedBy(launcher))
		flood := s.Command(context.Background(), Self)
		flood.Env = roleEnv("flood")
		pipe, err := flood.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, flood.Start())
		line, err := bufio.NewReader(pipe).ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "up\n", line)
		for range rounds(5, 20, 200) {
			require.NoError(t, sh(s, "true & wait").Run())
			require.NoError(t, sh(other, "true & wait").Run())
		}
		require.NoError(t, s.Close())
		assert.Error(t, flood.Wait())
		probes := 0
		for _, r := range log.Records() {
			if r.Event != nil && r.Event.Kind == audit.KindProbe {
				probes++
			}
		}
		assert.Positive(t, probes, "nothing of it is on record (%s)", launcher)
		assert.Less(t, probes, 100, "a flood is counted and not listed")
	}
}
