package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/token"
)

// ImportOpenShell reads a policy file of NVIDIA OpenShell (its policy schema 1)
// and returns a policy of this package that allows the same or less, with a
// report of what became tighter and what was left out. [Policy.YAML] writes it
// as a file to look at and keep. name is what errors call
// the file, of at most 64 KiB. What cannot be said here is an error, a
// [*PolicyError] with line and column for each: nothing is dropped that the
// original would have checked.
//
// Allowed is what the original allows to a program itself, by host, port, method
// and canonical path, in the narrowest of the readings that its documents and
// its code give to a glob; refused is what the widest reading refuses. A program
// that is on no list gains nothing from one that started it. The reverse is so
// too: where the original puts a parent's restrictions on top of a program's own
// list, the import does not; the report says for which hosts (Differs).
//
//   - enforcement: audit, and landlock: best_effort, become enforced.
//   - Rules of several blocks about one host, port and program are joined, a
//     restricted endpoint deciding over an unrestricted one, and deny_rules over
//     all, as they do there.
//   - protocol: rest becomes https, or http on port 80.
//   - Wildcards in binaries, queries in allow rules, allowed_ips, middlewares and
//     the protocols websocket, graphql, mcp, json-rpc and sql cannot be said. MCP
//     servers are governed by a gateway of package mcpx, which sees arguments as
//     well and is served with [Session.Handle].
//   - /sandbox, /tmp, /proc, /dev and /etc are always the session's own.
func ImportOpenShell(name string, text []byte) (*Policy, *ImportReport, error) {
	i := &importer{policyReader: policyReader{file: name, places: make(map[string]*token.Position)}}
	o := i.read(text)
	p := &Policy{Version: 1}
	if o != nil {
		i.files(o, p)
		i.hosts(o, p)
	}
	if len(i.errs) == 0 {
		p.check(func(field, problem, fix string) {
			i.bad(i.place(i.origin(field)), field, problem, fix)
		}, func(field string) string {
			if at := i.place(i.origin(field)); at != nil {
				return fmt.Sprintf("line %d", at.Line)
			}
			return field
		})
	}
	if len(i.errs) > 0 {
		return nil, nil, i.sorted()
	}
	for _, list := range [][]ImportNote{i.report.Tightened, i.report.Dropped, i.report.Added, i.report.Differs} {
		slices.SortStableFunc(list, func(a, b ImportNote) int {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
		})
	}
	return p, &i.report, nil
}

// An ImportReport says how an imported policy differs from what it was read
// from.
type ImportReport struct {
	// Tightened are parts that allow less than the original.
	Tightened []ImportNote
	// Dropped are parts that mean nothing here, as a session does the same or
	// better without being told.
	Dropped []ImportNote
	// Added are paths that programs need and that the original has without naming
	// them.
	Added []ImportNote
	// Differs are parts that mean something else in rare cases.
	Differs []ImportNote
}

// An ImportNote is one line of a report. Line and Column are those of the
// original.
type ImportNote struct {
	Line, Column int
	Field, Text  string
}

// String returns the report, a line for each note.
func (r *ImportReport) String() string {
	var b strings.Builder
	for _, part := range []struct {
		word string
		list []ImportNote
	}{{"tightened", r.Tightened}, {"dropped", r.Dropped}, {"added", r.Added}, {"differs", r.Differs}} {
		for _, n := range part.list {
			fmt.Fprintf(&b, "%s %d:%d %s: %s\n", part.word, n.Line, n.Column, n.Field, n.Text)
		}
	}
	return b.String()
}

// An importer reads OpenShell's form and writes ours.
type importer struct {
	policyReader
	report  ImportReport
	origins []string // of each rule that was written: its place in the original
}

// origin returns the place in the original of a field of the policy that was
// written.
func (i *importer) origin(field string) string {
	var n int
	if _, err := fmt.Sscanf(field, "network.allow[%d]", &n); err == nil && n < len(i.origins) {
		return i.origins[n]
	}
	if strings.HasPrefix(field, "filesystem") {
		return "filesystem_policy"
	}
	return field
}

func (i *importer) note(list *[]ImportNote, field, format string, args ...any) {
	n := ImportNote{Field: field, Text: fmt.Sprintf(format, args...)}
	if at := i.place(field); at != nil {
		n.Line, n.Column = at.Line, at.Column
	}
	if !slices.Contains(*list, n) {
		*list = append(*list, n)
	}
}

func (i *importer) tightened(field, format string, args ...any) {
	i.note(&i.report.Tightened, field, format, args...)
}

func (i *importer) dropped(field, format string, args ...any) {
	i.note(&i.report.Dropped, field, format, args...)
}

// refuse reports what cannot be said in our form, once for each place.
func (i *importer) refuse(field, problem, fix string) {
	if slices.ContainsFunc(i.errs, func(e *PolicyError) bool { return inside(e.Field, field) || inside(field, e.Field) }) {
		return
	}
	i.bad(i.place(field), field, problem, fix)
}

// sorted returns the errors in the order of the file.
func (r *policyReader) sorted() error {
	slices.SortStableFunc(r.errs, func(a, b *PolicyError) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	errs := make([]error, len(r.errs))
	for i, e := range r.errs {
		errs[i] = e
	}
	return errors.Join(errs...)
}
