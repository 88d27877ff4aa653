//go:build linux && (amd64 || arm64)

package sandbox

import (
	"context"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

var agent = audit.Actor{Agent: "tester"}

// box starts a session, or skips the test where the system cannot have one.
func box(t testing.TB, log audit.Recorder, p *Policy, opts *Options) *Session {
	t.Helper()
	needSandbox(t)
	s, err := Start(context.Background(), p, agent, log, opts)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// needSandbox skips where user namespaces and so on are not to be had, unless
// TWINWARD_FULL=1 says that they must be.
func needSandbox(t testing.TB) {
	t.Helper()
	if missing := probeOnce().Missing; len(missing) > 0 {
		if os.Getenv("TWINWARD_FULL") == "1" {
			t.Fatalf("TWINWARD_FULL=1, but this system lacks %v: %v", missing, probeOnce().Reasons)
		}
		t.Skipf("this system lacks %v: %v", missing, probeOnce().Reasons)
	}
}

func TestCommandRunsConfined(t *testing.T) {
	log := audittest.NewLog(t)
	s := box(t, log, nil, nil)
	out, err := s.Command(context.Background(), "sh", "-c", "id -u; pwd; cat /etc/hostname; cat /proc/self/status; echo hi > file").CombinedOutput()
	require.NoError(t, err, string(out))
	assert.Contains(t, string(out), "1000\n/sandbox\nsandbox\n")
	t.Log(s.Report())
	b, err := os.ReadFile(s.Workspace() + "/file")
	require.NoError(t, err)
	assert.Equal(t, "hi\n", string(b))
	require.NoError(t, s.Close())
	assert.NoDirExists(t, s.Workspace())
}
