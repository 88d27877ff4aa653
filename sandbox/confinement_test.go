//go:build linux && (amd64 || arm64)

package sandbox

import (
	"context"
	"os"
	"path/filepath"
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

// A rule that takes a program for what lies at its path needs a room in which
// nobody inside can put another one there.
func TestProgramsByPathCannotBeReplaced(t *testing.T) {
	dir := t.TempDir()
	work := filepath.Join(dir, "work")
	require.NoError(t, os.Mkdir(work, 0o755))
	tool := []Program{{Path: work + "/tool"}}
	p := &Policy{Filesystem: Filesystem{ReadOnly: append(SystemPaths(), dir)}, Network: Network{Allow: []Rule{{Host: "a.example.com", Programs: tool}}}}
	_, err := Start(t.Context(), p, agent, audittest.NewLog(t), &Options{Workspace: work})
	var le *LayerError
	require.ErrorAs(t, err, &le)
	assert.Contains(t, le.Hint, "sha256")

	p.Network.Allow[0].Programs = []Program{{Path: work + "/tool", SHA256: strings.Repeat("0", 64)}}
	s := box(t, audittest.NewLog(t), p, &Options{Workspace: work})
	var fixed *NewSessionError
	assert.ErrorAs(t, s.SetNetwork(t.Context(), Network{Allow: []Rule{{Host: "a.example.com", Programs: tool}}}, byAlice), &fixed)
}
