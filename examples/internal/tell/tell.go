// Package tell is how the demonstrations print what was decided: a line for each
// decision and a summary, for people or for machines.
package tell

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
)

// A Line is one decision, as it is printed with -json.
type Line struct {
	Step     string   `json:"step"`
	Door     string   `json:"door"`
	Action   string   `json:"action"`
	Resource string   `json:"resource"`
	Decision string   `json:"decision"`
	Policies []string `json:"policies"`
	Reason   string   `json:"reason"`
	Record   uint64   `json:"record"`

	Agent string `json:"-"`
}

// A Summary is the last line of -json.
type Summary struct {
	Allowed  int      `json:"allowed"`
	Denied   int      `json:"denied"`
	Records  uint64   `json:"records"`
	Verified bool     `json:"verified"`
	Root     string   `json:"root"`
	Layers   []string `json:"layers"`
	Log      string   `json:"log"`
	Anchor   string   `json:"anchor"`
	Key      string   `json:"key"`
	Report   string   `json:"report"`
	Secrets  int      `json:"secrets_seen_by_agent"`
	// Steps and Seen are of demonstrations with an adversary: what each of its
	// steps came to, and what was seen from outside.
	Steps []Step `json:"steps,omitempty"`
	Seen  any    `json:"seen,omitempty"`
}

// A Step is one step of an adversary.
type Step struct {
	Name string `json:"name"`
	Says string `json:"says"`
	// Held is what held it: a policy, a guard, or a reason. Empty: nothing did.
	Held string `json:"held"`
	// Happened reports whether it came to pass, as seen from outside.
	Happened bool `json:"happened"`
}

// A Printer shows the story, for people or for machines.
type Printer struct {
	out    io.Writer
	json   bool
	colour bool
	lines  []Line
}

// NewPrinter prints to out; with asJSON one JSON object a line.
func NewPrinter(out io.Writer, asJSON bool) *Printer {
	p := &Printer{out: out, json: asJSON}
	if f, ok := out.(*os.File); ok && os.Getenv("NO_COLOR") == "" {
		info, err := f.Stat()
		p.colour = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

// Say prints a sentence that is not a decision. Machines do not get it.
func (p *Printer) Say(format string, args ...any) {
	if !p.json {
		fmt.Fprintf(p.out, format+"\n", args...)
	}
}

// Decision prints one line. Says is it in words.
func (p *Printer) Decision(l Line, says string) {
	if p.Count(l); p.json {
		return
	}
	mark, colour := "allow", "\x1b[32m"
	if l.Decision != "allow" {
		mark, colour = "DENY ", "\x1b[31m"
	}
	because := strings.Join(l.Policies, ", ")
	if because == "" || strings.HasPrefix(l.Reason, "not-in-profile") {
		because = l.Reason
	}
	fmt.Fprintf(p.out, "%4d  %s  %-8s %-38s %s\n", l.Record, p.paint(mark, colour), l.Door, says, p.paint(because, "\x1b[2m"))
}

// Count takes note of a decision of which people see no line of its own.
func (p *Printer) Count(l Line) {
	if p.lines = append(p.lines, l); p.json {
		p.encode(l)
	}
}

// Lines are the decisions that were printed.
func (p *Printer) Lines() []Line { return p.lines }

// short leaves out the folders of a file, which make every row of a table wide.
func short(resource string) string {
	if path, ok := strings.CutPrefix(resource, `File::"`); ok {
		return "…/" + filepath.Base(strings.TrimSuffix(path, `"`))
	}
	return resource
}

func (p *Printer) paint(s, colour string) string {
	if !p.colour {
		return s
	}
	return colour + s + "\x1b[0m"
}

func (p *Printer) encode(v any) {
	_ = json.NewEncoder(p.out).Encode(v) // a closed terminal is not an error of the story
}

// Close prints the table of what was decided, and the summary.
func (p *Printer) Close(s Summary) {
	if p.json {
		p.encode(map[string]Summary{"summary": s})
		return
	}
	fmt.Fprintln(p.out)
	table := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "WHO\tWHAT\tTIMES\tDECISION\tPOLICIES OR CAUSE")
	var order []string
	count := map[string]int{}
	for _, l := range p.lines {
		because := strings.Join(l.Policies, ", ")
		if because == "" || strings.HasPrefix(l.Reason, "not-in-profile") {
			because = l.Reason
		}
		what := l.Action
		if l.Door != "tool" {
			what = l.Action + " " + short(l.Resource)
		}
		row := fmt.Sprintf("%s\t%s\t%%d\t%s\t%s\n", l.Agent, strings.ReplaceAll(what, "%", "%%"), l.Decision, because)
		if count[row]++; count[row] == 1 {
			order = append(order, row)
		}
	}
	for _, row := range order {
		fmt.Fprintf(table, row, count[row])
	}
	table.Flush()
	verdict := p.paint("verified against its anchor", "\x1b[32m")
	if !s.Verified {
		verdict = p.paint("NOT VERIFIED", "\x1b[31m")
	}
	fmt.Fprintf(p.out, "\n%d allowed, %d denied; %d records, %s, root %s\n", s.Allowed, s.Denied, s.Records, verdict, s.Root)
	if len(s.Layers) > 0 {
		fmt.Fprintf(p.out, "walls: %s\n", strings.Join(s.Layers, ", "))
	}
	fmt.Fprintf(p.out, "secrets of the vault that the agent could see: %d\n\n", s.Secrets)
	fmt.Fprintf(p.out, "log     %s\nanchor  %s\nreport  %s\n", s.Log, s.Anchor, s.Report)
	fmt.Fprintf(p.out, "check it yourself:\n  go run ./audit/cmd/twinward-audit verify -key '%s' -anchor %s %s\n", s.Key, s.Anchor, s.Log)
}
