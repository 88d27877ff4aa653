package governance_test

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/governance"
)

func readTape(t testing.TB, text string) ([]governance.Recorded, error) {
	t.Helper()
	var out []governance.Recorded
	for r, err := range governance.ReadTape(strings.NewReader(text)) {
		if err != nil {
			return out, err
		}
		out = append(out, r)
	}
	return out, nil
}

var tapeTime = time.Date(2026, 11, 27, 9, 30, 0, 123456789, time.UTC)

// What is read back is what was decided on, byte for byte, however odd it was.
func TestTapeKeepsRequests(t *testing.T) {
	var want []governance.Recorded
	for i, args := range []string{
		"", `{}`, `{"channel": "#engineering",  "text":"<a>&é\u2028"}`, " {}", "{}\n", "{\n}", `{"a":1,"a":2}`, `{"a":1} x`, "\xff\xfe", `{"n":1e400,"m":-0}`,
	} {
		r := governance.Request{
			Actor:  audit.Actor{Agent: "a", User: "u", Session: "s"},
			Action: "call_tool", Server: "slack", Name: "post_message", Time: tapeTime,
			Claims: map[string]string{"scope": "x"}, Enforces: []string{"redact"},
			Attrs: map[string]any{"s": "x", "b": true, "n": int64(443), "l": []string{"a", "b"}, "e": []string{}},
		}
		if i == 1 {
			r.Approval = &governance.Approval{ID: "1", By: "ann", Reason: "fine", Groups: []string{"lead"}, At: tapeTime, Expires: tapeTime.Add(time.Hour), Call: "c", Policy: "p"}
		}
		if args != "" {
			r.Args = []byte(args)
		}
		want = append(want, governance.Recorded{Request: r, Decision: audit.Decision{ID: fmt.Sprint(i), Effect: audit.Deny, Reason: "no-permit"}})
	}
	var b bytes.Buffer
	w := governance.NewTapeWriter(&b)
	for _, r := range want {
		w.Record(r)
	}
	require.NoError(t, w.Err())
	assert.Equal(t, len(want), strings.Count(b.String(), "\n"), "one line each")
	got, err := readTape(t, b.String())
	require.NoError(t, err)
	assert.Equal(t, want, got)
}

func TestTapeIsStrict(t *testing.T) {
	good := `{"time":"2026-11-27T09:30:00Z","actor":{"agent":"a"},"action":"connect","name":"x","decision":{"id":"1","effect":"deny"}}`
	got, err := readTape(t, good+"\n\n"+good+"\n")
	require.NoError(t, err)
	assert.Len(t, got, 2)
	for name, text := range map[string]string{
		"unknown member":  strings.Replace(good, `"name"`, `"nmae"`, 1) + "\n",
		"repeated member": strings.Replace(good, `"name":"x"`, `"name":"x","name":"y"`, 1) + "\n",
		"no time":         strings.Replace(good, `"time":"2026-11-27T09:30:00Z",`, ``, 1) + "\n",
		"no effect":       strings.Replace(good, `"effect":"deny"`, `"reason":"x"`, 1) + "\n",
		"cut off":         good,
		"cut off inside":  good[:20],
		"two on a line":   good + good + "\n",
		"not JSON":        "hello\n",
		"both arguments":  strings.Replace(good, `"name":"x"`, `"args":{},"args_base64":"e30="`, 1) + "\n",
		"bad base64":      strings.Replace(good, `"name":"x"`, `"args_base64":"?"`, 1) + "\n",
		"odd attribute":   strings.Replace(good, `"name":"x"`, `"attrs":{"port":1.5}`, 1) + "\n",
		"odd list":        strings.Replace(good, `"name":"x"`, `"attrs":{"l":[1]}`, 1) + "\n",
		"too long":        `{"action":"` + strings.Repeat("x", 9<<20) + "\"}\n",
	} {
		got, err := readTape(t, good+"\n"+text)
		require.ErrorIs(t, err, governance.ErrTape, name)
		assert.Contains(t, err.Error(), "line 2", name)
		assert.Len(t, got, 1, name)
	}
}

// endless is a line that never ends.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	e.read += len(p)
	return len(p), nil
}

// A line without an end is not read to its end.
func TestTapeBoundsLines(t *testing.T) {
	in := &endless{}
	for _, err := range governance.ReadTape(in) {
		require.ErrorIs(t, err, governance.ErrTape)
		require.ErrorContains(t, err, "line 1: longer than 8 MiB")
	}
	assert.Less(t, in.read, 9<<20)
	_, err := governance.Recorded{Request: governance.Request{Name: strings.Repeat("x", 9<<20)}}.AppendJSON(nil)
	require.ErrorContains(t, err, "at most 8 MiB")
}

type failing struct{ after int }

func (f *failing) Write(p []byte) (int, error) {
	if f.after--; f.after < 0 {
		return 0, fmt.Errorf("disk full")
	}
	return len(p), nil
}

func TestTapeEndsAtTheFirstError(t *testing.T) {
	f := &failing{after: 1}
	w := governance.NewTapeWriter(f)
	r := governance.Recorded{Request: governance.Request{Time: tapeTime, Action: "connect"}, Decision: audit.Decision{Effect: audit.Deny}}
	w.Record(r)
	require.NoError(t, w.Err())
	w.Record(r)
	require.ErrorContains(t, w.Err(), "disk full")
	f.after = 10
	w.Record(r)
	assert.Equal(t, 10, f.after, "nothing more is written")
}

// An engine with a tape records every decision, as it was made, with its time.
func TestEngineRecords(t *testing.T) {
	var b bytes.Buffer
	w := governance.NewTapeWriter(&b)
	e := governance.NewEngine(audittest.NewLog(t), &governance.Options{Tape: w.Record, Clock: func() time.Time { return tapeTime }})
	ask := func(args string) governance.Decision {
		buf := []byte(args)
		d, _ := e.Decide(t.Context(), governance.Request{Actor: bot, Action: "call_tool", Server: "slack", Name: "post_message", Args: buf})
		copy(buf, "############") // the caller's again
		return d
	}
	ask(`{}`)
	_, err := e.Reload(t.Context(), loadStandup(t), audit.Change{By: "kim", Reason: "test"})
	require.NoError(t, err)
	var want []audit.Decision
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { ask(`{"channel":"#executive","text":"x"}`) })
	}
	wg.Wait()
	want = append(want, ask(`{"channel":"#engineering","text":"x"}`).Decision)
	require.NoError(t, w.Err())
	got, err := readTape(t, b.String())
	require.NoError(t, err)
	require.Len(t, got, 6)
	assert.Equal(t, audit.GuardNoSnapshot, got[0].Decision.Reason)
	assert.Equal(t, "no-executive-channel", got[4].Decision.Reason)
	assert.Equal(t, want[0], got[5].Decision)
	assert.Equal(t, `{"channel":"#engineering","text":"x"}`, string(got[5].Request.Args))
	assert.Equal(t, tapeTime, got[5].Request.Time)
}

// What a tape is given is its own: a door may use its buffers again.
func TestTapeOwnsWhatItIsGiven(t *testing.T) {
	var kept governance.Recorded
	e := governance.NewEngine(audittest.NewLog(t), &governance.Options{Tape: func(r governance.Recorded) { kept = r }})
	r := governance.Request{
		Actor: bot, Action: "connect", Name: "x", Args: []byte(`{"a":1}`), Claims: map[string]string{"k": "v"},
		Attrs: map[string]any{"l": []string{"a"}, "port": 1}, Enforces: []string{"rate"}, Approval: &governance.Approval{By: "ann"},
	}
	_, err := e.Decide(t.Context(), r)
	require.ErrorIs(t, err, governance.ErrNoSnapshot)
	r.Args[2], r.Claims["k"], r.Attrs["port"], r.Enforces[0], r.Approval.By = 'b', "w", 2, "none", "bob"
	r.Attrs["l"].([]string)[0] = "b"
	assert.Equal(t, `{"a":1}`, string(kept.Request.Args))
	assert.Equal(t, map[string]string{"k": "v"}, kept.Request.Claims)
	assert.Equal(t, map[string]any{"l": []string{"a"}, "port": 1}, kept.Request.Attrs)
	assert.Equal(t, []string{"rate"}, kept.Request.Enforces)
	assert.Equal(t, "ann", kept.Request.Approval.By)
	assert.False(t, kept.Request.Time.IsZero())
}

// A tape that is read can be written, and is the same tape.
func FuzzTape(f *testing.F) {
	f.Add([]byte(`{"time":"2026-11-27T09:30:00Z","actor":{"agent":"a"},"action":"connect","attrs":{"port":443,"tools":["x"]},"decision":{"id":"1","effect":"deny"},"args":{"a": [1]}}` + "\n"))
	f.Add([]byte("\n{\n"))
	f.Add([]byte(`{"args_base64":"eyJhIjoxLCJhIjoyfQ==","time":"2026-11-27T09:30:00Z","action":"x","decision":{"effect":"allow"}}` + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var once []governance.Recorded
		var out []byte
		for r, err := range governance.ReadTape(bytes.NewReader(text)) {
			if err != nil {
				require.ErrorIs(t, err, governance.ErrTape)
				break
			}
			once = append(once, r)
			out, err = r.AppendJSON(out)
			require.NoError(t, err)
		}
		twice, err := readTape(t, string(out))
		require.NoError(t, err)
		require.Equal(t, len(once), len(twice))
		for i := range once {
			a, b := once[i], twice[i]
			require.Equal(t, string(a.Request.Args), string(b.Request.Args))
			require.True(t, a.Request.Time.Equal(b.Request.Time))
			a.Request.Args, b.Request.Args, a.Request.Time, b.Request.Time = nil, nil, tapeTime, tapeTime
			require.Equal(t, fmt.Sprintf("%q", fmt.Sprint(a)), fmt.Sprintf("%q", fmt.Sprint(b)))
		}
	})
}
