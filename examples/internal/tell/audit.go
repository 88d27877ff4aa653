package tell

import (
	"context"
	"errors"
	"os"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/report"
)

// Evidence is what a demonstration leaves behind: a closed log and its anchor.
type Evidence struct {
	Log    string // folder
	Anchor string // file
	Key    string // that verifies the log
	Report string // file to write
	Title  string // of the report
}

// Audit verifies the log as an auditor would, writes the report, and begins the
// summary with what came of that. Failure says why the log does not verify.
func (p *Printer) Audit(ctx context.Context, e Evidence) (s Summary, failure, err error) {
	anchor, err := os.ReadFile(e.Anchor)
	if err != nil {
		return s, nil, err
	}
	verified, failure := audit.Verify(ctx, os.DirFS(e.Log), &audit.VerifyOptions{Key: e.Key, Anchors: []string{string(anchor)}})
	s = Summary{Records: verified.Records, Verified: failure == nil, Root: verified.Root.String(),
		Log: e.Log, Anchor: e.Anchor, Key: e.Key, Report: e.Report}
	p.Tally(&s)
	f, err := os.Create(e.Report)
	if err != nil {
		return s, failure, err
	}
	return s, failure, errors.Join(report.HTML(f, audit.Scan(ctx, os.DirFS(e.Log), audit.Filter{}),
		&report.Options{Title: e.Title, Verified: &verified, Failure: failure}), f.Close())
}

// Tally puts the number of decisions into a summary.
func (p *Printer) Tally(s *Summary) {
	for _, l := range p.lines {
		if l.Decision == string(audit.Allow) {
			s.Allowed++
		} else {
			s.Denied++
		}
	}
}
