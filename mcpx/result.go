package mcpx

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/governance"
)

// What this door does with every answer of a tool, whether or not a permit
// demands it: it bounds its size, holds it to the schema that was approved, and
// lets the host say what kind of data it holds. What fails is withheld, and on
// record as done.

// defaultMaxAnswer bounds an answer, in bytes.
const defaultMaxAnswer = 4 << 20

// A ToolAnswer is what a tool returned, before the agent has it.
type ToolAnswer struct {
	Actor  audit.Actor
	Server string
	Tool   string
	Class  governance.Class
	// Labels are those that the catalogue gives the tool.
	Labels []string
	// Digest is "sha256:" and the hash of Result, in hexadecimal.
	Digest string
	// Result is the whole result as JSON, without known secrets. Do not change it.
	Result []byte
}

// A Labeler says what kind of data an answer holds, such as "pii", in addition to
// what the catalogue says of the tool. Policies find the labels in
// context.labels for the rest of the session, so that what was read can be kept
// from leaving. It is asked for each successful answer of a tool before the agent
// gets it, by many goroutines at once; an error withholds the answer.
type Labeler interface {
	Label(ctx context.Context, a ToolAnswer) (labels []string, err error)
}

// answers is what governs answers.
type answers struct {
	most    int64   // bytes; 0 is defaultMaxAnswer
	labeler Labeler // may be nil
}

func (a answers) limit() int64 {
	if a.most <= 0 {
		return defaultMaxAnswer
	}
	return a.most
}

// inspect looks at what came back for an allowed call. What it withholds leaves
// nothing of the answer.
func (g *governor) inspect(ctx context.Context, f *flight, r reply, out *audit.Outcome) (reply, error) {
	if isNilReply(r) {
		return r, nil
	}
	withhold := func(why, text string) (reply, error) {
		out.Bytes, out.Checks = 0, append(out.Checks, codeWithheld+":"+why)
		return nil, failed(codeWithheld, "The call was done, but "+text+" Do not repeat it.", false)
	}
	most := g.answers.limit()
	if out.Bytes == 0 {
		out.Bytes = r.size()
	}
	if out.Bytes > most {
		return withhold(audit.GuardSize, fmt.Sprintf("its answer is larger than the %d bytes that are passed on here. Ask for less.", most))
	}
	if f.kind != kindTool || r.failed() {
		return r, nil
	}
	def, _, _ := g.engine.Tool(f.server, f.tool)
	if len(def.OutputSchema) == 0 && g.answers.labeler == nil {
		return r, nil
	}
	text, err := r.text()
	if err != nil {
		return withhold("output-schema", "its answer cannot be read.")
	}
	if len(def.OutputSchema) > 0 {
		var structured []byte
		eachMember(text, func(key string, v []byte) bool {
			if key == "structuredContent" && string(v) != "null" {
				structured = v
			}
			return true
		})
		if err := g.engine.CheckOutput(f.server, f.tool, structured); err != nil {
			g.logger.Warn("mcpx: an answer is withheld", "server", f.server, "tool", f.tool, "error", err)
			return withhold("output-schema", "its answer is not what the tool was approved to return.")
		}
	}
	if g.answers.labeler == nil {
		return r, nil
	}
	sum := sha256.Sum256(text)
	labels, err := g.label(ctx, ToolAnswer{
		Actor: f.actor, Server: f.server, Tool: f.tool, Class: f.decision.Class,
		Labels: catalogLabels(f.decision), Digest: "sha256:" + hex.EncodeToString(sum[:]), Result: text,
	})
	if err != nil {
		g.logger.Error("mcpx: an answer is withheld because nobody can say what it holds", "server", f.server, "tool", f.tool, "error", err)
		return withhold("labels", "nobody can say what its answer holds.")
	}
	out.Labels = append(out.Labels, labels...)
	return r, nil
}

// label asks the host, and takes a panic for an error.
func (g *governor) label(ctx context.Context, a ToolAnswer) (labels []string, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("mcpx: panic in the Labeler: %v", p)
		}
	}()
	return g.answers.labeler.Label(ctx, a)
}

func catalogLabels(d governance.Decision) []string {
	if d.Facts == nil {
		return nil
	}
	return slices.Clone(d.Facts.Labels)
}

// split finds secrets that an upstream has cut into pieces, one in each text of
// its answer: a model reads the texts one after another.
func (g *Gateway) split(c *carriage, raw []byte) credential.Found {
	if len(g.scrubbers(c)) == 0 || !mayName(raw, "text") {
		return nil
	}
	var all []byte
	texts := 0
	d := jsontext.NewDecoder(bytes.NewReader(raw), jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true))
	for is := false; ; { // the value of a member that is called text
		kind, n := d.StackIndex(d.StackDepth())
		isName := kind == '{' && n%2 == 0
		tok, err := d.ReadToken()
		if err != nil {
			break
		}
		if is && tok.Kind() == '"' {
			all = append(all, tok.String()...)
			texts++
		}
		is = isName && tok.Kind() == '"' && tok.String() == "text"
	}
	if texts < 2 {
		return nil
	}
	_, found := g.redact(c, all)
	return found
}
