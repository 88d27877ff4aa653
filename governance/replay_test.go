package governance_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

func tapeOf(rs ...governance.Recorded) iter.Seq2[governance.Recorded, error] {
	return func(yield func(governance.Recorded, error) bool) {
		for _, r := range rs {
			if !yield(r, nil) {
				return
			}
		}
	}
}

// record decides requests and returns the tape.
func record(t testing.TB, s *governance.Snapshot, rs ...governance.Request) []governance.Recorded {
	t.Helper()
	var out []governance.Recorded
	for _, r := range rs {
		if r.Time.IsZero() {
			r.Time = tapeTime
		}
		d, err := s.Decide(t.Context(), r)
		require.NoError(t, err)
		out = append(out, governance.Recorded{Request: r, Decision: d.Decision})
	}
	return out
}

func post(channel string) governance.Request {
	return governance.Request{Actor: bot, Action: "call_tool", Server: "slack", Name: "post_message",
		Args: fmt.Appendf(nil, `{"channel":%q,"text":"x"}`, channel)}
}

func TestReplay(t *testing.T) {
	s := standup(t)
	snowflake := governance.Request{Actor: bot, Action: "call_tool", Server: "snowflake", Name: "query", Args: []byte(`{"sql":"x"}`)}
	tape := record(t, s, post("#engineering"), post("#executive"), post("#random"), snowflake, post("#engineering"))

	rep, err := governance.Replay(t.Context(), s, tapeOf(tape...))
	require.NoError(t, err)
	assert.Equal(t, governance.ReplayReport{Hash: s.Hash(), Decided: 5, Allowed: 2, Changed: map[governance.Change]int{}}, rep)
	assert.False(t, rep.Flipped())

	b := loadStandup(t)
	text := b.Policies[0].Text
	text = strings.Replace(text, `context.args.channel == "#engineering"`, `context.args.channel == "#random"`, 1)
	text = strings.Replace(text, `"no-executive-channel"`, `"quiet-please"`, 1)
	b.Policies[0].Text = text
	other, _, err := governance.Compile(t.Context(), b, nil)
	require.NoError(t, err)
	rep, err = governance.Replay(t.Context(), other, tapeOf(tape...))
	require.NoError(t, err)
	assert.True(t, rep.Flipped())
	assert.Equal(t, map[governance.Change]int{governance.NowAllowed: 1, governance.NowDenied: 2, governance.OtherCause: 1}, rep.Changed)
	var out bytes.Buffer
	_, err = rep.WriteTo(&out)
	require.NoError(t, err)
	assert.Equal(t, `5 requests decided again: 1 allowed, 4 denied
1 now-allowed
2 now-denied
1 other-cause
#1 now-denied: standup-bot call_tool on Tool::"slack__post_message": allow (standup-in-engineering) -> deny (no-permit)
#2 other-cause: standup-bot call_tool on Tool::"slack__post_message": deny (no-executive-channel) -> deny (quiet-please)
#3 now-allowed: standup-bot call_tool on Tool::"slack__post_message": deny (no-permit) -> allow (standup-in-engineering)
#5 now-denied: standup-bot call_tool on Tool::"slack__post_message": allow (standup-in-engineering) -> deny (no-permit)
`, out.String())
}

// What a permit demands besides is a change too.
func TestReplaySeesObligations(t *testing.T) {
	plain := law(t, `@id("p") permit (principal, action == Action::"s__t", resource);`)
	strict := law(t, `@id("p") @max_bytes("10") permit (principal, action == Action::"s__t", resource);`)
	tape := record(t, strict, governance.Request{Actor: actor("a"), Action: "call_tool", Server: "s", Name: "t", Enforces: []string{"max_bytes"}})
	require.True(t, tape[0].Decision.Allowed())
	rep, err := governance.Replay(t.Context(), plain, tapeOf(tape...))
	require.NoError(t, err)
	assert.Equal(t, map[governance.Change]int{governance.OtherDuties: 1}, rep.Changed)
}

// A request is decided as of when it was made, not as of now.
func TestReplayKeepsTheTime(t *testing.T) {
	s := law(t, `@id("p") permit (principal, action == Action::"s__t", resource) when { context.now < datetime("2026-11-27T10:00:00Z") };`)
	tape := record(t, s, governance.Request{Actor: actor("a"), Action: "call_tool", Server: "s", Name: "t"})
	require.True(t, tape[0].Decision.Allowed())
	rep, err := governance.Replay(t.Context(), s, tapeOf(tape...))
	require.NoError(t, err)
	assert.Empty(t, rep.Changed)
}

func TestReplayStops(t *testing.T) {
	s := standup(t)
	tape := record(t, s, post("#engineering"))
	broken := func(yield func(governance.Recorded, error) bool) {
		_ = yield(tape[0], nil) && yield(governance.Recorded{}, fmt.Errorf("torn: %w", governance.ErrTape))
	}
	rep, err := governance.Replay(t.Context(), s, broken)
	require.ErrorIs(t, err, governance.ErrTape)
	assert.Equal(t, 1, rep.Decided)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = governance.Replay(ctx, s, tapeOf(tape...))
	require.ErrorIs(t, err, context.Canceled)
	_, err = governance.Replay(t.Context(), nil, tapeOf(tape...))
	require.ErrorIs(t, err, governance.ErrNoSnapshot)

	var none governance.ReplayReport
	_, err = none.WriteTo(&failing{})
	require.Error(t, err)
	require.False(t, errors.Is(err, governance.ErrTape))
}

func ExampleReplay() {
	ctx := context.Background()
	today, _, err := governance.Compile(ctx, exampleBundle(), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	// A tape is most often read from a file: governance.ReadTape(f). An engine
	// writes one with Options.Tape.
	var tape bytes.Buffer
	w := governance.NewTapeWriter(&tape)
	for _, channel := range []string{"#engineering", "#random"} {
		r := governance.Request{Actor: audit.Actor{Agent: "standup-bot"}, Action: "call_tool", Server: "slack", Name: "post_message",
			Args: fmt.Appendf(nil, `{"channel":%q,"text":"All done."}`, channel), Time: tapeTime}
		d, _ := today.Decide(ctx, r)
		w.Record(governance.Recorded{Request: r, Decision: d.Decision})
	}

	changed := exampleBundle()
	changed.Policies[0].Text = strings.Replace(changed.Policies[0].Text, "#engineering", "#random", 1)
	tomorrow, _, _ := governance.Compile(ctx, changed, nil)
	report, err := governance.Replay(ctx, tomorrow, governance.ReadTape(&tape))
	if err != nil {
		fmt.Println(err)
		return
	}
	report.WriteTo(os.Stdout)
	// Output:
	// 2 requests decided again: 1 allowed, 1 denied
	// 1 now-allowed
	// 1 now-denied
	// #1 now-denied: standup-bot call_tool on Tool::"slack__post_message": allow (standup-in-engineering) -> deny (no-permit)
	// #2 now-allowed: standup-bot call_tool on Tool::"slack__post_message": deny (no-permit) -> allow (standup-in-engineering)
}
