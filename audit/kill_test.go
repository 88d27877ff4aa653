//go:build unix

package audit_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twinward-dev/twinward/audit"
)

const childEnv = "TWINWARD_AUDIT_TEST_CHILD"

// TestMain lets the test binary be the writer that is killed.
func TestMain(m *testing.M) {
	switch what, arg, _ := strings.Cut(os.Getenv(childEnv), ":"); what {
	case "load":
		writeUnderLoad(arg)
	case "rekey":
		rotateUnderLoad(arg)
	case "full":
		os.Exit(fillDisk(arg))
	case "limit", "readonly":
		os.Exit(breakDisk(what, arg))
	}
	os.Exit(m.Run())
}

// writeUnderLoad begins and ends calls for ever, and prints each one that was
// acknowledged.
func writeUnderLoad(dir string) {
	log, err := audit.Open(dir, nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf(format+"\n", args...) // one unbuffered write
	}
	for w := range 8 {
		go func() {
			for i := 0; ; i++ {
				c, err := log.Begin(ctx, intent("standup", fmt.Sprint(w, "-", i)))
				if err != nil {
					say("error %v", err)
					return
				}
				say("begun %d", c.Record())
				if err := c.End(ctx, audit.Outcome{Status: audit.StatusOK}); err != nil {
					say("error %v", err)
					return
				}
				say("ended %d", c.Record())
			}
		}()
	}
	select {}
}

// A writer is killed again and again. Whatever it acknowledged is there, the
// log verifies each time before and after it is opened, and calls that it had
// begun but not ended are open. A log lives for 50 kills: each of them reads it
// whole several times.
func TestKill(t *testing.T) {
	t.Parallel()
	each := soak(5, 10, 50) // of one log: all of it is verified after each kill
	for kills := soak(5, 100, 1000); kills > 0; kills -= each {
		killWriter(t, each)
	}
}

func killWriter(t *testing.T, kills int) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "log")
	log := openLog(t, dir, nil)
	key := log.VerifierKey()
	require.NoError(t, log.Close())
	begun, ended := map[uint64]bool{}, map[uint64]bool{}
	for kill := range kills {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"=load:"+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			word, rest, _ := strings.Cut(lines.Text(), " ")
			seq, err := strconv.ParseUint(rest, 10, 64)
			if err != nil {
				break // an error of the child, or a torn line
			}
			switch word {
			case "begun":
				begun[seq] = true
			case "ended":
				ended[seq] = true
			}
			if n == 20+kill*7%50 {
				require.NoError(t, cmd.Process.Kill())
			}
		}
		require.Error(t, cmd.Wait(), "the child was killed")

		rep, err := audit.Verify(ctx, os.DirFS(dir), &audit.VerifyOptions{Key: key})
		require.NoError(t, err, "after kill %d", kill)
		open := map[uint64]bool{}
		for _, seq := range rep.Open {
			open[seq] = true
		}
		for seq := range begun {
			require.LessOrEqual(t, seq, rep.Records)
			if !open[seq] {
				continue
			}
			require.False(t, ended[seq], "call %d was acknowledged as ended, and is open", seq)
		}
		log := openLog(t, dir, nil)
		require.NoError(t, log.Close())
		_, err = audit.Verify(ctx, os.DirFS(dir), &audit.VerifyOptions{Key: key})
		require.NoError(t, err)
	}
	intents, outcomes := map[uint64]bool{}, map[uint64]int{}
	for _, r := range collect(t, dir, audit.Filter{}) {
		if r.Intent != nil {
			intents[r.Seq] = true
		}
		if r.Outcome != nil {
			outcomes[r.Call]++
		}
	}
	for seq := range begun {
		assert.True(t, intents[seq], "acknowledged intent %d is gone", seq)
	}
	for seq := range ended {
		assert.Equal(t, 1, outcomes[seq], "call %d", seq)
	}
	require.NotEmpty(t, ended)
}

// A stopped writer still holds its log, and goes on when it is let.
func TestStoppedWriter(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	log := openLog(t, dir, nil)
	key := log.VerifierKey()
	require.NoError(t, log.Close())
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=load:"+dir)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	read := func(n int) {
		for range n {
			require.True(t, lines.Scan())
			require.NotContains(t, lines.Text(), "error")
		}
	}
	read(20)
	require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
	_, err = audit.Open(dir, nil)
	assert.ErrorIs(t, err, audit.ErrLocked)
	_, err = audit.Verify(ctx, os.DirFS(dir), &audit.VerifyOptions{Key: key})
	assert.NoError(t, err)
	require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
	read(50)
	require.NoError(t, cmd.Process.Kill())
	for lines.Scan() {
	}
	require.Error(t, cmd.Wait())
	log = openLog(t, dir, nil)
	require.NoError(t, log.Close())
	_, err = audit.Verify(ctx, os.DirFS(dir), &audit.VerifyOptions{Key: key})
	assert.NoError(t, err)
}
