//go:build linux && (amd64 || arm64)

package sandbox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/sandbox/internal/confine"
)

func TestReportIsCurrent(t *testing.T) { eachLauncher(t, testReport) }

func testReport(t *testing.T, opts *Options) {
	log := audittest.NewLog(t)
	s := box(t, log, &Policy{Process: Process{MaxFileSize: 1 << 20}, Network: Network{Allow: []Rule{{Host: "a.example.com"}}}}, opts)
	r := s.Report()
	assert.Equal(t, string(cmp.Or(opts.Launcher, LauncherReexec)), r.Launcher)
	assert.Equal(t, s.Actor().Session, r.Session)
	assert.Zero(t, r.Commands)
	assert.Empty(t, r.Denials)
	var steps []string
	for _, step := range r.Steps {
		steps = append(steps, step.Name)
	}
	assert.Equal(t, []string{"workspace", "room", "network door", "record"}, steps)

	in, c := waiting(t, s)
	assert.Equal(t, 1, s.Report().Running)
	in.Close()
	require.NoError(t, c.Wait())
	// A program that works a little, and one that writes too much.
	require.NoError(t, sh(s, "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done").Run())
	var exit *ExitError
	require.ErrorAs(t, s.Command(context.Background(), "dd", "if=/dev/zero", "of=big", "bs=64k", "count=100").Run(), &exit)
	assert.Equal(t, syscall.SIGXFSZ, exit.Signal())
	_ = s.Command(context.Background(), "bash", "-c", "exec 3<>/dev/tcp/192.0.2.1/443; cat <&3").Run()
	r = s.Report()
	assert.Zero(t, r.Running)
	assert.Equal(t, 4, r.Commands)
	assert.Contains(t, r.Denials, Denial{"connect", audit.GuardRawAddress, 1})
	assert.Positive(t, r.UserTime+r.SystemTime)
	assert.Greater(t, r.MaxRSS, int64(100<<10))
	assert.Equal(t, []LimitHit{{"max_file_size", 1}}, r.Limits)
	for _, want := range []string{"session   " + r.Session, "layers    user-namespace,mount-namespace", "start     ", "4 commands", "1 × max_file_size"} {
		assert.Contains(t, r.String(), want)
	}
	require.NoError(t, s.Close())
	r = s.Report()
	assert.True(t, r.Ended)

	text, err := json.Marshal(r)
	require.NoError(t, err)
	var back Report
	require.NoError(t, json.Unmarshal(text, &back))
	assert.Equal(t, r, back)

	records := log.Records()
	launch, last := records[0].Event.Detail, records[len(records)-1].Event.Detail
	assert.Equal(t, s.policyHash(), launch["policy_hash"])
	assert.Contains(t, launch["limits"], "file_size=1048576")
	assert.NotEmpty(t, launch["launcher"])
	assert.Equal(t, "closed", last["why"])
	assert.Equal(t, "4", last["commands"])
	assert.Equal(t, "1", last["limit:max_file_size"])
	assert.Equal(t, strconv.FormatInt(r.MaxRSS, 10), last["max_rss"])
	for _, rec := range records {
		if rec.Outcome != nil && rec.Outcome.ErrorCode == "signal-25" {
			assert.Equal(t, []string{"limit:max_file_size"}, rec.Outcome.Checks)
			assert.Equal(t, -1, rec.Outcome.Process.ExitCode)
			assert.Equal(t, 25, rec.Outcome.Process.Signal)
			assert.Positive(t, rec.Outcome.Process.MaxRSS)
			return
		}
	}
	t.Error("the program that wrote too much is not on record")
}

// waiting starts a program that runs until its input is closed.
func waiting(t *testing.T, s *Session) (in interface{ Close() error }, c *Cmd) {
	c = s.Command(context.Background(), "cat")
	in, err := c.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	return in, c
}

func TestDenialsAreCounted(t *testing.T) {
	var counts tally
	deny := audit.Event{Kind: audit.KindDenial, Action: "connect", Decision: &audit.Decision{Reason: audit.GuardRawAddress}}
	counts.event(deny)
	deny.Detail = map[string]string{"repeated": "40"}
	counts.event(deny)
	counts.event(audit.Event{Kind: audit.KindProbe, Action: "mount", Source: "seccomp", Detail: map[string]string{"repeated": "3"}})
	counts.event(audit.Event{Kind: audit.KindLaunch, Action: "launch"})
	for i := range 2 * maxDenialKinds {
		deny.Action, deny.Detail = strconv.Itoa(i), nil
		counts.event(deny)
	}
	var r Report
	counts.report(&r)
	assert.LessOrEqual(t, len(r.Denials), maxDenialKinds+1, "a program can fill the host's memory")
	assert.Contains(t, r.Denials, Denial{"connect", audit.GuardRawAddress, 41})
	assert.Contains(t, r.Denials, Denial{"mount", "seccomp", 3})
}

func TestLimitsOfAProgram(t *testing.T) {
	var counts tally
	killed := confine.Exit{Code: -1, Signal: int(syscall.SIGKILL)}
	assert.Empty(t, counts.ended(killed, 0), "killed by somebody")
	assert.Equal(t, "max_total_memory", counts.ended(killed, 1))
	assert.Empty(t, counts.ended(killed, 1), "one death for want of memory was told as two")
	assert.Empty(t, counts.ended(confine.Exit{Code: 1}, 2))
	assert.Equal(t, "max_total_memory", counts.ended(killed, 2))
	assert.Equal(t, "max_file_size", counts.ended(confine.Exit{Code: -1, Signal: int(syscall.SIGXFSZ)}, 2))
	assert.Empty(t, counts.ended(confine.Exit{Code: -1, Signal: int(syscall.SIGXCPU)}, 2), "no policy bounds that")
	var r Report
	counts.report(&r)
	assert.Equal(t, []LimitHit{{"max_file_size", 1}}, r.Limits)
}

// TestKeepWorkspace ends sessions in different ways.
func TestKeepWorkspace(t *testing.T) {
	needSandbox(t)
	t.Setenv("TMPDIR", t.TempDir())
	mine := errors.New("mine")
	for _, c := range []struct {
		name  string
		cause error // nil: Close
		keep  func(*testing.T) func(error) bool
		kept  bool
		why   string
	}{
		{name: "closed", why: "closed"},
		{name: "cancelled", cause: mine, why: "cancelled"},
		{name: "revoked", cause: audit.ErrRevoked, why: "revoked"},
		{name: "frozen", cause: audit.ErrFrozen, kept: true, why: "frozen"},
		{name: "asked", cause: mine, kept: true, why: "cancelled", keep: func(t *testing.T) func(error) bool {
			return func(err error) bool { return assert.ErrorIs(t, err, mine) }
		}},
		{name: "asked, and no", cause: audit.ErrFrozen, why: "frozen", keep: func(t *testing.T) func(error) bool { return func(error) bool { return false } }},
		{name: "asked after Close", kept: true, why: "closed", keep: func(t *testing.T) func(error) bool {
			return func(err error) bool { return assert.ErrorIs(t, err, ErrEnded) }
		}},
		{name: "a function that fails", kept: true, why: "closed", keep: func(*testing.T) func(error) bool { return func(error) bool { panic("out of order") } }},
	} {
		t.Run(c.name, func(t *testing.T) {
			log := audittest.NewLog(t)
			ctx, cancel := context.WithCancelCause(context.Background())
			defer cancel(nil)
			opts := &Options{}
			if c.keep != nil {
				opts.KeepWorkspace = c.keep(t)
			}
			s, err := Start(ctx, nil, agent, log, opts)
			require.NoError(t, err)
			require.NoError(t, sh(s, "echo evidence > file").Run())
			if c.cause != nil {
				cancel(c.cause)
			} else {
				require.NoError(t, s.Close())
			}
			<-s.Done()
			last := log.Records()[len(log.Records())-1].Event
			assert.Equal(t, c.why, last.Detail["why"])
			_, err = s.Export(context.Background(), ".", t.TempDir()+"/out", nil)
			if !c.kept {
				assert.NoDirExists(t, s.Workspace())
				assert.ErrorIs(t, err, ErrEnded)
				return
			}
			assert.NoError(t, err)
			assert.Equal(t, s.Workspace(), last.Detail["workspace"])
			b, err := os.ReadFile(s.Workspace() + "/file")
			require.NoError(t, err)
			assert.Equal(t, "evidence", strings.TrimSpace(string(b)))
		})
	}
}
