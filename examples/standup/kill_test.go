package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// hostUntilKilled is a host that tells the story again and again.
func hostUntilKilled(dir string) int {
	for i := 0; ; i++ {
		opts := options{json: true, dir: filepath.Join(dir, strconv.Itoa(i))}
		if err := os.Mkdir(opts.dir, 0o755); err != nil {
			return 1
		}
		if err := run(context.Background(), opts, io.Discard); err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			return 1
		}
	}
}

// kills is how often the host is killed: few times for a newcomer.
func kills() int {
	switch {
	case os.Getenv("TWINWARD_SOAK") != "":
		return 500
	case os.Getenv("TWINWARD_FULL") != "":
		return 50
	}
	return 3
}

// Whenever the host is killed, nothing of the sandbox lives on, and the log that
// it leaves verifies.
func TestKillingTheHostLeavesNoProcessAndALogThatVerifies(t *testing.T) {
	needsSandbox(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	// A copy of this binary, so that its processes can be told from all others.
	host := filepath.Join(t.TempDir(), "standup-host")
	self, err := os.Executable()
	require.NoError(t, err)
	binary, err := os.ReadFile(self)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(host, binary, 0o755))

	records := 0
	for range kills() {
		dir := t.TempDir()
		cmd := exec.Command(host)
		cmd.Env = append(os.Environ(), "TWINWARD_STANDUP_HOST="+dir)
		var stderr lockedBuffer
		cmd.Stderr = &stderr
		require.NoError(t, cmd.Start())
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case <-time.After(time.Duration(random.IntN(1500)) * time.Millisecond):
		case err := <-ended:
			t.Fatalf("the host ended by itself: %v\n%s", err, stderr.Bytes())
		}
		require.NoError(t, cmd.Process.Kill())
		<-ended
		require.Eventually(t, func() bool { return processesOf(host) == 0 }, time.Minute, 5*time.Millisecond,
			"processes of the sandbox outlived their host")
		records += verifyAll(t, dir)
	}
	t.Logf("%d kills, %d records in what they left", kills(), records)
}

// processesOf counts the processes that run a program.
func processesOf(program string) int {
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	n := 0
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && target == program {
			n++
		}
	}
	return n
}

// verifyAll verifies every log below dir and returns how many records it saw.
func verifyAll(t *testing.T, dir string) int {
	t.Helper()
	records := 0
	logs, err := fs.Glob(os.DirFS(dir), "*/log")
	require.NoError(t, err)
	for _, name := range logs {
		folder := filepath.Join(dir, name)
		key, err := audit.LoadKey(folder + ".key")
		if err != nil {
			continue // killed before the log had a key, and so a first record
		}
		report, err := audit.Verify(t.Context(), os.DirFS(folder), &audit.VerifyOptions{Key: key.VerifierKey()})
		if !errors.Is(err, audit.ErrEmpty) { // killed before the first checkpoint
			assert.NoError(t, err, folder)
		}
		records += int(report.Records)

		reopened, err := audit.Open(folder, nil)
		require.NoError(t, err, "what a killed host left must open again")
		require.NoError(t, reopened.Close())
	}
	return records
}
