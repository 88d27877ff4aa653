package mcpx

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// What this door does with an answer where a permit demands it; rates are the
// engine's. Streams are not answers, so that listening meets nothing.
var (
	meetsForTools   = []string{governance.ObligationMaxBytes, governance.ObligationRedact}
	meetsWithPeople = append([]string{governance.ObligationApproval}, meetsForTools...)
	meetsForOthers  = []string{governance.ObligationMaxBytes}
	meetsForReading = append([]string{governance.ObligationApproval}, meetsForOthers...)
)

// meetsForTools are what this door does where there is somebody to ask, or not.
func (g *governor) meetsForTools() []string {
	if g.approver == nil {
		return meetsForTools
	}
	return meetsWithPeople
}

// meetsFor are the same for what is not a tool. People are asked about what is
// read once, not about what goes on by itself.
func (g *governor) meetsFor(action string) []string {
	if g.approver != nil && (action == "get_prompt" || action == "read_resource") {
		return meetsForReading
	}
	return meetsForOthers
}

// codeWithheld is the outcome of a call that was done and whose answer was not
// given to the agent.
const codeWithheld = "withheld"

// meet does to an answer what the decision demands. What cannot be done leaves
// nothing of the answer.
func meet(d governance.Decision, r reply, out *audit.Outcome) (reply, error) {
	if len(d.Obligations) == 0 || isNilReply(r) {
		return r, nil
	}
	withhold := func(why, text string) (reply, error) {
		out.Bytes, out.Checks = 0, append(out.Checks, codeWithheld+":"+why)
		return nil, failed(codeWithheld, "The call was done, but "+text+" Do not repeat it.", false)
	}
	demands, err := d.Demands()
	if err != nil {
		return withhold(audit.GuardObligation, "its answer may not be given to you.")
	}
	if !demands.Redact.Empty() {
		res, err := r.result()
		tool, ok := res.(*mcp.CallToolResult)
		if err != nil || !ok || len(tool.InputRequests) > 0 {
			return withhold(governance.ObligationRedact, "its answer may not be given to you.")
		}
		redacted, blanked := redact(demands.Redact, tool)
		out.Checks = append(out.Checks, fmt.Sprintf("redacted:%d", blanked))
		typed := typedReply{redacted}
		out.Bytes = typed.size()
		if _, ok := r.(*rawReply); !ok {
			r = typed
		} else if r, err = typed.raw(); err != nil { // whose type each carrier writes by itself
			return withhold(governance.ObligationRedact, "its answer may not be given to you.")
		}
	}
	if demands.MaxBytes > 0 {
		text, err := r.text()
		if err != nil || int64(len(text)) > demands.MaxBytes {
			return withhold(governance.ObligationMaxBytes, fmt.Sprintf("its answer is larger than the %d bytes that are allowed. Ask for less.", demands.MaxBytes))
		}
	}
	return r, nil
}

// meetError does to the other side's own error what is done to an answer, which
// it could have been as well. Of an error in words nothing can be left where
// something has to be blanked.
func (g *governor) meetError(d governance.Decision, err error, out *audit.Outcome) error {
	if _, ours := asFailure(err); ours {
		return err
	}
	var own *jsonrpc.Error
	if !errors.As(err, &own) {
		own = &jsonrpc.Error{Message: err.Error()} // which the SDK makes of it
	}
	withhold := func(why string) error {
		out.Bytes, out.Checks = 0, append(out.Checks, codeWithheld+":"+why)
		return failed(codeWithheld, "The call failed, and what the server says about that may not be given to you.", false)
	}
	size := int64(len(own.Message) + len(own.Data))
	if size > g.answers.limit() {
		return withhold(audit.GuardSize)
	}
	demands, bad := d.Demands()
	switch {
	case bad != nil:
		return withhold(audit.GuardObligation)
	case demands.MaxBytes > 0 && size > demands.MaxBytes:
		return withhold(governance.ObligationMaxBytes)
	case !demands.Redact.Empty():
		return withhold(governance.ObligationRedact)
	}
	return err
}

func isNilReply(r reply) bool {
	t, ok := r.(typedReply)
	if !ok {
		return r == nil
	}
	tool, ok := t.res.(*mcp.CallToolResult)
	return t.res == nil || ok && tool == nil
}

// redact blanks places of an answer, and as a whole whatever is not JSON: a text
// in words, an image, a link. Metadata goes, since it is for programs and cannot
// be left out by policy. The answer that it is given stays as it was.
func redact(r governance.Redaction, t *mcp.CallToolResult) (*mcp.CallToolResult, int) {
	c, n := *t, 0
	c.Meta = nil
	c.Content = make([]mcp.Content, len(t.Content))
	for i, item := range t.Content {
		text, blanked := []byte(nil), 1
		if old, ok := item.(*mcp.TextContent); ok {
			if out, k, err := r.Apply([]byte(old.Text)); err == nil {
				text, blanked = out, k
			}
		}
		if text == nil {
			text = []byte(governance.Redacted)
		}
		n += blanked
		c.Content[i] = &mcp.TextContent{Text: string(text)}
	}
	if t.StructuredContent == nil {
		return &c, n
	}
	doc, err := json.Marshal(t.StructuredContent)
	if err == nil {
		var blanked int
		if doc, blanked, err = r.Apply(doc); err == nil {
			c.StructuredContent = json.RawMessage(doc)
			n += blanked
		}
	}
	if err != nil {
		c.StructuredContent = nil
		n++
	}
	return &c, n
}
