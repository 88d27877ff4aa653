package mcpx

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"unicode"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// SearchTool is the name of the gateway's own tool that finds others: see
// [Search]. No upstream can have it, since names of servers hold no underscore.
const SearchTool = ownPrefix + "search_tools"

// ownPrefix begins the names of the gateway's own tools.
const ownPrefix = "_gateway__"

// A Search shortens long lists of tools, which cost a model attention and money:
// an agent that may use more than a few is listed [SearchTool] alone, and asks it
// for those that fit what it is about to do. What it finds it calls by name, as
// ever. It finds nothing that the agent could not use, and each search is on
// record, with its size and that of the whole list.
type Search struct {
	// Above is the length of a list that is still shown as it is. Zero means 32.
	Above int
	// Most is how many tools one search returns. Zero means 12.
	Most int
	// Always are names of tools, "<server>__<tool>", that are listed besides.
	Always []string
}

const (
	defaultAbove = 32
	defaultMost  = 12
	maxMost      = 100
	maxQuery     = 512      // bytes
	maxFound     = 64 << 10 // bytes of one answer, unless one tool alone is larger
)

// An index is what searches of one snapshot's tools look through.
type index struct {
	of    *offers
	tools []indexed // sorted by name
	at    map[string]int
}

type indexed struct {
	name  string
	ref   governance.ToolRef
	tool  json.RawMessage // as it is listed
	words map[string]int  // weights
}

// A searcher finds tools.
type searcher struct {
	opts  Search
	index atomic.Pointer[index]
}

func newSearcher(opts *Search) *searcher {
	if opts == nil {
		return nil
	}
	s := &searcher{opts: *opts}
	s.opts.Above, s.opts.Most = cmp.Or(max(s.opts.Above, 0), defaultAbove), min(cmp.Or(max(s.opts.Most, 0), defaultMost), maxMost)
	return s
}

// of returns the index of what is offered now.
func (s *searcher) of(o *offers) *index {
	if x := s.index.Load(); x != nil && x.of == o {
		return x
	}
	x := &index{of: o, at: make(map[string]int)}
	for _, server := range o.catalog {
		for _, t := range server.Tools {
			name := o.name(server.Name, t.Name)
			if _, offered := o.tools[name]; !offered {
				continue
			}
			listed, err := toTool(name, t.ToolDefinition)
			if err != nil {
				continue
			}
			text, err := json.Marshal(listed)
			if err != nil {
				continue
			}
			x.tools = append(x.tools, indexed{name, governance.ToolRef{Server: server.Name, Name: t.Name}, text, wordsOf(server.Name, t.ToolDefinition)})
		}
	}
	slices.SortFunc(x.tools, func(a, b indexed) int { return cmp.Compare(a.name, b.name) })
	for i, t := range x.tools {
		x.at[t.name] = i
	}
	s.index.Store(x)
	return x
}

// wordsOf weighs the words of a definition: those of its name most, then those
// of its title and description, and the names of its arguments.
func wordsOf(server string, d governance.ToolDefinition) map[string]int {
	words := make(map[string]int)
	add := func(text string, weight int) {
		for _, w := range wordsIn(text) {
			words[w] = max(words[w], weight)
		}
	}
	var schema struct {
		Properties map[string]json.RawMessage `json:"properties"`
	}
	_ = json.Unmarshal(d.InputSchema, &schema)
	for name := range schema.Properties {
		add(name, 1)
	}
	add(d.Description, 2)
	add(d.Title, 3)
	add(server, 4)
	add(d.Name, 6)
	return words
}

// wordsIn splits a text at everything but letters and digits, and at capitals.
func wordsIn(text string) []string {
	var b strings.Builder
	last := ' '
	for _, r := range text {
		if unicode.IsUpper(r) && unicode.IsLower(last) {
			b.WriteByte(' ')
		}
		b.WriteRune(unicode.ToLower(r))
		last = r
	}
	return strings.FieldsFunc(b.String(), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
}

// score is how well a tool fits a query: the weights of the words that both
// have, and half of those that begin alike.
func (t indexed) score(query []string) int {
	sum := 0
	for _, q := range query {
		best := 2 * t.words[q]
		if best == 0 && len(q) >= 3 {
			for w, weight := range t.words {
				if strings.HasPrefix(w, q) || len(w) >= 3 && strings.HasPrefix(q, w) {
					best = max(best, weight)
				}
			}
		}
		sum += best
	}
	return sum
}

// find returns the tools of those that fit a query best, the best first.
func find(tools []indexed, query string, most int) []indexed {
	type hit struct {
		indexed
		score int
	}
	words := wordsIn(query)
	var hits []hit
	for _, t := range tools {
		if n := t.score(words); n > 0 {
			hits = append(hits, hit{t, n})
		}
	}
	slices.SortFunc(hits, func(a, b hit) int { return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.name, b.name)) })
	var out []indexed
	for _, h := range hits[:min(len(hits), most)] {
		out = append(out, h.indexed)
	}
	return out
}

// definition is the search tool as it is listed.
func (s *searcher) definition() *mcp.Tool {
	return &mcp.Tool{
		Name: SearchTool, Title: "Search for tools",
		Description: "Finds the tools that fit what you are about to do. Not all tools that you may use are listed: search for them in a few words, such as \"post a message to slack\", and then call what is found by its name.",
		InputSchema: json.RawMessage(`{"type":"object","properties":{"query":{"type":"string","maxLength":` + strconv.Itoa(maxQuery) + `},"limit":{"type":"integer","minimum":1,"maximum":` + strconv.Itoa(s.opts.Most) + `}},"required":["query"],"additionalProperties":false}`),
		Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true},
	}
}

// shorten puts the search tool in the place of a long list of what an actor may
// use, and notes what that saves.
func (g *Gateway) shorten(tools []*mcp.Tool, notes map[string]string) []*mcp.Tool {
	if g.search == nil || len(tools) <= g.search.opts.Above {
		return tools
	}
	x := g.search.of(g.offered.Load())
	all, own := 0, g.search.definition()
	out := []*mcp.Tool{own}
	for _, t := range tools {
		if i, ok := x.at[t.Name]; ok {
			all += len(x.tools[i].tool)
		}
		if slices.Contains(g.search.opts.Always, t.Name) {
			out = append(out, t)
		}
	}
	shown := 0
	for _, t := range out {
		text, _ := json.Marshal(t)
		shown += len(text)
	}
	notes["bytes"], notes["of_bytes"] = strconv.Itoa(shown), strconv.Itoa(all)
	return out
}

// found is what a search answers.
type found struct {
	Tools []json.RawMessage `json:"tools"`
	// More says that there are others that fit.
	More bool `json:"more,omitempty"`
}

// searchTools is a call of the search tool: strict arguments, only what the actor
// could use, on record before it is answered.
func (g *Gateway) searchTools(ctx context.Context, q *query) (reply, error) {
	if g.gov.engine.Hash() == "" {
		return g.gov.no(ctx, q, refused(audit.GuardNoSnapshot))
	}
	var args struct {
		Query string `json:"query"`
		Limit *int   `json:"limit"`
	}
	most := g.search.opts.Most
	err := jsonv2.Unmarshal(q.args, &args, jsonv2.RejectUnknownMembers(true))
	if err == nil && args.Limit != nil {
		if most = min(*args.Limit, most); *args.Limit < 1 {
			err = fmt.Errorf("limit %d", *args.Limit)
		}
	}
	if err != nil || len(args.Query) > maxQuery || strings.TrimSpace(args.Query) == "" {
		return g.gov.no(ctx, q, refused(audit.GuardArguments))
	}
	x := g.search.of(g.offered.Load())
	ref := func(t indexed) governance.ToolRef { return t.ref }
	mine, err := visible(ctx, g.gov, q, "call_tool", x.tools, ref)
	if err != nil {
		return g.gov.no(ctx, q, unseen(err))
	}
	mine, withheld, no := listed(ctx, g.gov, q, mine, ref)
	if no != nil {
		return g.gov.no(ctx, q, *no)
	}
	hits := find(mine, args.Query, most+1)
	out := found{Tools: []json.RawMessage{}}
	size := 0
	for i, t := range hits {
		if size += len(t.tool); i == most || i > 0 && size > maxFound {
			out.More = true
			break
		}
		out.Tools = append(out.Tools, t.tool)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(out); err != nil {
		return g.gov.no(ctx, q, refused(audit.GuardPanic))
	}
	all := 0
	for _, t := range mine {
		all += len(t.tool)
	}
	text := strings.TrimSpace(b.String())
	detail := map[string]string{
		"shown": strconv.Itoa(len(out.Tools)), "of": strconv.Itoa(len(mine)), "bytes": strconv.Itoa(len(text)), "of_bytes": strconv.Itoa(all),
		audit.DetailPolicyHash: g.gov.engine.Hash(),
	}
	if len(withheld) > 0 {
		detail["withheld"] = clip(strings.Join(withheld, " "), 512)
	}
	err = g.gov.log.Append(ctx, audit.Event{
		Kind: audit.KindList, Door: audit.DoorTool, Action: "search_tools", Resource: `Server::"*"`, Actor: q.actor, Args: q.args, Trace: q.trace, Detail: detail,
	})
	if err != nil {
		g.gov.logger.Error("mcpx: a search could not be recorded, so it is refused", "error", err)
		r := refused(codeAudit)
		r.retryable = true
		return nil, r
	}
	res := &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: text}}}
	return typedReply{res}.raw()
}
