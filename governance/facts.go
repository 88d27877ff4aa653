package governance

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/governance/strictyaml"
)

// A FactKind says what a [Fact] tells about the acts that it watches.
type FactKind string

// The kinds of facts and their types in Cedar.
const (
	// CountWithin is how many there were within the window: Long.
	CountWithin FactKind = "count_within"
	// SumWithin is the sum of an argument over them: Long. A negative amount
	// counts as 0, so that nobody earns budget back; a sum that no Long holds
	// stays at the greatest Long.
	SumWithin FactKind = "sum_within"
	// DistinctWithin is how many different values an argument had: Long. Each
	// element of a set counts; an argument that is absent does not.
	DistinctWithin FactKind = "distinct_within"
	// Formerly is whether there was one within the window: Bool.
	Formerly FactKind = "formerly"
	// Since is whether there was one within the window with none of Reset after
	// it: Bool.
	Since FactKind = "since"
	// Last is when the latest one within the window was decided: datetime,
	// absent if there was none.
	Last FactKind = "last"
)

// Counts says from when on a fact counts an act.
type Counts string

const (
	// Started counts an act from its decision on, and no more when it is known
	// to have failed: for budgets and prohibitions. Acts under way count, so
	// that parallel calls cannot overdraw.
	Started Counts = "started"
	// Succeeded counts an act once it is known to have succeeded: for
	// preconditions. Reset acts then count from their start only: one that has
	// begun before an act of On, and ends after it, does not reset it.
	Succeeded Counts = "succeeded"
)

// Limits of facts.
const (
	// MaxFacts bounds the facts of a bundle.
	MaxFacts = 256
	// MaxFactWindow is the longest window.
	MaxFactWindow = 24 * time.Hour
	minFactWindow = time.Second
	maxFactFile   = 256 << 10
	maxFactPaths  = 4
)

// A Fact is a rule about history that policies can ask for as
// context.facts.<name>. It watches allowed acts and is kept up to date by the
// engine as they happen:
//
//	facts:
//	  - name: spent_1h
//	    kind: sum_within
//	    on: [payments__pay]
//	    of: /amount
//	    window: 1h
//	    per: agent
//	  - name: posts_here_10m
//	    kind: count_within
//	    on: ["slack:write"]
//	    key: [/channel]
//	    window: 10m
//	    per: agent
//	  - name: tests_passed
//	    kind: since
//	    on: [ci__run_tests]
//	    reset: [git__push]
//	    counts: succeeded
//	    window: 2h
//	    per: session
//
// A policy sees a fact as it was before the call that is decided:
//
//	forbid (principal, action == Action::"payments__pay", resource)
//	when { context.facts.spent_1h + context.args.amount > 1000 };
//
// What is denied or fails uses up nothing. Windows slide exactly: an act counts
// while it is younger than the window.
type Fact struct {
	// Name is how policies call it: [a-z][a-z0-9_]*, at most 64.
	Name        string   `yaml:"name"`
	Description string   `yaml:"description"`
	Kind        FactKind `yaml:"kind"`
	// On are the actions that it watches, as in a policy's scope: tools
	// ("slack__post_message"), groups ("slack:write", "write", "call_tool") and
	// other actions ("connect").
	On []string `yaml:"on"`
	// Reset are the actions that end it, for Since.
	Reset []string `yaml:"reset"`
	// Where restricts On to calls whose arguments have one of the given values,
	// by JSON Pointer: {/channel: ["#general", "#sales"]}. A value is text, a
	// whole number or a boolean. For actions that are no tools, the pointer leads
	// into [Request].Attrs. An absent argument has no value.
	Where map[string][]any `yaml:"where"`
	// Key keeps the fact apart for each value of these arguments, by JSON
	// Pointer, at most 4: it then tells about acts that had the same values as
	// the call that is decided. It is there only for actions that have these
	// arguments. An absent argument is a value of its own.
	Key []string `yaml:"key"`
	// Of is the argument that SumWithin and DistinctWithin are about, by JSON
	// Pointer. What is summed must be a required Long, of the same scale in all
	// actions that are watched.
	Of string `yaml:"of"`
	// Window is how far it looks back: 1 second to 24 hours.
	Window time.Duration `yaml:"window"`
	// Per is "agent" or "session". Agents that act without a session have one
	// for each instance of the agent.
	Per string `yaml:"per"`
	// Counts is [Started] when empty for CountWithin, SumWithin and
	// DistinctWithin. The other kinds must say it.
	Counts Counts `yaml:"counts"`

	file, text string // for positions
}

// factFile is one file of facts/.
type factFile struct {
	Facts []Fact `yaml:"facts"`
}

// ParseFacts reads a file of facts from strict YAML. What they say is checked by
// [Compile]. An error has file, line and column, and wraps [ErrBundle].
func ParseFacts(file string, text []byte) ([]Fact, error) {
	facts, bad := parseFacts(file, text)
	if bad != nil {
		return nil, fmt.Errorf("%w:\n%s", ErrBundle, bad)
	}
	return facts, nil
}

func parseFacts(file string, text []byte) ([]Fact, *Finding) {
	var f factFile
	if err := strictyaml.Unmarshal(file, text, maxFactFile, &f); err != nil {
		return nil, yamlFinding(file, err, "a file is facts: [{name, kind, on, window, per, …}]; keys are name, description, kind, on, reset, where, key, of, window, per and counts")
	}
	for i := range f.Facts {
		f.Facts[i].file, f.Facts[i].text = file, string(text)
	}
	return f.Facts, nil
}

// A factDef is a checked fact. It is immutable.
type factDef struct {
	name    string
	id      defID
	kind    FactKind
	counts  Counts
	window  time.Duration
	session bool
	text    string // see record
}

// defID identifies what a fact means, whatever its name.
type defID [8]byte

// record is the definition as it goes on record: enough to count by.
func (d *factDef) record() string {
	per := "agent"
	if d.session {
		per = "session"
	}
	return fmt.Sprintf("%s:%s:%s:%s:%s", d.kind, d.window, per, d.counts, hex.EncodeToString(d.id[:]))
}

// parseDef reads what record wrote.
func parseDef(name, text string) (*factDef, bool) {
	parts := strings.Split(text, ":")
	if len(parts) != 5 {
		return nil, false
	}
	window, err := time.ParseDuration(parts[1])
	id, bad := hex.DecodeString(parts[4])
	d := &factDef{name: name, kind: FactKind(parts[0]), window: window, session: parts[2] == "session", counts: Counts(parts[3])}
	if err != nil || bad != nil || copy(d.id[:], id) != len(d.id) || len(id) != len(d.id) ||
		window < minFactWindow || window > MaxFactWindow || d.record() != text {
		return nil, false
	}
	d.text = text
	_, known := factKinds[d.kind]
	return d, known && (d.counts == Started || d.counts == Succeeded)
}

// factKinds says of which type each kind is in Cedar.
var factKinds = map[FactKind]string{
	CountWithin: "Long", SumWithin: "Long", DistinctWithin: "Long", Formerly: "Bool", Since: "Bool", Last: "datetime",
}

var (
	factName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	// What Cedar's grammar keeps for itself.
	reserved = []string{"true", "false", "if", "then", "else", "in", "is", "like", "has"}
)

// define checks what needs no catalogue and makes the definition, but for its id.
func (f Fact) define(bad func(word, msg, fix string)) *factDef {
	before := false
	say := func(word, msg, fix string) { before = true; bad(word, msg, fix) }
	if len(f.Name) > 64 || !factName.MatchString(f.Name) || slices.Contains(reserved, f.Name) {
		say("name:", fmt.Sprintf("a fact is called %q", f.Name), "use a-z, 0-9 and _, a letter first, at most 64, and no word of Cedar's grammar")
	}
	of, isKind := f.Kind == SumWithin || f.Kind == DistinctWithin, factKinds[f.Kind] != ""
	budget := f.Kind == CountWithin || of
	switch {
	case !isKind:
		say(string(f.Kind), fmt.Sprintf("fact %q has kind %q", f.Name, f.Kind), "kinds are count_within, sum_within, distinct_within, formerly, since and last")
	case of != (f.Of != ""):
		say(f.Name, fmt.Sprintf("fact %q: of and kind %q do not go together", f.Name, f.Kind), "say of: with the argument to sum or to tell apart, for sum_within and distinct_within only")
	case (f.Kind == Since) != (len(f.Reset) > 0):
		say(f.Name, fmt.Sprintf("fact %q: reset and kind %q do not go together", f.Name, f.Kind), "say reset: with the actions that end it, for since only")
	}
	if f.Window < minFactWindow || f.Window > MaxFactWindow {
		say(f.Name, fmt.Sprintf("fact %q has a window of %s", f.Name, f.Window), "say window: with 1s to 24h, such as 90m")
	}
	if f.Per != "agent" && f.Per != "session" {
		say(f.Name, fmt.Sprintf("fact %q is per %q", f.Name, f.Per), "say per: agent, or per: session")
	}
	counts := f.Counts
	if counts == "" && budget {
		counts = Started
	}
	if counts != Started && counts != Succeeded {
		say(f.Name, fmt.Sprintf("fact %q counts %q", f.Name, f.Counts), "say counts: started for what shall be forbidden afterwards, counts: succeeded for what must be done before")
	}
	if len(f.On) == 0 {
		say(f.Name, fmt.Sprintf("fact %q watches nothing", f.Name), "say on: with the actions to watch")
	}
	if len(f.Key) > maxFactPaths || len(f.Where) > maxFactPaths {
		say(f.Name, fmt.Sprintf("fact %q has %d keys and %d conditions", f.Name, len(f.Key), len(f.Where)), fmt.Sprintf("use at most %d of each", maxFactPaths))
	}
	for _, p := range f.paths() {
		if _, ok := pointer(p); !ok {
			say(p, fmt.Sprintf("fact %q: %q is no JSON Pointer", f.Name, p), `write "/channel", or "/message/text" for a nested one`)
		}
	}
	if before {
		return nil
	}
	return &factDef{name: f.Name, kind: f.Kind, counts: counts, window: f.Window, session: f.Per == "session"}
}

// identify gives the definition its id: what the fact says, in units of the
// arguments that it is about. An amount in cents is not one in euros.
func (d *factDef) identify(f Fact, units []string) {
	text := f.canonical(d.counts)
	if len(units) > 0 {
		text = append(append(text, '\n'), strings.Join(units, "\n")...)
	}
	sum := sha256.Sum256(text)
	copy(d.id[:], sum[:])
	d.text = d.record()
}

// paths returns all pointers that the fact uses, in order.
func (f Fact) paths() []string {
	out := slices.Concat(f.Key, slices.Sorted(maps.Keys(f.Where)))
	if f.Of != "" {
		out = append(out, f.Of)
	}
	return out
}

// canonical is everything that the fact means, but not its name.
func (f Fact) canonical(counts Counts) []byte {
	sorted := func(s []string) []string { return slices.Compact(slices.Sorted(slices.Values(s))) }
	text, err := json.Marshal([]any{f.Kind, sorted(f.On), sorted(f.Reset), f.Where, f.Key, f.Of, f.Window, f.Per, counts})
	if err != nil {
		// Of a host that put something odd into Where; checked later.
		return fmt.Append(nil, f)
	}
	return text
}

// finding reports a mistake where the fact's file has word, after its name.
func (f Fact) finding(code string, severity Severity, word, msg, fix string) Finding {
	file := f.file
	if file == "" {
		file = "facts"
	}
	out := Finding{Code: code, Severity: severity, File: file, Message: msg, Fix: fix}
	if f.text != "" {
		at := max(0, offsetOf(f.text, f.Name))
		if word != "" && word != f.Name {
			if i := strings.Index(f.text[at:], word); i >= 0 {
				at += i
			}
		}
		out.Line, out.Column = newLines(f.text).at(at)
	}
	return out
}

// pointer splits a JSON Pointer into names.
func pointer(p string) ([]string, bool) {
	if !strings.HasPrefix(p, "/") || len(p) > 256 {
		return nil, false
	}
	parts := strings.Split(p[1:], "/")
	for i, s := range parts {
		s = strings.ReplaceAll(strings.ReplaceAll(s, "~1", "/"), "~0", "~")
		if s == "" {
			return nil, false
		}
		parts[i] = s
	}
	return parts, true
}
