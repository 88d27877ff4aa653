package report_test

import (
	"bytes"
	"errors"
	"iter"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/report"
)

// hostile are seeds for everything that reads what agents wrote: markup,
// scripts, spreadsheet formulas, terminal sequences, separators of lines that
// are not newlines, marks that reorder text, and what is not UTF-8.
var hostile = []string{
	"", "plain", `"><script>alert(1)</script>`, "</style></script><!--", "{{.Title}}", "javascript:alert(1)", `' onload='x`, "&lt;b&gt;",
	"=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", `=HYPERLINK("http://x","y")`,
	"\x1b[2J\x1b]0;t\x07", "\u009b31m", "a\u2028b\u2029c", "\u202egpj.exe", "\u2066x\u2069", "\ufeff", "\x00", "\xff\xfe", "a\nb\r\nc", "\U000e0041",
}

// everywhere returns records and options that carry s in every field that a
// host, an agent or a tool can fill.
func everywhere(s string) (iter.Seq2[audit.Record, error], *report.Options) {
	pol := []audit.Policy{{ID: s, Position: s, Severity: s, Reason: s}}
	allow := audit.Decision{ID: s, Effect: audit.Allow, Policies: pol, PolicyHash: s, Obligations: []audit.Obligation{{Kind: s, Value: s, Policy: s}},
		Approval: &audit.Approval{ID: s, By: s, Reason: s, Groups: []string{s}}, Would: []audit.Would{{Source: audit.WouldSource(s), Effect: audit.Effect(s), Reason: s, Policies: pol}}}
	deny := audit.Decision{ID: s, Effect: audit.Deny, Policies: pol, Errors: []string{s}, PolicyHash: s, Reason: s, Nearest: []string{s}, Would: allow.Would}
	actor := audit.Actor{Agent: s, Instance: s, Issuer: s, Session: s, User: s, Profile: s}
	change := &audit.Change{By: s, Reason: s}
	detail := map[string]string{s: s, audit.DetailOwner: s, audit.DetailProfile: s, audit.DetailPolicyHash: s}
	intent := audit.Intent{Door: s, Action: s, Resource: s, Actor: actor, Decision: allow, ToolPin: s, Trace: s, Credential: &audit.CredentialUse{Name: s, Decision: allow}}
	connect := intent
	connect.Door, connect.Action = audit.DoorCompute, "connect"
	event := func(kind audit.Kind) *audit.Event {
		return &audit.Event{Kind: kind, Door: s, Action: s, Resource: s, Actor: actor, Decision: &deny, Source: s, Detail: detail, Trace: s, ToolPin: s}
	}
	people := func(kind audit.Kind) *audit.Event {
		return &audit.Event{Kind: kind, Door: s, Action: s, Resource: s, Change: change, Detail: detail}
	}
	recs := []audit.Record{
		{Event: people(audit.KindIdentity)}, {Event: people(audit.KindPolicy)}, {Event: people(audit.KindCredential)}, {Event: people(audit.Kind(s))},
		{Intent: &intent}, {Call: 5, Outcome: &audit.Outcome{Status: audit.StatusOK, ErrorCode: s, Checks: []string{s}, Labels: []string{s}, Usage: &audit.Usage{Model: s}}},
		{Intent: &connect}, {Event: event(audit.KindDenial)}, {Event: event(audit.KindProbe)}, {Event: event(audit.KindLeak)}, {Event: event(audit.KindGap)}, {Event: event(audit.Kind(s))},
	}
	records := func(yield func(audit.Record, error) bool) {
		for i, r := range recs {
			r.Seq, r.Time = uint64(i)+1, monday
			if !yield(r, nil) {
				return
			}
		}
	}
	return records, &report.Options{Title: s, Failure: errors.New(s), Verified: &audit.VerifyReport{Origin: s, Caveats: []string{s}},
		Phrases: map[string]report.Phrase{s: {Did: s, Do: s, One: s, Many: s}}}
}

func pageOf(t testing.TB, s string) []byte {
	records, opts := everywhere(s)
	var b bytes.Buffer
	require.NoError(t, report.HTML(&b, records, opts))
	return b.Bytes()
}

// structure is a page without its texts: tags with the names of attributes.
func structure(t testing.TB, page []byte) []string {
	var tags []string
	z := html.NewTokenizer(bytes.NewReader(page))
	for {
		kind := z.Next()
		if kind == html.ErrorToken {
			return tags
		}
		tok := z.Token()
		if kind == html.TextToken {
			continue
		}
		names := tok.Data
		for _, a := range tok.Attr {
			names += " " + a.Key
		}
		tags = append(tags, kind.String()+" "+names)
	}
}

// Whatever is on record, the page is the same but for its texts, and shows
// every character that could act.
func FuzzPage(f *testing.F) {
	for _, s := range hostile {
		f.Add(s)
	}
	plain := pageOf(f, "xy")
	want, breaks := structure(f, plain), bytes.Count(plain, []byte("\n"))
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 1000 {
			return
		}
		page := pageOf(t, "x"+s) // an empty field may leave out a part of the page
		assert.Equal(t, want, structure(t, page))
		hidden := bytes.IndexFunc(page, func(r rune) bool {
			return r != '\n' && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
		})
		if hidden >= 0 {
			assert.Fail(t, "a hidden character on the page", "%q", page[hidden:min(hidden+40, len(page))])
		}
		assert.Equal(t, breaks, bytes.Count(page, []byte("\n")), "a line break from a record")
	})
}
