package governance

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// ErrBundle is wrapped by every error about the contents of a bundle.
var ErrBundle = errors.New("governance: the bundle is not usable")

// A Severity says what a finding does to a bundle.
type Severity string

const (
	// SeverityError blocks: no snapshot is made.
	SeverityError Severity = "error"
	// SeverityWarning is very likely a mistake. It blocks where
	// [Options.WarningsBlock] says so.
	SeverityWarning Severity = "warning"
	// SeverityInfo is worth knowing, and no mistake.
	SeverityInfo Severity = "info"
)

// severities from worst to least.
var severities = []Severity{SeverityError, SeverityWarning, SeverityInfo}

// A Finding is one thing that Compile has to say about a bundle.
type Finding struct {
	// Code names the kind of finding, such as "impossible". Codes are stable, so
	// that a build can refer to them; they are listed at [Compile].
	Code     string
	Severity Severity
	// File, Line and Column say where; Line is 0 when the finding is about the
	// file as a whole, File is "" when it is about the bundle as a whole.
	File         string
	Line, Column int
	// Policy is the @id of the policy concerned, if any.
	Policy string
	// Message says what is wrong, Fix what to do about it.
	Message string
	Fix     string
}

// Position is file:line:column, as far as known.
func (f Finding) Position() string {
	switch {
	case f.File == "":
		return "bundle"
	case f.Line == 0:
		return f.File
	}
	return fmt.Sprintf("%s:%d:%d", f.File, f.Line, f.Column)
}

// String is one line: position, severity, policy, message, fix and code.
func (f Finding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s: ", f.Position(), f.Severity)
	if f.Policy != "" {
		fmt.Fprintf(&b, "policy %q: ", f.Policy)
	}
	b.WriteString(f.Message)
	if f.Fix != "" {
		fmt.Fprintf(&b, " (%s)", f.Fix)
	}
	if f.Code != "" {
		fmt.Fprintf(&b, " [%s]", f.Code)
	}
	return b.String()
}

// A Report is what Compile found, worst first and then by position.
type Report struct {
	Findings []Finding
	// Hash is that of the snapshot, "" when there is none.
	Hash string
	// Author and Reviewer are whose signatures the bundle carries, where
	// [Options.Signers] asks for them.
	Author, Reviewer string
	// Policies counts those written by people, Generated those made from
	// profiles, Tools the approved tools.
	Policies, Generated, Tools int
}

// Err is nil unless a finding blocks. It wraps [ErrBundle] and its text has one
// line for each blocking finding.
func (r Report) Err() error {
	var lines []string
	for _, f := range r.Findings {
		if f.Severity == SeverityError {
			lines = append(lines, f.String())
		}
	}
	if len(lines) == 0 {
		return nil
	}
	return fmt.Errorf("%w:\n%s", ErrBundle, strings.Join(lines, "\n"))
}

func (r *Report) add(f Finding) { r.Findings = append(r.Findings, f) }

func (r *Report) blocked() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Severity == SeverityError })
}

// promote turns the warnings of these codes, or all for "*", into errors.
func (r *Report) promote(codes []string) {
	for i := range r.Findings {
		f := &r.Findings[i]
		if f.Severity == SeverityWarning && (slices.Contains(codes, f.Code) || slices.Contains(codes, "*")) {
			f.Severity = SeverityError
		}
	}
}

func (r *Report) sort() {
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(
			slices.Index(severities, a.Severity)-slices.Index(severities, b.Severity),
			strings.Compare(a.File, b.File),
			a.Line-b.Line,
			a.Column-b.Column,
			strings.Compare(a.Message, b.Message),
		)
	})
}

// lines finds line and column of an offset, both counted from 1, columns in
// characters.
type lines struct {
	text   string
	starts []int
	before []int // characters before each block of the text: a line may be long
}

// block is what lines counts characters of for one answer, at most twice.
const block = 1 << 10

func newLines(text string) lines {
	l := lines{text: text, starts: []int{0}}
	n := 0
	for i := range len(text) {
		if i%block == 0 {
			l.before = append(l.before, n)
		}
		if utf8.RuneStart(text[i]) {
			n++
		}
		if text[i] == '\n' {
			l.starts = append(l.starts, i+1)
		}
	}
	l.before = append(l.before, n)
	return l
}

func (l lines) at(offset int) (line, column int) {
	offset = max(0, min(offset, len(l.text)))
	n, exact := slices.BinarySearch(l.starts, offset)
	if !exact {
		n--
	}
	return n + 1, l.characters(offset) - l.characters(l.starts[n]) + 1
}

// characters returns how many begin before an offset.
func (l lines) characters(offset int) int {
	from := offset - offset%block
	n := l.before[from/block]
	for i := from; i < offset; i++ {
		if utf8.RuneStart(l.text[i]) {
			n++
		}
	}
	return n
}
