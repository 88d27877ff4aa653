package report

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twinward-dev/twinward/audit/internal/visible"
)

var (
	//go:embed page.html.tmpl
	pageText string
	//go:embed page.css
	pageStyle string
	//go:embed page.js
	pageScript string
)

var pageTemplate = sync.OnceValues(func() (*template.Template, error) {
	return template.New("page").Funcs(template.FuncMap{
		"show": show, "when": when, "words": words, "few": few, "short": short, "plural": plural, "dollars": dollars, "inc": func(i int) int { return i + 1 },
	}).Parse(pageText)
})

// policyOf is a Content-Security-Policy for a page with just this style and this
// script, and with what more allows.
func policyOf(style, script, more string) string {
	return "default-src 'none'; style-src '" + hashOf(style) + "'; script-src '" + hashOf(script) + "'; " + more + "base-uri 'none'; form-action 'none'"
}

func hashOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// A page is what the template shows.
type page struct {
	*Summary
	CSP    string
	Style  template.CSS
	Script template.JS

	origins map[string]int
	listed  map[string]bool // ids of the records that have a row
	given   map[string]bool // ids on the page so far
}

func newPage(s *Summary) *page {
	p := &page{
		Summary: s, CSP: policyOf(pageStyle, pageScript, ""), Style: template.CSS(pageStyle), Script: template.JS(pageScript),
		origins: map[string]int{}, listed: map[string]bool{}, given: map[string]bool{},
	}
	for i, l := range s.Logs {
		p.origins[l.Origin] = i
	}
	for _, rows := range []Rows{s.DenialRows, s.ProbeRows, s.OpenRows, s.AdminRows, s.GapRows, s.CitedRows} {
		for _, r := range rows.List {
			p.listed[p.id(r.Ref())] = true
		}
	}
	return p
}

func (p *page) id(r Ref) string {
	return "r" + strconv.Itoa(p.origins[r.Origin]) + "-" + strconv.FormatUint(r.Seq, 10)
}

// A link leads to a record's row, or nowhere if it has none.
type link struct{ ID, Text string }

// Link is for a reference. Among several logs it names the log.
func (p *page) Link(r Ref) link {
	l := link{ID: p.id(r), Text: strconv.FormatUint(r.Seq, 10)}
	if len(p.Logs) > 1 {
		l.Text = show(r.Origin) + " " + l.Text
	}
	if !p.listed[l.ID] {
		l.ID = ""
	}
	return l
}

// A record is a row's JSON, to be unfolded.
type record struct {
	link
	JSON string
	Seq  uint64
	Log  string // its name, among several
}

// Raw is the record of a row as the log holds it. The first row of a record is
// where links to it lead.
func (p *page) Raw(r Row) record {
	text, err := r.Record.Line()
	if err != nil {
		text = []byte(err.Error())
	}
	rec := record{link: p.Link(r.Ref()), JSON: show(string(text)), Seq: r.Record.Seq}
	if len(p.Logs) > 1 {
		rec.Log = show(r.Origin)
	}
	if p.given[rec.ID] {
		rec.ID = "" // an id is given once
	}
	p.given[rec.ID] = true
	return rec
}

// A table is a number of single calls.
type table struct {
	Rows         Rows
	How, Caption string
	Page         *page
}

// Table lists calls that ended in a way.
func (p *page) Table(rows Rows, how, caption string) table { return table{rows, how, caption, p} }

// A linkedAct is an administrative act with the link to its record.
type linkedAct struct {
	Act  *Act
	Link link
}

// Act is an administrative act, which may be nil.
func (p *page) Act(a *Act) linkedAct {
	if a == nil {
		return linkedAct{}
	}
	return linkedAct{a, p.Link(a.Ref)}
}

// Headline is the total in words.
func (p *page) Headline() string {
	t := p.Total
	s := fmt.Sprintf("%d done, %d blocked", t.Done, t.Denied)
	for _, more := range []struct {
		n    uint64
		word string
	}{{t.Failed, "failed"}, {t.Cancelled, "cancelled"}, {t.Open, "open"}} {
		if more.n > 0 {
			s += fmt.Sprintf(", %d %s", more.n, more.word)
		}
	}
	return s
}

// Period is what was asked for, in words.
func (p *page) Period() string {
	switch {
	case p.From.IsZero() && p.To.IsZero():
		return "everything on record"
	case p.To.IsZero():
		return "from " + when(p.From)
	case p.From.IsZero():
		return "before " + when(p.To)
	}
	return "from " + when(p.From) + " to before " + when(p.To)
}

// A bar is a slice of the timeline in the units of the drawing.
type bar struct {
	X, Width           float64
	AllowedY, AllowedH float64
	DeniedY, DeniedH   float64
	Label              string
	Slice              Slice
}

// The drawing's size.
const drawWidth, drawHeight = 960.0, 120.0

// Bars draw the timeline: denied on top of allowed.
func (p *page) Bars() []bar {
	t := p.Timeline
	if len(t.Slices) == 0 {
		return nil
	}
	var most uint64
	for _, s := range t.Slices {
		most = max(most, s.Allowed+s.Denied)
	}
	first := t.Slices[0].Start
	n := float64(t.Slices[len(t.Slices)-1].Start.Unix()-first.Unix())/t.Width.Seconds() + 1
	width := min(drawWidth/n, 40)
	bars := make([]bar, 0, len(t.Slices))
	for _, s := range t.Slices {
		b := bar{Slice: s, Width: max(width-1, 0.5)}
		b.X = float64(s.Start.Unix()-first.Unix()) / t.Width.Seconds() * width
		scale := drawHeight / float64(most)
		b.AllowedH, b.DeniedH = float64(s.Allowed)*scale, float64(s.Denied)*scale
		if s.Denied > 0 {
			b.DeniedH = max(b.DeniedH, 2) // one denial among thousands is seen
		}
		b.AllowedH = min(b.AllowedH, drawHeight-b.DeniedH)
		b.AllowedY = drawHeight - b.AllowedH
		b.DeniedY = b.AllowedY - b.DeniedH
		for _, v := range []*float64{&b.X, &b.Width, &b.AllowedY, &b.AllowedH, &b.DeniedY, &b.DeniedH} {
			*v = math.Round(*v*100) / 100
		}
		b.Label = fmt.Sprintf("%s: %d allowed, %d denied", s.Start.UTC().Format("2006-01-02 15:04"), s.Allowed, s.Denied)
		bars = append(bars, b)
	}
	return bars
}

// Span says in words what the timeline covers, and how tall its bars are.
func (p *page) Span() string {
	slices := p.Timeline.Slices
	var most uint64
	for _, s := range slices {
		most = max(most, s.Allowed+s.Denied)
	}
	last := slices[len(slices)-1].Start.Add(p.Timeline.Width)
	const minute = "2006-01-02 15:04"
	return fmt.Sprintf("%s to %s UTC, one bar for each %s; the tallest is %s", slices[0].Start.UTC().Format(minute), last.UTC().Format(minute), p.SliceWidth(), plural(most, "act", "acts"))
}

// SliceWidth is the width of a slice in words.
func (p *page) SliceWidth() string {
	unit, name := 24*time.Hour, "day"
	switch d := p.Timeline.Width; {
	case d < time.Hour:
		unit, name = time.Minute, "minute"
	case d < 24*time.Hour:
		unit, name = time.Hour, "hour"
	}
	if n := p.Timeline.Width / unit; n != 1 {
		return fmt.Sprintf("%d %ss", n, name)
	}
	return name
}

// show makes what cannot be seen visible: control characters, and marks that
// reorder or hide text, become escapes such as \u001b.
func show(v any) string { return visible.Text(fmt.Sprint(v)) }

func when(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04:05.000 UTC")
}

func words(s []string) string { return show(strings.Join(s, ", ")) }

func few(f Few) string {
	s := words(f.List)
	if f.More {
		s += ", …"
	}
	return s
}

// short cuts a hash to what tells it apart.
func short(hash string) string {
	if rest, ok := strings.CutPrefix(hash, "sha256:"); ok && len(rest) > 12 {
		return "sha256:" + show(rest[:12]) + "…"
	}
	return show(hash)
}

// dollars writes millionths of a US dollar, with two to six decimals.
func dollars(micro int64) string {
	s := fmt.Sprintf("$%d.%06d", micro/1e6, micro%1e6)
	for strings.HasSuffix(s, "0") && s[len(s)-3] != '.' {
		s = s[:len(s)-1]
	}
	return s
}
