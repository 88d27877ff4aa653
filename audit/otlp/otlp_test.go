package otlp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/audit/otlp"
)

const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// A collector keeps what it is sent, flattened, and answers what a test wants.
type collector struct {
	*httptest.Server
	mu     sync.Mutex
	answer []string // status and body, of the next requests
	logs   []map[string]any
	spans  []map[string]any
	header http.Header
}

func newCollector(t testing.TB) *collector {
	c := &collector{}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	c.header = r.Header
	if len(c.answer) > 0 {
		status, text, _ := strings.Cut(c.answer[0], " ")
		c.answer = c.answer[1:]
		if status != "200" {
			http.Error(w, text, map[string]int{"503": 503, "302": 302}[status])
			return
		}
		_, _ = io.WriteString(w, text)
	}
	var m map[string]any
	if err := json.Unmarshal(body, &m); err != nil {
		panic(err)
	}
	switch r.URL.Path {
	case "/base/v1/logs":
		c.logs = append(c.logs, flatten(m, "resourceLogs", "scopeLogs", "logRecords")...)
	case "/base/v1/traces":
		c.spans = append(c.spans, flatten(m, "resourceSpans", "scopeSpans", "spans")...)
	default:
		panic(r.URL.Path)
	}
}

// flatten returns the records of a message, attributes and those of the resource
// among their fields.
func flatten(m map[string]any, names ...string) (all []map[string]any) {
	for _, r := range m[names[0]].([]any) {
		r := r.(map[string]any)
		for _, s := range r[names[1]].([]any) {
			for _, rec := range s.(map[string]any)[names[2]].([]any) {
				rec := rec.(map[string]any)
				for _, attrs := range []any{rec["attributes"], r["resource"].(map[string]any)["attributes"]} {
					list, _ := attrs.([]any)
					for _, kv := range list {
						kv := kv.(map[string]any)
						for _, v := range kv["value"].(map[string]any) {
							rec["@"+kv["key"].(string)] = v
						}
					}
				}
				delete(rec, "attributes")
				all = append(all, rec)
			}
		}
	}
	return all
}

func body(rec map[string]any) string { return rec["body"].(map[string]any)["stringValue"].(string) }

// week records one of each that matters.
func week(t testing.TB, log audit.Recorder) {
	ctx := t.Context()
	actor := audit.Actor{Agent: "standup", Instance: "i1", Issuer: "session", Session: "s1", User: "ann", Profile: "writer"}
	allow := audit.Decision{ID: "d1", Effect: audit.Allow, Policies: []audit.Policy{{ID: "p1"}, {ID: "p2"}}, PolicyHash: "sha256:1"}
	call, err := log.Begin(ctx, audit.Intent{
		Door: audit.DoorTool, Action: "slack__post", Resource: `Tool::"slack__post"`, Actor: actor, Decision: allow, Trace: parent,
		Args: json.RawMessage(`{"text":"hidden"}`), ToolPin: "pin", Credential: &audit.CredentialUse{Name: "slack"},
	})
	require.NoError(t, err)
	require.NoError(t, call.End(ctx, audit.Outcome{Status: audit.StatusOK, Bytes: 1 << 60, CredentialVersion: 3, Checks: []string{"scrubbed:slack:1"}}))
	call, err = log.Begin(ctx, audit.Intent{
		Door: audit.DoorModel, Action: "invoke_model", Resource: `Model::"openai/gpt-5"`, Actor: actor, Decision: allow,
	})
	require.NoError(t, err)
	require.NoError(t, call.End(ctx, audit.Outcome{Status: audit.StatusFailed, ErrorCode: "timeout",
		Usage: &audit.Usage{Model: "gpt-5-2026", Input: 1, CacheRead: 10, CacheWrite: 100, Output: 7, Reasoning: 5, Cost: 1234, Charged: 2000}}))
	require.NoError(t, log.Append(ctx, audit.Event{
		Kind: audit.KindDenial, Door: audit.DoorTool, Action: "slack__read_dms", Resource: `Tool::"slack__read_dms"`, Actor: actor,
		Decision: &audit.Decision{ID: "d2", Effect: audit.Deny, Reason: "no-dms", Policies: []audit.Policy{{ID: "no-dms"}}}, Trace: "made up \x1b[31m\u202e",
	}))
	require.NoError(t, log.Append(ctx, audit.Event{
		Kind: audit.KindPolicy, Door: audit.DoorAdmin, Action: audit.ActionReload, Change: &audit.Change{By: "bob", Reason: "OPS-1"},
	}))
}

func exporter(t testing.TB, c *collector, spans bool, logger *slog.Logger) *otlp.Exporter {
	e, err := otlp.New(&otlp.Options{
		Endpoint: c.URL + "/base", Origin: "audit.example/h7", Header: http.Header{"X-Key": {"k"}}, Spans: spans, Logger: logger,
		Resource: map[string]string{"host.name": "h7"},
	})
	require.NoError(t, err)
	return e
}

func open(t testing.TB, e *otlp.Exporter, anchors ...audit.Anchor) (*audit.Log, *audittest.Memory) {
	key, err := audit.NewKey("audit.example/h7")
	require.NoError(t, err)
	m := new(audittest.Memory)
	log, err := audit.New(m, &audit.Options{Key: key, Sinks: []audit.Feed{{Sink: e, Retry: 1, Drain: time.Minute}}, Anchors: anchors})
	require.NoError(t, err)
	t.Cleanup(func() { _ = log.Close() })
	return log, m
}

func TestRecordsAreSentAsLogs(t *testing.T) {
	c := newCollector(t)
	log, m := open(t, exporter(t, c, false, nil))
	week(t, log)
	require.NoError(t, log.Close())
	require.Len(t, c.logs, 6)
	assert.Empty(t, c.spans)
	assert.Equal(t, "k", c.header.Get("X-Key"))
	assert.Equal(t, "application/json", c.header.Get("Content-Type"))

	in := c.logs[0]
	at := in["timeUnixNano"]
	require.IsType(t, "", at, "64-bit numbers are texts")
	line := body(in)
	for _, name := range []string{"timeUnixNano", "observedTimeUnixNano", "body"} {
		delete(in, name)
	}
	assert.Equal(t, map[string]any{
		"severityNumber": 9.0, "severityText": "INFO", "eventName": "twinward.audit.intent", "flags": 1.0,
		"traceId": "4bf92f3577b34da6a3ce929d0e0e4736", "spanId": "00f067aa0ba902b7",
		"@service.name": "twinward", "@service.instance.id": "audit.example/h7", "@host.name": "h7",
		"@log.record.uid": "audit.example/h7#1", "@gen_ai.agent.id": "standup", "@user.id": "ann", "@session.id": "s1",
		"@twinward.agent.instance": "i1", "@twinward.agent.issuer": "session", "@twinward.agent.profile": "writer",
		"@twinward.door": "tool", "@twinward.action": "slack__post", "@twinward.resource": `Tool::"slack__post"`,
		"@mcp.method.name": "tools/call", "@gen_ai.operation.name": "execute_tool", "@gen_ai.tool.name": "slack__post",
		"@twinward.tool.pin": "pin", "@twinward.credential.name": "slack", "@twinward.decision.id": "d1", "@twinward.decision.effect": "allow",
		"@twinward.decision.policies": map[string]any{"values": []any{map[string]any{"stringValue": "p1"}, map[string]any{"stringValue": "p2"}}},
		"@twinward.policy.hash":       "sha256:1",
	}, in)

	out := c.logs[1]
	assert.Equal(t, "twinward.audit.outcome", out["eventName"])
	assert.Equal(t, "audit.example/h7#1", out["@twinward.call.record"])
	assert.Equal(t, "1152921504606846976", out["@twinward.outcome.bytes"], "exactly")
	assert.Equal(t, "3", out["@twinward.credential.version"])

	model := c.logs[3]
	assert.Equal(t, "WARN", model["severityText"])
	for name, want := range map[string]string{"error.type": "timeout", "gen_ai.response.model": "gpt-5-2026",
		"gen_ai.usage.input_tokens": "111", "gen_ai.usage.output_tokens": "7", "gen_ai.usage.cache_read.input_tokens": "10",
		"gen_ai.usage.cache_creation.input_tokens": "100", "gen_ai.usage.reasoning.output_tokens": "5",
		"twinward.usage.cost_micro_usd": "1234", "twinward.usage.charged_micro_usd": "2000"} {
		assert.Equal(t, want, model["@"+name], name)
	}
	assert.Equal(t, "openai", c.logs[2]["@gen_ai.provider.name"])
	assert.Equal(t, "gpt-5", c.logs[2]["@gen_ai.request.model"])
	assert.Equal(t, "chat", c.logs[2]["@gen_ai.operation.name"])

	denial := c.logs[4]
	assert.Equal(t, "twinward.audit.denial", denial["eventName"])
	assert.Equal(t, 13.0, denial["severityNumber"])
	assert.Equal(t, "no-dms", denial["@error.type"])
	assert.NotContains(t, denial, "traceId", "what is no traceparent is not passed off as one")
	assert.Equal(t, "bob", c.logs[5]["@twinward.change.by"])

	// The body is the very line that the log's tree was made of.
	proof, err := audit.Prove(t.Context(), m.FS(), 1)
	require.NoError(t, err)
	_, err = audit.VerifyProof(proof.Text(), []byte(line), log.VerifierKey())
	require.NoError(t, err)
}

func TestCallsAreSentAsSpans(t *testing.T) {
	c := newCollector(t)
	c.answer = []string{"200 ", "503 later", "503 later"} // logs arrive, spans do not at first
	log, _ := open(t, exporter(t, c, true, nil))
	week(t, log)
	require.Eventually(t, func() bool { return log.Sinks()[0].Lag == 0 }, time.Minute, time.Millisecond)
	require.NoError(t, log.Close())
	spans := map[any]map[string]any{}
	for _, s := range c.spans {
		spans[s["spanId"]] = s // what came twice is the same span
	}
	require.Len(t, spans, 2)
	for _, s := range spans {
		assert.NotEmpty(t, s["startTimeUnixNano"])
		assert.LessOrEqual(t, s["startTimeUnixNano"], s["endTimeUnixNano"])
		assert.Len(t, s["spanId"], 16)
		if s["@gen_ai.operation.name"] == "chat" {
			assert.Equal(t, "chat gpt-5", s["name"])
			assert.Equal(t, 3.0, s["kind"])
			assert.Equal(t, map[string]any{"code": 2.0}, s["status"])
			assert.Len(t, s["traceId"], 32)
			assert.NotContains(t, s, "parentSpanId")
			continue
		}
		assert.Equal(t, "tools/call slack__post", s["name"])
		assert.Equal(t, 2.0, s["kind"])
		assert.Equal(t, map[string]any{}, s["status"])
		assert.Equal(t, "4bf92f3577b34da6a3ce929d0e0e4736", s["traceId"])
		assert.Equal(t, "00f067aa0ba902b7", s["parentSpanId"])
		assert.Equal(t, "ok", s["@twinward.outcome.status"])
	}
}

// A collector that is down, or sends one elsewhere, gets everything later.
func TestCollectorThatIsDown(t *testing.T) {
	c := newCollector(t)
	c.answer = []string{"503 not now", "302 elsewhere", "503 not now"}
	log, _ := open(t, exporter(t, c, false, nil))
	week(t, log)
	require.Eventually(t, func() bool { return log.Sinks()[0].Lag == 0 }, time.Minute, time.Millisecond)
	require.NoError(t, log.Close())
	seen := map[any]bool{}
	for _, l := range c.logs {
		seen[l["@log.record.uid"]] = true
	}
	assert.Len(t, seen, 6)
	assert.Equal(t, uint64(3), log.Sinks()[0].Failures)

	c.Close()
	err := exporter(t, c, false, nil).Send(t.Context(), []audit.Record{{Seq: 1, Event: &audit.Event{Kind: "x"}}})
	assert.Error(t, err)
}

// What a collector rejects for good is reported and not sent again.
func TestCollectorThatRejects(t *testing.T) {
	c := newCollector(t)
	c.answer = []string{`200 {"partialSuccess":{"rejectedLogRecords":"1","errorMessage":"too old"}}`}
	var said bytes.Buffer
	e := exporter(t, c, false, slog.New(slog.NewTextHandler(&said, nil)))
	require.NoError(t, e.Send(t.Context(), []audit.Record{{Seq: 1, Event: &audit.Event{Kind: "x"}}}))
	assert.Contains(t, said.String(), `rejected=1 message="too old"`)
	said.Reset()
	c.answer = []string{`200 {"partialSuccess":{}}`, "200 not JSON"}
	for range 2 {
		require.NoError(t, e.Send(t.Context(), []audit.Record{{Seq: 1, Event: &audit.Event{Kind: "x"}}}))
	}
	assert.Empty(t, said.String())
}

// A checkpoint that was kept by the collector is an anchor of the log.
func TestAnchorSendsCheckpoints(t *testing.T) {
	c := newCollector(t)
	e := exporter(t, c, false, nil)
	log, m := open(t, e, e.Anchor())
	week(t, log)
	_, err := log.Checkpoint(t.Context())
	require.NoError(t, err)
	require.NoError(t, log.Close())
	var notes []string
	for _, l := range c.logs {
		if l["eventName"] == "twinward.audit.checkpoint" {
			notes = append(notes, body(l))
			assert.Equal(t, "6", l["@twinward.checkpoint.size"])
		}
	}
	require.NotEmpty(t, notes)
	rep, err := audit.Verify(t.Context(), m.FS(), &audit.VerifyOptions{Key: log.VerifierKey(), Anchors: notes})
	require.NoError(t, err)
	assert.Equal(t, uint64(6), rep.Anchored)
	assert.Error(t, e.Anchor().Publish(t.Context(), []byte("x")))
	c.Close()
	assert.Error(t, e.Anchor().Publish(t.Context(), []byte("a\n1\nb\n")))
}

func TestWriteMakesLinesOfMessages(t *testing.T) {
	log := audittest.NewLog(t)
	for range 300 {
		require.NoError(t, log.Append(t.Context(), audit.Event{Kind: audit.KindList, Door: audit.DoorTool, Action: "list_tools"}))
	}
	var out bytes.Buffer
	opts := &otlp.Options{Origin: "o"}
	require.NoError(t, otlp.Write(&out, log.Query(t.Context(), audit.Filter{}), opts))
	var all []map[string]any
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	assert.Len(t, lines, 2)
	for _, line := range lines {
		var m map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &m))
		all = append(all, flatten(m, "resourceLogs", "scopeLogs", "logRecords")...)
	}
	require.Len(t, all, 300)
	assert.Equal(t, "tools/list", all[0]["@mcp.method.name"])
	assert.NotContains(t, all[0], "@gen_ai.operation.name")

	failing := func(yield func(audit.Record, error) bool) { yield(audit.Record{}, context.Canceled) }
	assert.ErrorIs(t, otlp.Write(&out, iter.Seq2[audit.Record, error](failing), opts), context.Canceled)
	assert.Error(t, otlp.Write(&out, log.Query(t.Context(), audit.Filter{}), nil))
}

func TestOptionsThatMakeNoSense(t *testing.T) {
	for _, o := range []*otlp.Options{nil, {Endpoint: "http://x"}, {Origin: "o"}, {Origin: "o", Endpoint: "localhost:4318"}, {Origin: "o", Endpoint: "http://"}} {
		_, err := otlp.New(o)
		assert.Error(t, err, "%+v", o)
	}
}

// Agents choose the trace: nothing in it can break a message, and what is passed on
// is well-formed.
func FuzzTrace(f *testing.F) {
	for _, s := range []string{parent, "", "00-0-0-0", strings.Replace(parent, "4bf9", "4BF9", 1), "ff" + parent[2:], parent + "-x", "01" + parent[2:] + "-x",
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, trace string) {
		one := func(yield func(audit.Record, error) bool) {
			yield(audit.Record{Seq: 1, Event: &audit.Event{Kind: "x", Trace: trace, Resource: trace, Action: trace, Door: audit.DoorTool}}, nil)
		}
		var out bytes.Buffer
		require.NoError(t, otlp.Write(&out, one, &otlp.Options{Origin: "o"}))
		var m map[string]any
		require.NoError(t, json.Unmarshal(out.Bytes(), &m))
		l := flatten(m, "resourceLogs", "scopeLogs", "logRecords")[0]
		if id, ok := l["traceId"]; ok {
			assert.Regexp(t, "^[0-9a-f]{32}$", id)
			assert.Regexp(t, "^[0-9a-f]{16}$", l["spanId"])
		}
	})
}
