//go:build linux && (amd64 || arm64)

package sandbox

import (
	"context"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

func TestStrictSession(t *testing.T) {
	const script = "cp /bin/true . && cp true /tmp && ./true; echo $?; /tmp/true; echo $?"
	for mode, want := range map[ExecMode]string{"": "0\n0\n", ExecStrict: "126\n126\n"} {
		s := box(t, audittest.NewLog(t), &Policy{Process: Process{Exec: mode}}, nil)
		out, err := sh(s, script).Output()
		require.NoError(t, err)
		assert.Equal(t, want, string(out), "%q", mode)
	}
}

func TestListedPrograms(t *testing.T) {
	s := box(t, audittest.NewLog(t), &Policy{Process: Process{Programs: []Program{{Path: "/usr/bin/true"}}}}, nil)
	require.NoError(t, s.Command(context.Background(), "true").Run())
	assert.ErrorIs(t, s.Command(context.Background(), "sh", "-c", "true").Run(), syscall.EACCES)

	_, err := Start(context.Background(), &Policy{Process: Process{Programs: []Program{{Path: "/usr/bin/true", SHA256: strings.Repeat("0", 64)}}}},
		agent, audittest.NewLog(t), nil)
	var pe *ProgramError
	require.ErrorAs(t, err, &pe)
	assert.Equal(t, "/usr/bin/true", pe.Path)
	assert.Len(t, pe.Got, 64)
}

func TestWhatTheKernelStoppedIsOnRecord(t *testing.T) {
	log := audittest.NewLog(t)
	s := box(t, log, nil, nil)
	require.NoError(t, sh(s, "for i in 1 2 3 4 5 6 7; do unshare -U true 2>/dev/null; done; true").Run())
	require.NoError(t, s.Close())
	var seen []map[string]string
	for _, r := range log.Records() {
		if e := r.Event; e != nil && e.Kind == audit.KindProbe {
			assert.Equal(t, "unshare", e.Action)
			assert.Equal(t, "seccomp", e.Source)
			assert.Equal(t, agent.Agent, e.Actor.Agent)
			seen = append(seen, e.Detail)
		}
	}
	once := map[string]string{"program": "unshare"}
	assert.Equal(t, []map[string]string{once, once, once, once, {"program": "unshare", "repeated": "3"}}, seen)
}
