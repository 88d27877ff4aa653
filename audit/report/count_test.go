package report_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/report"
)

// lines are the records as JSON, one a line, as a log stores them.
func lines(t testing.TB, records iter.Seq2[audit.Record, error]) []byte {
	var b bytes.Buffer
	for r, err := range records {
		require.NoError(t, err)
		line, err := r.MarshalJSON()
		require.NoError(t, err)
		b.Write(append(line, '\n'))
	}
	return b.Bytes()
}

// count answers the questions a second time, from the text and with nothing of
// package report or of the types of package audit.
func count(t testing.TB, text []byte) map[string]int {
	type object = map[string]any
	n := map[string]int{}
	var recs []object
	for sc := bufio.NewScanner(bytes.NewReader(text)); sc.Scan(); {
		var r object
		require.NoError(t, json.Unmarshal(sc.Bytes(), &r))
		recs = append(recs, r)
	}
	get := func(o any, path string) any {
		for _, key := range strings.Split(path, ".") {
			m, _ := o.(object)
			o = m[key]
		}
		return o
	}
	add := func(by int, key ...any) { n[fmt.Sprint(key...)] += by }
	outcomes := map[float64]object{}
	for _, r := range recs {
		if o, ok := r["outcome"].(object); ok {
			outcomes[r["call"].(float64)] = o
		}
	}
	for _, r := range recs {
		if in, ok := r["intent"].(object); ok {
			agent, action := get(in, "actor.agent"), in["action"]
			how := "open"
			o, ended := outcomes[r["seq"].(float64)]
			if ended {
				how = map[any]string{"ok": "done", "failed": "failed", "cancelled": "cancelled"}[o["status"]]
			}
			add(1, "total ", how)
			add(1, agent, " ", action, " ", how)
			if c, ok := in["credential"].(object); ok {
				add(1, agent, " uses ", c["name"])
			}
			if u, ok := get(o, "usage").(object); ok && ended {
				add(int(u["input"].(float64)), agent, " input ", u["model"])
				add(int(u["output"].(float64)), agent, " output ", u["model"])
			}
			if in["action"] == "connect" {
				add(1, agent, " reached ", in["resource"])
			}
		}
		if ev, ok := r["event"].(object); ok && ev["kind"] == "denial" {
			times := 1
			if s, ok := get(ev, "detail.repeated").(string); ok {
				_, err := fmt.Sscan(s, &times)
				require.NoError(t, err)
			}
			agent := get(ev, "actor.agent")
			add(times, "total denied")
			add(times, agent, " ", ev["action"], " denied")
			add(times, agent, " ", ev["action"], " because ", get(ev, "decision.reason"))
			if ev["action"] == "connect" {
				add(times, agent, " not reached ", ev["resource"])
			}
		}
	}
	return n
}

// told is what a summary says, in the same words.
func told(s *report.Summary) map[string]int {
	n := map[string]int{}
	add := func(by uint64, key ...any) {
		if by > 0 {
			n[fmt.Sprint(key...)] += int(by)
		}
	}
	all := func(t report.Tally, prefix ...any) {
		add(t.Done, append(prefix, "done")...)
		add(t.Failed, append(prefix, "failed")...)
		add(t.Cancelled, append(prefix, "cancelled")...)
		add(t.Open, append(prefix, "open")...)
		add(t.Denied, append(prefix, "denied")...)
	}
	all(s.Total, "total ")
	for _, a := range s.Agents {
		for _, op := range a.Operations {
			all(op.Tally, a.Name, " ", op.Action, " ")
		}
	}
	for _, d := range s.Denials {
		add(d.Count, d.Agent, " ", d.Action, " because ", d.Reason)
	}
	for _, c := range s.Credentials {
		add(c.Uses, c.Agent, " uses ", c.Name)
	}
	for _, m := range s.Models {
		add(uint64(m.Input), m.Agent, " input ", m.Model)
		add(uint64(m.Output), m.Agent, " output ", m.Model)
	}
	for _, e := range s.Egress {
		add(e.Allowed, e.Agent, " reached ", e.Resource)
		add(e.Denied, e.Agent, " not reached ", e.Resource)
	}
	return n
}

// randomRecords are n records of a few agents that do everything.
func randomRecords(rnd *rand.Rand, n int) iter.Seq2[audit.Record, error] {
	return func(yield func(audit.Record, error) bool) {
		pick := func(words ...string) string { return words[rnd.IntN(len(words))] }
		type open struct {
			seq  uint64
			door string
		}
		var calls []open
		now := monday
		for seq := uint64(1); seq <= uint64(n); seq++ {
			now = now.Add(time.Duration(rnd.IntN(4000)) * time.Millisecond)
			r := audit.Record{Seq: seq, Time: now}
			actor := audit.Actor{Agent: pick("standup", "triage", "helper"), User: pick("", "ann", "bob"), Profile: "p"}
			d := audit.Decision{ID: fmt.Sprint("d", seq), Effect: audit.Allow, PolicyHash: pick(oldRules, newRules), Policies: []audit.Policy{{ID: pick("readers", "writers")}}}
			door := pick(audit.DoorTool, audit.DoorTool, audit.DoorModel, audit.DoorCompute)
			action, resource := pick("github__list", "slack__post", "jira__get"), ""
			switch door {
			case audit.DoorModel:
				action = "invoke_model"
			case audit.DoorCompute:
				action, resource = "connect", fmt.Sprintf("Host::%q", pick("a.example", "b.example"))
			}
			switch k := rnd.IntN(10); {
			case k < 5 && len(calls) > 3 || k < 3 && len(calls) > 0:
				i := rnd.IntN(len(calls))
				c := calls[i]
				calls = append(calls[:i], calls[i+1:]...)
				r.Call, r.Outcome = c.seq, &audit.Outcome{Status: audit.Status(pick("ok", "ok", "ok", "failed", "cancelled")), Bytes: 10}
				if c.door == audit.DoorModel {
					r.Outcome.Usage = &audit.Usage{Model: pick("small", "large"), Input: int64(rnd.IntN(1000)), Output: int64(rnd.IntN(100))}
				}
			case k < 9:
				r.Intent = &audit.Intent{Door: door, Action: action, Resource: resource, Actor: actor, Decision: d}
				if rnd.IntN(2) == 0 {
					r.Intent.Credential = &audit.CredentialUse{Name: pick("github", "slack"), Decision: d}
				}
				calls = append(calls, open{seq, door})
			default:
				d = audit.Refusal(d.ID, pick(audit.ReasonNoPermit, audit.GuardUnknown))
				r.Event = &audit.Event{Kind: audit.KindDenial, Door: door, Action: action, Resource: resource, Actor: actor, Decision: &d}
				if rnd.IntN(5) == 0 {
					r.Event.Detail = map[string]string{"repeated": fmt.Sprint(1 + rnd.IntN(100))}
				}
			}
			if !yield(r, nil) {
				return
			}
		}
	}
}

// The answers are those of a second computation that shares nothing but the
// records' text.
func TestAnswersAgreeWithAnIndependentCount(t *testing.T) {
	week := goldenWeek(t)
	s, err := report.Summarise(week.Query(ctx, audit.Filter{}), nil)
	require.NoError(t, err)
	want := count(t, lines(t, week.Query(ctx, audit.Filter{})))
	assert.Equal(t, want, told(s))
	assert.Equal(t, 47, want["total done"])
	assert.Equal(t, 3, want["total denied"])

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	s, err = report.Summarise(randomRecords(rand.New(rand.NewPCG(seed, 1)), 5000), nil)
	require.NoError(t, err)
	want = count(t, lines(t, randomRecords(rand.New(rand.NewPCG(seed, 1)), 5000)))
	assert.Equal(t, want, told(s))
	assert.Greater(t, len(want), 50)
}

// An agent that makes up names cannot make the report grow without bound, nor
// hide how much it did.
func TestSizeIsBounded(t *testing.T) {
	const n = 30_000
	of := func(agent, action func(i int) string) iter.Seq2[audit.Record, error] {
		return func(yield func(audit.Record, error) bool) {
			for i := range n {
				d := audit.Refusal("d", fmt.Sprint("reason", i))
				ev := &audit.Event{Kind: audit.KindDenial, Door: audit.DoorCompute, Action: action(i), Resource: fmt.Sprintf(`Host::"h%d"`, i), Actor: audit.Actor{Agent: agent(i)}, Decision: &d}
				if !yield(audit.Record{Seq: uint64(i) + 1, Time: monday, Event: ev}, nil) {
					return
				}
			}
		}
	}
	fixed := func(s string) func(int) string { return func(int) string { return s } }
	numbered := func(s string) func(int) string { return func(i int) string { return fmt.Sprint(s, i) } }
	for name, records := range map[string]iter.Seq2[audit.Record, error]{
		"operations": of(fixed("x"), numbered("act")),
		"agents":     of(numbered("x"), fixed("connect")),
		"hosts":      of(fixed("x"), fixed("connect")),
	} {
		s, err := report.Summarise(records, &report.Options{MaxRows: 10})
		require.NoError(t, err)
		assert.EqualValues(t, n, s.Total.Denied, name)
		assert.EqualValues(t, n, s.DenialRows.Count(), name)
		assert.Len(t, s.DenialRows.List, 10)
		var sum, byCause uint64
		for _, a := range s.Agents {
			assert.LessOrEqual(t, len(a.Operations), 1_001)
			sum += a.Denied
		}
		for _, d := range s.Denials {
			byCause += d.Count
		}
		assert.EqualValues(t, n, sum, name)
		assert.EqualValues(t, n, byCause, name)
		assert.LessOrEqual(t, len(s.Agents), 10_001)
		out, err := json.Marshal(s)
		require.NoError(t, err)
		assert.Less(t, len(out), 10<<20, name)
		if name != "hosts" {
			assert.Contains(t, string(out), report.Others)
		}
	}
}

// BenchmarkReport summarises a million records and writes the page.
func BenchmarkReport(b *testing.B) {
	for b.Loop() {
		s, err := report.Summarise(randomRecords(rand.New(rand.NewPCG(1, 1)), 1_000_000), nil)
		require.NoError(b, err)
		var page bytes.Buffer
		require.NoError(b, s.HTML(&page))
		b.ReportMetric(float64(page.Len())/1024, "page-KB")
	}
	b.ReportMetric(1e6/(b.Elapsed().Seconds()/float64(b.N)), "records/s")
}

// BenchmarkReportFromDisk makes the page of a log of a million records in a
// folder, as twinward-audit does: it is verified, and then read again.
func BenchmarkReportFromDisk(b *testing.B) {
	const records = 1_000_000
	dir := filepath.Join(b.TempDir(), "log")
	log, err := audit.Open(dir, &audit.Options{Mode: audit.BestEffort, Queue: 100_000}) // so that it is there soon
	require.NoError(b, err)
	key := log.VerifierKey()
	for i := 0; log.Size() < records-2; i++ { // no farther ahead than the queue
		actor := audit.Actor{Agent: fmt.Sprint("agent", i%50), User: "ann", Profile: "standup"}
		if i%20 == 0 {
			d := audit.Refusal(fmt.Sprint("d", i), audit.GuardUnlistedHost)
			require.NoError(b, log.Append(ctx, audit.Event{Kind: audit.KindDenial, Door: audit.DoorCompute, Action: "connect", Resource: fmt.Sprintf("Host::\"h%d.example\"", i%1000), Actor: actor, Decision: &d}))
			continue
		}
		action := fmt.Sprint("github__tool", i%30)
		in := audit.Intent{Door: audit.DoorTool, Action: action, Resource: fmt.Sprintf("Tool::%q", action), Actor: actor, Decision: allowed("readers")}
		in.Decision.PolicyHash, in.Credential = newRules, &audit.CredentialUse{Name: "github", Decision: allowed("use-github")}
		c, err := log.Begin(ctx, in)
		require.NoError(b, err)
		require.NoError(b, c.End(ctx, audit.Outcome{Status: audit.StatusOK, Bytes: 1000, Latency: time.Millisecond, CredentialVersion: 1}))
	}
	require.NoError(b, log.Close())
	var verifying, summarising time.Duration
	var heap uint64
	for b.Loop() {
		start := time.Now()
		rep, err := audit.Verify(ctx, os.DirFS(dir), &audit.VerifyOptions{Key: key})
		require.NoError(b, err)
		verifying += time.Since(start)
		n := 0
		s, err := report.Summarise(func(yield func(audit.Record, error) bool) {
			for r, err := range rep.Scan(ctx, os.DirFS(dir), audit.Filter{}) {
				if n++; n%100_000 == 0 {
					var m runtime.MemStats
					runtime.ReadMemStats(&m)
					heap = max(heap, m.HeapInuse)
				}
				if !yield(r, err) {
					return
				}
			}
		}, &report.Options{Verified: &rep})
		require.NoError(b, err)
		require.GreaterOrEqual(b, n, records-2)
		require.NoError(b, s.HTML(io.Discard))
		summarising += time.Since(start)
	}
	per := float64(b.N) * records
	b.ReportMetric(per/verifying.Seconds(), "verified/s")
	b.ReportMetric(summarising.Seconds()/float64(b.N), "s/million")
	b.ReportMetric(float64(heap>>20), "heap-MiB")
}
