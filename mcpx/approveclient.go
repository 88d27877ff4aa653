package mcpx

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
)

// A ClientApprover is an [Approver] that asks the user whom the actor acts for,
// with a form that the MCP client of the call shows (elicitation).
//
// Whoever holds the other end of the connection answers such a form. Where that
// is the agent's own program, in a sandbox above all, the agent would approve
// its own calls. So nobody is asked unless AnsweredByPerson says that it is
// right for this actor; there is no default.
type ClientApprover struct {
	// AnsweredByPerson is the host's word that forms at the clients of this
	// actor are answered by its User in person, and that the agent cannot answer
	// in their place. Nil denies everything.
	AnsweredByPerson func(a audit.Actor) bool
	// Groups returns the groups of a user. Nil means none, so that no approval
	// counts.
	Groups func(ctx context.Context, user string) ([]string, error)
}

// maxShown bounds the arguments that a form shows, in bytes. Nobody can agree to
// what is not shown.
const maxShown = 8 << 10

// Approve implements [Approver]. It works for calls that a [Gateway] or [Govern]
// stopped, and asks their clients.
func (c *ClientApprover) Approve(ctx context.Context, r ApprovalRequest) (Verdict, error) {
	switch {
	case c == nil || c.AnsweredByPerson == nil || r.Actor.User == "" || !c.AnsweredByPerson(r.Actor):
		return Verdict{}, errors.New("nobody says that a person answers at the client of this actor")
	case c.Groups == nil:
		return Verdict{}, errors.New("ClientApprover.Groups is nil")
	case len(r.Args) > maxShown:
		return Verdict{}, fmt.Errorf("the arguments are more than the %d bytes that a form can show", maxShown)
	}
	groups, err := c.Groups(ctx, r.Actor.User)
	if err != nil {
		return Verdict{}, fmt.Errorf("groups of the user: %w", err)
	}
	if !allOf(r.Groups, groups) {
		return Verdict{}, fmt.Errorf("user %q is not in %s", r.Actor.User, strings.Join(r.Groups, ", "))
	}
	a, _ := ctx.Value(askerKey{}).(*asker)
	if a == nil {
		return Verdict{}, errCannotAsk
	}
	answer, err := a.form(ctx, approvalRequest, &mcp.ElicitParams{
		Mode: "form",
		Message: fmt.Sprintf("The agent %s wants to %s of %s, once%s\n\nThis needs your agreement (decision %s).",
			strconv.QuoteToASCII(r.Actor.Agent), r.what(), r.Server, withArgs(r.Args), r.Decision),
		RequestedSchema: json.RawMessage(`{"type":"object","properties":{
			"approve":{"type":"boolean","title":"I agree to this call","default":false},
			"reason":{"type":"string","title":"Why","maxLength":200}},"required":["approve"]}`),
	})
	if err != nil {
		return Verdict{}, err
	}
	yes, _ := answer.Content["approve"].(bool)
	reason, _ := answer.Content["reason"].(string)
	if reason = clip(strings.TrimSpace(reason), 200); reason == "" {
		reason = "asked at the client"
	}
	return Verdict{Approved: answer.Action == "accept" && yes, By: r.Actor.User, Reason: reason, Groups: groups}, nil
}

// withArgs is the end of a sentence about a call.
func withArgs(args json.RawMessage) string {
	if len(args) == 0 {
		return "."
	}
	return ", with exactly these arguments:\n\n" + Visible(args)
}

// Visible returns JSON for people to read: indented, and with everything escaped
// that does not show or that turns the text around.
func Visible(doc json.RawMessage) string {
	var b bytes.Buffer
	if json.Indent(&b, doc, "", "  ") != nil {
		return strconv.QuoteToASCII(string(doc))
	}
	return escaped(b.String())
}
