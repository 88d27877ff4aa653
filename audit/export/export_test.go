package export_test

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/audit/export"
)

var ctx = context.Background()

// everything is a log with one of each kind of record, each text of which is s.
func everything(t testing.TB, s string) *audittest.Log {
	log := audittest.NewLog(t)
	actor := audit.Actor{Agent: s, Instance: s, Issuer: s, Session: s, User: s, Profile: s}
	pol := []audit.Policy{{ID: s, Position: s, Severity: "high", Reason: s}}
	allow := audit.Decision{ID: s, Effect: audit.Allow, Policies: pol, PolicyHash: s, Approval: &audit.Approval{ID: s, By: s}}
	deny := audit.Decision{ID: s, Effect: audit.Deny, Policies: pol, PolicyHash: s, Reason: s}
	intents := []audit.Intent{
		{Door: audit.DoorTool, Action: "github__list_prs", Resource: `Tool::"github__list_prs"`, ToolPin: s, Class: audit.ClassRead, Credential: &audit.CredentialUse{Name: s, Decision: allow}, Trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
		{Door: audit.DoorTool, Action: "read_resource", Resource: s, Trace: s},
		{Door: audit.DoorModel, Action: "invoke_model", Resource: `Model::"acme/small"`},
		{Door: audit.DoorCompute, Action: "connect", Resource: `Host::"a.example"`},
		{Door: s, Action: s, Resource: s},
	}
	outcomes := []audit.Outcome{
		{Status: audit.StatusOK, Bytes: 12, CredentialVersion: 3, Checks: []string{s}, Labels: []string{s}},
		{Status: audit.StatusFailed, ErrorCode: s},
		{Status: audit.StatusOK, Usage: &audit.Usage{Model: s, Input: 5, Output: 7, CacheRead: 3, Final: true, Cost: 1234}},
		{Status: audit.StatusCancelled, ErrorCode: "cancelled"},
	}
	for i, in := range intents {
		in.Actor, in.Decision = actor, allow
		in.Args = json.RawMessage(`{"a":1}`)
		c, err := log.Begin(ctx, in)
		require.NoError(t, err)
		if i < len(outcomes) { // the last stays open
			require.NoError(t, c.End(ctx, outcomes[i]))
		}
	}
	for _, kind := range []audit.Kind{audit.KindDenial, audit.KindProbe, audit.KindList, audit.KindLaunch, audit.KindExit, audit.KindLeak, "heartbeat"} {
		ev := audit.Event{Kind: kind, Door: audit.DoorTool, Action: s, Resource: s, Actor: actor, Source: s, Detail: map[string]string{s: s}}
		if kind == audit.KindDenial {
			ev.Decision, ev.Detail["repeated"] = &deny, "4"
		}
		require.NoError(t, log.Append(ctx, ev))
	}
	for _, kind := range []audit.Kind{audit.KindPolicy, audit.KindIdentity, audit.KindCredential} {
		require.NoError(t, log.Append(ctx, audit.Event{Kind: kind, Door: audit.DoorAdmin, Action: s, Resource: s, Change: &audit.Change{By: s, Reason: s}}))
	}
	nobody := audit.Refusal(s, audit.GuardNoActor)
	require.NoError(t, log.Append(ctx, audit.Event{Kind: audit.KindDenial, Door: audit.DoorTool, Action: audit.ActionRequest, Resource: s, Decision: &nobody}))
	return log
}

const records, entries = 20, 16 // of everything; an entry is an event or a call

func write(t testing.TB, f export.Format, log *audittest.Log, opts *export.Options) string {
	var b bytes.Buffer
	require.NoError(t, export.Write(&b, f, log.Query(ctx, audit.Filter{}), opts))
	return b.String()
}

func objects(t testing.TB, text string) (list []map[string]any) {
	for line := range strings.Lines(text) {
		var o map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &o), line)
		list = append(list, o)
	}
	return list
}

func TestNDJSONIsWhatTheLogHolds(t *testing.T) {
	log := everything(t, "x")
	text := write(t, export.NDJSON, log, nil)
	var stored []string
	for line := range strings.Lines(string(log.Storage.Bytes())) {
		if strings.HasPrefix(line, `{"seq":`) {
			stored = append(stored, line)
		}
	}
	assert.Equal(t, strings.Join(stored, ""), text)
	assert.Equal(t, records, strings.Count(text, "\n"))
}

func TestOCSFIsAsTheSchemaSays(t *testing.T) {
	for _, version := range []string{export.OCSF18, export.OCSF19} {
		s := readSchema(t, version)
		log := everything(t, "x")
		list := objects(t, write(t, export.OCSF, log, &export.Options{Origin: "host7", OCSFVersion: version}))
		require.Len(t, list, entries)
		for _, o := range list {
			assert.Empty(t, s.check(o), "%v", o)
		}
		first := list[0]
		delete(first, "time")
		assert.Equal(t, "github__list_prs", first["api"].(map[string]any)["operation"])
		assert.Equal(t, map[string]any{"name": "github"}, first["api"].(map[string]any)["service"])
		assert.Equal(t, map[string]any{"uid": "0af7651916cd43dd8448eb211c80319c"}, first["trace"])
		assert.Equal(t, "host7#1", first["metadata"].(map[string]any)["uid"])
		where := first
		if version == export.OCSF18 {
			where = first["unmapped"].(map[string]any)
		}
		assert.Equal(t, map[string]any{"uid": "x", "instance_uid": "x"}, where["ai_agent"])
		// The fingerprints are the leaves of the log's own tree.
		recs := log.Records()
		attest := where["attestation_list"].([]any)
		require.Len(t, attest, 2)
		for i, a := range attest {
			line, err := recs[i].MarshalJSON()
			require.NoError(t, err)
			fp := a.(map[string]any)["fingerprint"].(map[string]any)
			assert.Equal(t, tlog.RecordHash(line).String(), fp["value"])
		}
		byMessage := map[string]map[string]any{}
		for _, o := range list {
			byMessage[o["message"].(string)] = o
		}
		assert.EqualValues(t, 4, byMessage["denied: x on x"]["severity_id"], "the policy's own")
		assert.EqualValues(t, 2, byMessage["denied: x on x"]["disposition_id"])
		assert.EqualValues(t, 2, byMessage["failed: read_resource on x"]["activity_id"], "its action says that it reads")
		assert.EqualValues(t, 2, first["activity_id"], "its class says so")
		assert.EqualValues(t, 0, byMessage["open: x on x"]["status_id"])
		assert.Equal(t, map[string]any{"ai_provider": "acme", "name": "x"}, byMessage[`ok: invoke_model on Model::"acme/small"`]["ai_model"])
		assert.Equal(t, map[string]any{"app_name": "host"}, byMessage["denied: request on x"]["actor"])
	}
}

// The check would notice.
func TestTheSchemaCheckNotices(t *testing.T) {
	s := readSchema(t, export.OCSF19)
	base := write(t, export.OCSF, everything(t, "x"), &export.Options{OCSFVersion: export.OCSF19})
	for name, spoil := range map[string]func(o map[string]any){
		"actor is required":       func(o map[string]any) { delete(o, "actor") },
		"nonsense is no attribut": func(o map[string]any) { o["nonsense"] = 1 },
		"activity_id = 12 is not": func(o map[string]any) { o["activity_id"] = 12.0; o["type_uid"] = 600312.0 },
		"time is no integer":      func(o map[string]any) { o["time"] = "now" },
		"actor.needs one of":      func(o map[string]any) { o["actor"] = map[string]any{} },
		"the profile trace":       func(o map[string]any) { o["metadata"].(map[string]any)["profiles"] = []any{"ai_operation"} },
	} {
		o := objects(t, base)[0]
		spoil(o)
		assert.Contains(t, strings.Join(s.check(o), "; "), name)
	}
}

func TestCloudEvents(t *testing.T) {
	log := everything(t, "x")
	list := objects(t, write(t, export.CloudEvents, log, &export.Options{Origin: "audit.example/host 7"}))
	require.Len(t, list, records)
	ids := map[any]bool{}
	for i, o := range list {
		// https://github.com/cloudevents/spec v1.0: required attributes, and the
		// form of names.
		assert.Equal(t, "1.0", o["specversion"])
		for _, name := range []string{"id", "source", "type"} {
			assert.NotEmpty(t, o[name], name)
		}
		for name := range o {
			assert.Regexp(t, "^[a-z0-9]{1,20}$", name)
		}
		_, err := url.Parse(o["source"].(string))
		require.NoError(t, err)
		assert.Equal(t, "audit.example/host%207", o["source"])
		_, err = time.Parse(time.RFC3339, o["time"].(string))
		require.NoError(t, err)
		assert.False(t, ids[o["id"]], "ids are unique")
		ids[o["id"]] = true
		line, err := log.Records()[i].MarshalJSON()
		require.NoError(t, err)
		data, err := json.Marshal(o["data"])
		require.NoError(t, err)
		assert.JSONEq(t, string(line), string(data))
	}
	assert.Equal(t, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", list[0]["traceparent"])
	assert.NotContains(t, list[2], "traceparent", "x is none")
	assert.Equal(t, "dev.twinward.audit.intent", list[0]["type"])
	assert.Equal(t, "dev.twinward.audit.outcome", list[1]["type"])
	assert.Equal(t, "dev.twinward.audit.denial", list[9]["type"])
}

func TestCSV(t *testing.T) {
	text := write(t, export.CSV, everything(t, "x"), nil)
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	require.NoError(t, err)
	require.Len(t, rows, 1+entries)
	col := func(row []string, name string) string {
		for i, n := range rows[0] {
			if n == name {
				return row[i]
			}
		}
		t.Fatal(name)
		return ""
	}
	first := rows[1]
	for name, want := range map[string]string{
		"record": "1", "outcome_record": "2", "kind": "call", "status": "ok", "action": "github__list_prs", "effect": "allow",
		"credential_version": "3", "bytes": "12", "approved_by": "x", "agent": "x",
	} {
		assert.Equal(t, want, col(first, name), name)
	}
	for name, want := range map[string]string{"model": "x", "input_tokens": "5", "output_tokens": "7", "cache_read_tokens": "3",
		"cache_write_tokens": "0", "reasoning_tokens": "0", "usage_final": "true", "cost_micro_usd": "1234", "charged_micro_usd": "1234"} {
		assert.Equal(t, want, col(rows[3], name), name)
		assert.Empty(t, col(first, name), name)
	}
	var statuses []string
	for _, row := range rows[1:] {
		statuses = append(statuses, col(row, "status"))
	}
	assert.Equal(t, "ok failed ok cancelled denied          denied open", strings.Join(statuses, " "))
	assert.Equal(t, "4", col(rows[5], "count"))
}

// A spreadsheet takes none of these for a formula.
func TestCSVCellsAreNoFormulas(t *testing.T) {
	for _, s := range []string{"=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "\u00a0=1", "＝1", "'=1", `=HYPERLINK("http://x")`} {
		rows, err := csv.NewReader(strings.NewReader(write(t, export.CSV, everything(t, s), nil))).ReadAll()
		require.NoError(t, err)
		for _, row := range rows {
			for _, c := range row {
				trimmed := strings.TrimLeftFunc(c, unicode.IsSpace)
				if trimmed != "" {
					assert.NotContains(t, "=+-@＝＋－＠\t\r", string([]rune(trimmed)[0]), "%q", c)
				}
			}
		}
	}
}

func TestErrors(t *testing.T) {
	broken := errors.New("broken")
	var recs iter.Seq2[audit.Record, error] = func(yield func(audit.Record, error) bool) {
		d := audit.Refusal("d", audit.GuardUnknown)
		if yield(audit.Record{Seq: 1, Event: &audit.Event{Kind: audit.KindDenial, Decision: &d}}, nil) {
			yield(audit.Record{}, broken)
		}
	}
	for _, f := range export.Formats() {
		var b bytes.Buffer
		assert.ErrorIs(t, export.Write(&b, f, recs, nil), broken, f)
		assert.True(t, strings.HasSuffix(b.String(), "\n"), "%s: what was written is whole", f)
		assert.ErrorIs(t, export.Write(failing{}, f, everything(t, "x").Query(ctx, audit.Filter{}), nil), io.ErrShortWrite)
	}
	assert.ErrorIs(t, export.Write(io.Discard, "xml", recs, nil), export.ErrFormat)
	err := export.Write(io.Discard, export.OCSF, recs, &export.Options{OCSFVersion: "0.9"})
	assert.ErrorIs(t, err, export.ErrFormat)
	assert.ErrorContains(t, err, `"0.9"`)
	orphan := func(yield func(audit.Record, error) bool) {
		yield(audit.Record{Seq: 9, Call: 3, Outcome: &audit.Outcome{Status: audit.StatusOK}}, nil)
	}
	var b bytes.Buffer
	require.NoError(t, export.Write(&b, export.OCSF, orphan, nil))
	assert.Empty(t, b.String(), "an outcome without its intent was not selected")
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

// Memory is the open calls: what has ended is written soon, not at the end.
func TestStreams(t *testing.T) {
	const calls = 20_000
	for _, f := range export.Formats() {
		var written lines
		behind := 0
		recs := func(yield func(audit.Record, error) bool) {
			for i := range uint64(calls) {
				in := audit.Record{Seq: 2*i + 1, Intent: &audit.Intent{Door: "tool", Action: "a__b", Decision: audit.Decision{Effect: audit.Allow}}}
				if !yield(in, nil) || !yield(audit.Record{Seq: 2*i + 2, Call: 2*i + 1, Outcome: &audit.Outcome{Status: audit.StatusOK}}, nil) {
					return
				}
				behind = max(behind, int(i)-int(written))
			}
		}
		require.NoError(t, export.Write(&written, f, recs, nil))
		assert.GreaterOrEqual(t, int(written), calls, f)
		assert.Less(t, behind, 2_000, f)
	}
}

type lines int

func (n *lines) Write(p []byte) (int, error) {
	*n += lines(bytes.Count(p, []byte("\n")))
	return len(p), nil
}

// Whatever is on record, each format keeps its form.
func FuzzExport(f *testing.F) {
	for _, s := range []string{"", "x", "=1+1", "@a", "\t=1", "\x1b[2J", "a\u2028b", "\u202egpj", "\x00", "\xff", "a\r\nb", `"`, ",", `\`, "\ufeff=1", "\u009b", `x::"`} {
		f.Add(s)
	}
	s18 := readSchema(f, export.OCSF18)
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 500 {
			return
		}
		log := everything(t, "x"+s)
		for _, format := range export.Formats() {
			text := write(t, format, log, nil)
			assert.True(t, utf8.ValidString(text))
			for _, r := range text {
				if unicode.In(r, unicode.Cf, unicode.Cc, unicode.Zl, unicode.Zp) && r != '\n' && (r != '\r' || format != export.CSV) {
					assert.Fail(t, "a hidden character", "%s: %q", format, r)
				}
			}
			switch format {
			case export.CSV:
				rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
				require.NoError(t, err)
				assert.Len(t, rows, 1+entries)
			case export.OCSF:
				list := objects(t, text)
				assert.Len(t, list, entries)
				for _, o := range list {
					assert.Empty(t, s18.check(o))
				}
			default:
				assert.Len(t, objects(t, text), records)
			}
		}
	})
}

// BenchmarkExport writes 100,000 calls in each format.
func BenchmarkExport(b *testing.B) {
	d := audit.Decision{ID: "d", Effect: audit.Allow, Policies: []audit.Policy{{ID: "readers"}}}
	recs := func(yield func(audit.Record, error) bool) {
		for i := range uint64(100_000) {
			in := audit.Record{Seq: 2*i + 1, Intent: &audit.Intent{Door: "tool", Action: "a__b", Resource: `Tool::"a__b"`, Actor: audit.Actor{Agent: "x"}, Decision: d}}
			if !yield(in, nil) || !yield(audit.Record{Seq: 2*i + 2, Call: 2*i + 1, Outcome: &audit.Outcome{Status: audit.StatusOK}}, nil) {
				return
			}
		}
	}
	for _, f := range export.Formats() {
		b.Run(string(f), func(b *testing.B) {
			for b.Loop() {
				require.NoError(b, export.Write(io.Discard, f, recs, nil))
			}
			b.ReportMetric(2e5/(b.Elapsed().Seconds()/float64(b.N)), "records/s")
		})
	}
}

// The fingerprints are of what the log stores, also of records that a later
// version wrote.
func TestFingerprintsAreOfTheStoredBytes(t *testing.T) {
	dir := t.TempDir()
	log, err := audit.Open(dir, &audit.Options{Origin: "later"})
	require.NoError(t, err)
	require.NoError(t, log.Append(ctx, audit.Event{Kind: audit.KindProbe, Action: "x"}))
	require.NoError(t, log.Close())
	name := filepath.Join(dir, audit.SegmentName(1))
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	lines := strings.SplitAfter(string(text), "\n")
	later := strings.Replace(lines[1], `"action":"x"`, `"action":"x","of_later":{"b":"\u202e"}`, 1)
	require.NoError(t, os.WriteFile(name, []byte(lines[0]+later), 0o600)) // not signed, which is not what this is about
	write := func(f export.Format) string {
		var b bytes.Buffer
		require.NoError(t, export.Write(&b, f, audit.Scan(ctx, os.DirFS(dir), audit.Filter{}), &export.Options{OCSFVersion: export.OCSF19}))
		return b.String()
	}
	var ev struct {
		List []struct {
			Fingerprint struct{ Value string }
		} `json:"attestation_list"`
	}
	require.NoError(t, json.Unmarshal([]byte(write(export.OCSF)), &ev))
	require.Len(t, ev.List, 1)
	assert.Equal(t, tlog.RecordHash([]byte(strings.TrimSuffix(later, "\n"))).String(), ev.List[0].Fingerprint.Value)
	assert.Equal(t, later, write(export.NDJSON))
	assert.Contains(t, write(export.CloudEvents), `"data":`+strings.TrimSuffix(later, "\n")+"}")
}
