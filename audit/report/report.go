// Package report writes the page that an auditor reads: who acted, what was
// allowed and what was refused, under which policies, with which credentials,
// and how far the log behind it can be trusted.
//
// The page is one HTML file without scripts, images or links to anything: it
// can be mailed, printed and kept. Whatever agents and tools put into the log is
// shown as text, and invisible characters are made visible.
package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/internal/visible"
)

// Options say what to put on the page. The zero value and nil are safe.
type Options struct {
	// Title is the headline. Empty means "Audit report".
	Title string
	// Verified is what verifying the log found, for the integrity statement.
	// Without it the page says that the log was not verified.
	Verified *audit.VerifyReport
	// Failure is the error of a verification that failed.
	Failure error
	// Now is the time printed as the time of writing. Zero means the time of the
	// last record, so that the same log gives the same page.
	Now time.Time
	// MaxRows limits each table of single records: the page says how many it
	// leaves out. Zero means 1000.
	MaxRows int
}

//go:embed page.html.tmpl
var pageText string

// HTML writes the page for the records, as from [audit.Scan] with the filter of
// the auditor's question. Records are read once; memory grows with the number
// of different agents, operations and rows, not with that of records.
func HTML(w io.Writer, records iter.Seq2[audit.Record, error], opts *Options) error {
	var o Options
	if opts != nil {
		o = *opts
	}
	if o.Title == "" {
		o.Title = "Audit report"
	}
	if o.MaxRows == 0 {
		o.MaxRows = 1000
	}
	p := newPage(o)
	for r, err := range records {
		if err != nil {
			return fmt.Errorf("report: %w", err)
		}
		p.add(r)
	}
	p.finish()
	t, err := template.New("page").Funcs(template.FuncMap{
		"show": show, "when": when, "join": join, "ids": ids,
	}).Parse(pageText)
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if err := t.Execute(w, p); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
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

func join(s []string) string { return show(strings.Join(s, ", ")) }

func ids(d audit.Decision) string { return join(d.PolicyIDs()) }
