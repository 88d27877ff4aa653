package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/twinward-dev/twinward/audit"
)

// A Phrase is how an operation is called in a sentence about it. With
//
//	Phrase{Did: "posted", Do: "post", One: "standup summary", Many: "standup summaries"}
//
// the sentences are "posted 12 standup summaries", "failed to post 1 standup
// summary" and "tried to post 2 standup summaries: denied by policy …". Without
// Many, One is a name and times are counted:
//
//	Phrase{Did: "queried", Do: "query", One: "Snowflake"}
//
// gives "tried to query Snowflake once: denied …". Without Did and Do these are
// "called" and "call", so that a title from the catalogue is a phrase:
// Phrase{One: tool.Title}.
type Phrase struct {
	Did  string `json:"did,omitempty"`
	Do   string `json:"do,omitempty"`
	One  string `json:"one"`
	Many string `json:"many,omitempty"`
}

// phrases are those for the actions that every host has. Actions of tools are
// named by [Options.Phrases].
var phrases = map[opKey]Phrase{
	{audit.DoorCompute, "connect"}:         {"opened", "open", "connection", "connections"},
	{audit.DoorCompute, "exec"}:            {"ran", "run", "command", "commands"},
	{audit.DoorModel, "invoke_model"}:      {"made", "make", "model call", "model calls"},
	{audit.DoorModel, "embed"}:             {"made", "make", "embedding call", "embedding calls"},
	{audit.DoorModel, "count_tokens"}:      {"counted tokens of", "count tokens of", "prompt", "prompts"},
	{audit.DoorModel, "list_models"}:       {"listed", "list", "the models", ""},
	{audit.DoorModel, "use_hosted_tool"}:   {"used", "use", "a hosted tool of a model", ""},
	{audit.DoorTool, "list_tools"}:         {"listed", "list", "tools", ""},
	{audit.DoorTool, "get_prompt"}:         {"fetched", "fetch", "prompt", "prompts"},
	{audit.DoorTool, "read_resource"}:      {"read", "read", "resource", "resources"},
	{audit.DoorTool, "complete"}:           {"asked for", "ask for", "completion", "completions"},
	{audit.DoorTool, "subscribe"}:          {"subscribed to", "subscribe to", "resource", "resources"},
	{audit.DoorAdmin, "issue_token"}:       {"got", "get", "token", "tokens"},
	{audit.DoorTool, audit.ActionRequest}:  {"sent", "send", "request that named no operation", "requests that named no operation"},
	{audit.DoorModel, audit.ActionRequest}: {"sent", "send", "request that named no operation", "requests that named no operation"},
}

func (c *collector) phrase(door, action string) Phrase {
	p, ok := c.o.Phrases[action]
	if !ok || p.One == "" {
		p, ok = phrases[opKey{door, action}]
	}
	if !ok {
		p = Phrase{One: action}
	}
	p.Did, p.Do = cmp.Or(p.Did, "called"), cmp.Or(p.Do, "call")
	return p
}

// sentences are what an agent did, the most frequent first, and then what went
// otherwise.
func (c *collector) sentences(a *agentState, denials []*Denial) []Sentence {
	var list []Sentence
	for _, op := range a.ops {
		p := c.phrase(op.Door, op.Action)
		for status := done; status <= unfinished; status++ {
			if n := *op.Tally.of(status); n > 0 {
				text := p.say(status, n)
				if status == done {
					text += where(op.Door, op.Resources)
				}
				list = append(list, Sentence{text, statusWords[status], op.Door, op.Action, n, op.firsts[status]})
			}
		}
	}
	list = append(list, c.refusals(denials)...)
	rank := func(s Sentence) int { return slices.Index(statusWords[:], s.Status) }
	slices.SortFunc(list, func(x, y Sentence) int {
		return cmp.Or(cmp.Compare(rank(x), rank(y)), cmp.Compare(y.Count, x.Count), cmp.Compare(x.Door, y.Door), cmp.Compare(x.Action, y.Action), cmp.Compare(x.Text, y.Text))
	})
	return list
}

// refusals are the sentences about denials: one for each operation and cause.
func (c *collector) refusals(denials []*Denial) []Sentence {
	type key struct{ door, action, cause string }
	type group struct {
		Sentence
		where Few
	}
	groups := map[key]*group{}
	for _, d := range denials {
		k := key{d.Door, d.Action, d.Cause}
		g, ok := groups[k]
		if !ok {
			g = &group{Sentence: Sentence{"", statusWords[denied], d.Door, d.Action, 0, d.First}}
			groups[k] = g
		}
		g.Count += d.Count
		g.where.add(nameOf(d.Resource))
		if d.First.Time.Before(g.First.Time) {
			g.First = d.First
		}
	}
	var list []Sentence
	for k, g := range groups {
		g.Text = c.phrase(k.door, k.action).say(denied, g.Count) + where(k.door, g.where) + ": " + k.cause
		list = append(list, g.Sentence)
	}
	return list
}

// say is a sentence without its subject.
func (p Phrase) say(status int, n uint64) string {
	what := p.One + " " + times(n)
	if p.Many != "" {
		what = plural(n, p.One, p.Many)
	}
	switch status {
	case done:
		return p.Did + " " + what
	case failed:
		return "failed to " + p.Do + " " + what
	case cancelled:
		return "began to " + p.Do + " " + what + ", cancelled"
	case unfinished:
		return "began to " + p.Do + " " + what + ", with no outcome on record"
	}
	return "tried to " + p.Do + " " + what
}

// where names a few resources, when they say more than the action.
func where(door string, f Few) string {
	if len(f.List) == 0 || door != audit.DoorCompute && door != audit.DoorModel {
		return ""
	}
	const most = 3
	s := strings.Join(f.List[:min(most, len(f.List))], ", ")
	if f.More || len(f.List) > most {
		s += ", …"
	}
	return " (" + s + ")"
}

func plural(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func times(n uint64) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	}
	return fmt.Sprintf("%d times", n)
}
