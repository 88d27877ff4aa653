package report_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"html"
	"iter"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/audit/report"
)

var ctx = context.Background()

func allowed(id string) audit.Decision {
	return audit.Decision{ID: "d-" + id, Effect: audit.Allow, Policies: []audit.Policy{{ID: id}}}
}

func call(t *testing.T, log audit.Recorder, in audit.Intent, out *audit.Outcome) {
	t.Helper()
	c, err := log.Begin(ctx, in)
	require.NoError(t, err)
	if out != nil {
		require.NoError(t, c.End(ctx, *out))
	}
}

// sampleLog holds one of everything that the page has a place for.
func sampleLog(t *testing.T) *audittest.Log {
	log := audittest.NewLog(t)
	actor := audit.Actor{Agent: "standup", User: "ann"}
	ok := &audit.Outcome{Status: audit.StatusOK, Bytes: 10}
	cred := &audit.CredentialUse{Name: "github", Decision: allowed("use-github")}
	call(t, log, audit.Intent{Door: "tool", Action: "github__list_prs", Actor: actor, Decision: allowed("readers"), Credential: cred}, &audit.Outcome{Status: audit.StatusOK, Bytes: 10, CredentialVersion: 3})
	call(t, log, audit.Intent{Door: "tool", Action: "github__list_prs", Actor: actor, Decision: allowed("readers"), Credential: cred}, &audit.Outcome{Status: audit.StatusFailed, CredentialVersion: 4})
	call(t, log, audit.Intent{Door: "model", Action: "invoke_model", Actor: actor, Decision: allowed("models")},
		&audit.Outcome{Status: audit.StatusOK, Usage: &audit.Usage{Model: "gpt-5", Input: 1234, Output: 567, Final: true, Cost: 1_234_567, Charged: 2_000_000}})
	call(t, log, audit.Intent{Door: "compute", Action: "connect", Resource: `Host::"tools.local"`, Actor: actor, Decision: allowed("net")}, ok)
	call(t, log, audit.Intent{Door: "tool", Action: "slack__post_message", Actor: actor, Decision: allowed("posters")}, nil)
	for _, ev := range []audit.Event{
		{Kind: audit.KindDenial, Door: "tool", Action: "slack__read_dms", Decision: &audit.Decision{ID: "d-9", Effect: audit.Deny, Reason: "no-dms", Policies: []audit.Policy{{ID: "no-dms"}}}},
		{Kind: audit.KindDenial, Door: "compute", Action: "connect", Resource: `Host::"example.com"`, Decision: &audit.Decision{Reason: audit.ReasonNoPermit, Nearest: []string{"net"}, Would: []audit.Would{{Source: audit.WouldStaged, Effect: audit.Allow}}}},
		{Kind: audit.KindProbe, Door: "compute", Action: "read", Resource: "/etc/shadow", Source: "agent"},
		{Kind: audit.KindPolicy, Door: "admin", Action: "reload", Change: &audit.Change{By: "olga", Reason: "T-42"}},
	} {
		ev.Actor = actor
		require.NoError(t, log.Append(ctx, ev))
	}
	return log
}

func page(t *testing.T, log *audittest.Log, opts *report.Options) string {
	t.Helper()
	var b strings.Builder
	require.NoError(t, report.HTML(&b, log.Query(ctx, audit.Filter{}), opts))
	return b.String()
}

// section returns the text of the part under a heading, without tags.
func section(page, id string) string {
	_, rest, _ := strings.Cut(page, `<h2 id="`+id+`">`)
	rest, _, _ = strings.Cut(rest, "<h2 ")
	return strings.Join(strings.Fields(regexp.MustCompile(`<[^>]*>`).ReplaceAllString(rest, " ")), " ")
}

func TestPageAnswersTheQuestions(t *testing.T) {
	log := sampleLog(t)
	rep, err := audit.Verify(ctx, log.Storage.FS(), &audit.VerifyOptions{Key: log.VerifierKey()})
	require.NoError(t, err)
	p := page(t, log, &report.Options{Title: "Q4", Verified: &rep})
	for id, words := range map[string][]string{
		"summary":     {"3 1 0 1 2 1 1"}, // done failed cancelled open denied probes agents
		"agents":      {"standup", "tool github__list_prs 1 1 0 0 0", "tool slack__read_dms 0 0 0 0 1", "tool slack__post_message 0 0 0 1 0", "Acted for ann.", "Its model calls cost $1.234567; $2.00 were charged."},
		"causes":      {"1 standup slack__read_dms denied by policy no-dms no-dms no-dms", "denied because no policy permits it (nearest: net)"},
		"denials":     {"standup for ann", "slack__read_dms no-dms no-dms d-9", "no-permit; nearest: net; would allow if staged"},
		"would":       {"1 standup connect allow if staged"},
		"credentials": {"github standup 2 3, 4 use-github"},
		"models":      {"gpt-5 standup 1 1234 567 0 0 0 0 $1.234567 $2.00"},
		"egress":      {"example.com&#34; standup 0 1", "tools.local&#34; standup 1 0"},
		"probes":      {"probe: read /etc/shadow agent"},
		"open":        {"slack__post_message"},
		"admin":       {"policy.load: reload olga T-42"},
		"gaps":        {"None."},
		"integrity":   {"Verified", "No anchor was given", strings.ReplaceAll(rep.Root.String(), "+", "&#43;")},
	} {
		for _, w := range words {
			assert.Contains(t, section(p, id), w, id)
		}
	}
}

func TestPageIsSelfContained(t *testing.T) {
	p := page(t, sampleLog(t), nil)
	for _, bad := range []string{"http://", "https://", "src=", "url(", "<img", "<link", "@import", "unsafe-inline", " style="} {
		assert.False(t, strings.Contains(p, bad), bad)
	}
	assert.False(t, regexp.MustCompile(`<[^>]* on[a-z]+=`).MatchString(p), "no inline handlers")
	for _, href := range regexp.MustCompile(`href="[^"]*"`).FindAllString(p, -1) {
		assert.Regexp(t, `^href="#([a-z]+|r\d+-\d+)"$`, href)
		assert.Contains(t, p, ` id="`+strings.TrimPrefix(href, `href="#`), "a link leads to a section or a record on the page")
	}
	assert.Contains(t, p, "prefers-color-scheme: dark")
	assert.Contains(t, p, "@media print")
}

// The style and the script that run are exactly those that the page's own
// policy names.
func TestPolicyNamesTheStyleAndTheScript(t *testing.T) {
	p := page(t, sampleLog(t), nil)
	csp := regexp.MustCompile(`http-equiv="Content-Security-Policy" content="([^"]*)"`).FindStringSubmatch(p)
	require.NotNil(t, csp)
	policy := html.UnescapeString(csp[1])
	assert.Contains(t, policy, "default-src 'none'; ")
	for tag, directive := range map[string]string{"style": "style-src", "script": "script-src"} {
		require.Equal(t, 1, strings.Count(p, "<"+tag), tag)
		_, rest, _ := strings.Cut(p, "<"+tag+">")
		text, _, _ := strings.Cut(rest, "</"+tag+">")
		sum := sha256.Sum256([]byte(text))
		assert.Contains(t, policy, directive+" 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"';")
	}
}

// Every table has a caption and headed columns, headings go down step by step,
// and the drawing has a title.
func TestPageIsAccessible(t *testing.T) {
	p := page(t, sampleLog(t), nil)
	assert.Equal(t, strings.Count(p, "<table"), strings.Count(p, "<caption>"))
	assert.Equal(t, strings.Count(p, "<table"), strings.Count(p, "<thead>"))
	assert.NotRegexp(t, `<th[ >](?:[^>]*)`, regexp.MustCompile(`<th [^>]*scope="(col|row)"[^>]*>`).ReplaceAllString(strings.ReplaceAll(p, "<thead>", ""), ""))
	level := 0
	for _, h := range regexp.MustCompile(`<h([1-6])`).FindAllStringSubmatch(p, -1) {
		n := int(h[1][0] - '0')
		assert.LessOrEqual(t, n, level+1)
		level = n
	}
	assert.Contains(t, p, `<html lang="en">`)
	assert.Contains(t, p, `role="img" aria-labelledby="timeline-title"`)
	ids := regexp.MustCompile(` id="([^"]*)"`).FindAllStringSubmatch(p, -1)
	seen := map[string]bool{}
	for _, id := range ids {
		assert.False(t, seen[id[1]], "the id %s twice", id[1])
		seen[id[1]] = true
	}
}

func TestSameLogSamePage(t *testing.T) {
	log := sampleLog(t)
	assert.Equal(t, page(t, log, nil), page(t, log, nil))
}

func TestHostileInputIsText(t *testing.T) {
	log := audittest.NewLog(t)
	hostile := "</td><script>alert(1)</script>\x1b[2J\u2028\u202egpj\x00'\"onload=x"
	d := audit.Decision{ID: hostile, Reason: hostile, Policies: []audit.Policy{{ID: hostile}}, Errors: []string{hostile}, Nearest: []string{hostile}, Would: []audit.Would{{Source: audit.WouldSource(hostile), Reason: hostile}}}
	actor := audit.Actor{Agent: hostile, User: hostile}
	require.NoError(t, log.Append(ctx, audit.Event{Kind: audit.KindDenial, Door: hostile, Action: hostile, Resource: hostile, Actor: actor, Decision: &d}))
	require.NoError(t, log.Append(ctx, audit.Event{Kind: audit.KindProbe, Action: hostile, Actor: actor, Source: hostile, Detail: map[string]string{hostile: hostile}}))
	require.NoError(t, log.Append(ctx, audit.Event{Kind: audit.KindCredential, Action: hostile, Change: &audit.Change{By: hostile, Reason: hostile}}))
	allow := audit.Decision{Effect: audit.Allow, Policies: d.Policies}
	call(t, log, audit.Intent{Door: hostile, Action: hostile, Actor: actor, Decision: allow, Credential: &audit.CredentialUse{Name: hostile, Decision: allow}},
		&audit.Outcome{Status: audit.StatusOK, Usage: &audit.Usage{Model: hostile}})
	call(t, log, audit.Intent{Door: hostile, Action: hostile, Actor: actor, Decision: allow}, nil)
	p := page(t, log, &report.Options{Title: hostile, Failure: errors.New(hostile), Verified: &audit.VerifyReport{Origin: hostile, Caveats: []string{hostile}}})
	assert.Equal(t, 1, strings.Count(p, "<script"))
	assert.NotContains(t, p, "</td><scr")
	assert.Contains(t, p, `\u001b[2J\u2028\u202egpj\u0000`)
	for _, r := range "\x1b\u2028\u202e\x00" {
		assert.NotContains(t, p, string(r))
	}
	assert.Equal(t, strings.Count(p, "<td"), strings.Count(p, "</td>"))
}

func TestLimitsAndErrors(t *testing.T) {
	log := audittest.NewLog(t)
	for i := range 7 {
		d := audit.Refusal("d", audit.GuardUnknown)
		require.NoError(t, log.Append(ctx, audit.Event{Kind: audit.KindDenial, Action: fmt.Sprint("act", i), Actor: audit.Actor{Agent: "a"}, Decision: &d}))
	}
	p := page(t, log, &report.Options{MaxRows: 5})
	assert.Contains(t, section(p, "denials"), "2 more are on record")
	assert.NotContains(t, section(p, "denials"), "act5")
	assert.Contains(t, section(p, "integrity"), "was not verified")

	broken := errors.New("broken")
	var records iter.Seq2[audit.Record, error] = func(yield func(audit.Record, error) bool) { yield(audit.Record{}, broken) }
	assert.ErrorIs(t, report.HTML(&strings.Builder{}, records, nil), broken)

	p = page(t, log, &report.Options{Failure: broken, Now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)})
	assert.Contains(t, section(p, "integrity"), "VERIFICATION FAILED: broken")
	assert.Contains(t, p, "Written 2026-01-02 03:04:05.000 UTC")
}

func TestEmptyLog(t *testing.T) {
	p := page(t, audittest.NewLog(t), nil)
	assert.Contains(t, p, "everything on record: 0 records, never to never")
}

// A link leads nowhere rather than to a row that is not there.
func TestLinksOfRecordsThatAreLeftOut(t *testing.T) {
	log := audittest.NewLog(t)
	for i := range 3 {
		d := audit.Refusal("d", audit.GuardUnknown)
		require.NoError(t, log.Append(ctx, audit.Event{Kind: audit.KindDenial, Action: fmt.Sprint("act", i), Actor: audit.Actor{Agent: "a"}, Decision: &d}))
	}
	p := page(t, log, &report.Options{MaxRows: 2})
	assert.Contains(t, p, `<a href="#r0-2">2</a>`)
	assert.NotContains(t, p, `href="#r0-3"`)
	assert.Contains(t, p, "(from record 3)")
}

// A timeline has few slices however far its acts spread, and loses none.
func TestTimelineIsBounded(t *testing.T) {
	for _, span := range []time.Duration{time.Minute, time.Hour, 24 * time.Hour, 3000 * time.Hour, 200_000 * time.Hour} {
		records := func(yield func(audit.Record, error) bool) {
			for i := range 500 {
				d := audit.Refusal("d", audit.GuardUnknown)
				ev := &audit.Event{Kind: audit.KindDenial, Action: "x", Actor: audit.Actor{Agent: "a"}, Decision: &d}
				if !yield(audit.Record{Seq: uint64(i) + 1, Time: monday.Add(span * time.Duration(i*37%500) / 500), Event: ev}, nil) {
					return
				}
			}
		}
		s, err := report.Summarise(records, nil)
		require.NoError(t, err)
		assert.LessOrEqual(t, len(s.Timeline.Slices), 97, span)
		var sum uint64
		for i, b := range s.Timeline.Slices {
			sum += b.Denied
			if i > 0 {
				assert.Zero(t, b.Start.Sub(s.Timeline.Slices[i-1].Start)%s.Timeline.Width)
			}
		}
		assert.EqualValues(t, 500, sum, span)
	}
}

// The page's table of controls is that of the documentation.
func TestControlsAreThoseOfTheDocumentation(t *testing.T) {
	source, err := os.ReadFile("report.go")
	require.NoError(t, err)
	doc, _, _ := strings.Cut(string(source), "package report")
	words := strings.Join(strings.Fields(strings.ReplaceAll(doc, "//", " ")), " ")
	table := section(page(t, sampleLog(t), nil), "controls")
	for _, row := range []string{"SOC 2 CC6.1", "SOC 2 CC6.2, CC6.3", "SOC 2 CC6.6", "SOC 2 CC6.7", "SOC 2 CC7.1", "SOC 2 CC7.2", "SOC 2 CC7.3, CC7.4",
		"ISO/IEC 42001 A.6.2.6", "ISO/IEC 42001 A.6.2.8", "ISO/IEC 42001 A.3.2, A.4", "AI Act Art. 12(1)", "AI Act Art. 12(2)", "AI Act Art. 19, 26(6)"} {
		assert.Contains(t, words, row)
		assert.Contains(t, table, row)
	}
	for _, asks := range []string{"access is decided by rules", "what secrets went where", "durable before the act", "logs are kept at least six months", "gap says where a log was repaired"} {
		assert.Contains(t, words, asks)
		assert.Contains(t, table, asks)
	}
}

// Who vouches for the log besides its own host is part of the integrity statement.
func TestWitnessesAreNamed(t *testing.T) {
	log := sampleLog(t)
	rep := audit.VerifyReport{Origin: "host7", Records: 9, Signed: 9, Anchored: 8, Anchors: 1, Cosigned: 8,
		Cosignatures: []audit.Cosignature{{Witness: "witness.example/w1", Records: 8, Time: monday}}}
	assert.Contains(t, section(page(t, log, &report.Options{Verified: &rep}), "integrity"), "witness.example/w1 signed records 1 to 8 on 2026-11-16 08:00:00.000 UTC")
}

func TestRemovedRecordsAreNamed(t *testing.T) {
	rep := audit.VerifyReport{Origin: "host7", Records: 9, Signed: 9,
		Pruned: &audit.Pruned{Records: 4, Kept: 1, Record: 8, Time: monday, Change: audit.Change{By: "olga", Reason: "half a year <b>"}}}
	assert.Contains(t, section(page(t, sampleLog(t), &report.Options{Verified: &rep}), "integrity"),
		"Removed on record records 1 to 4 but for 1 administrative acts, by olga on 2026-11-16 08:00:00.000 UTC for half a year &lt;b&gt; (record 8)")
}

// The auditor reads in words what each guard refuses.
func TestEveryGuardHasWords(t *testing.T) {
	files, err := filepath.Glob("../*.go")
	require.NoError(t, err)
	guards := 0
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		require.NoError(t, err)
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || !strings.HasPrefix(spec.Names[0].Name, "Guard") {
				return true
			}
			guards++
			guard, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			require.NoError(t, err)
			assert.Contains(t, report.Cause(audit.Refusal("d", guard)), "refused: ", guard)
			return true
		})
	}
	assert.Greater(t, guards, 50)
}

// A provider may say that it counted any number of tokens.
func TestCountsThatOthersTold(t *testing.T) {
	log := audittest.NewLog(t)
	for _, n := range []int64{math.MaxInt64, 5, math.MinInt64} {
		c, err := log.Begin(ctx, audit.Intent{Door: audit.DoorModel, Action: "invoke_model", Actor: audit.Actor{Agent: "a"}, Decision: allowed("p")})
		require.NoError(t, err)
		u := &audit.Usage{Model: "m", Input: n, Output: n, CacheRead: n, CacheWrite: n, Reasoning: n, Cost: n, Charged: n, Final: true}
		require.NoError(t, c.End(ctx, audit.Outcome{Status: audit.StatusOK, Bytes: n, Usage: u}))
	}
	s, err := report.Summarise(log.Query(ctx, audit.Filter{}), nil)
	require.NoError(t, err)
	const most = math.MaxInt64
	assert.Equal(t, report.ModelUse{Model: "m", Agent: "a", Calls: 3, Input: most, Output: most, CacheRead: most, CacheWrite: most, Reasoning: most, Cost: most, Charged: most}, s.Models[0])
	assert.EqualValues(t, most, s.Agents[0].Operations[0].Bytes)
}
