//lint:file-ignore SA1019 logging, sampling and roots are deprecated, and clients and servers of the older era use them

package mcpx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// What a server asks of a client in the middle of a call (a form or a page for
// the user, the client's model, its roots) is refused, unless policy permits the
// actor the action elicit or sample on that server, and the client offers it.
// Nobody but the client ever answers.

const (
	maxQuestion  = 256 << 10 // bytes of one question
	maxQuestions = 16        // that one call asks
	maxPageURL   = 2048
	metaServer   = "dev.twinward/server" // says whose question it is
)

// A question is what a server asks.
type question struct {
	kind   string
	params mcp.InputRequest
	raw    json.RawMessage // what the client will see, for the record
}

// errQuestion wraps what is wrong with a question, in words for whoever asked.
var errQuestion = errors.New("this is not asked here")

// newQuestion checks a question of a server, and makes it what the client will
// see. Its metadata stays here.
func newQuestion(server string, params mcp.InputRequest, caps *mcp.ClientCapabilities, roots bool) (*question, error) {
	x := &question{kind: kindOf(params)}
	meta := mcp.Meta{metaServer: server}
	bad := func(format string, args ...any) (*question, error) {
		x.params, x.raw = params, nil
		x.raw, _ = json.Marshal(params)
		if len(x.raw) > maxQuestion {
			x.raw = nil
		}
		return x, fmt.Errorf("%w: %w", errQuestion, fmt.Errorf(format, args...))
	}
	if caps == nil {
		caps = &mcp.ClientCapabilities{}
	}
	switch p := params.(type) {
	case *mcp.ElicitParams:
		if p == nil {
			return bad("there is no question")
		}
		c := *p
		c.Meta, c.Message = meta, escaped(p.Message)
		if c.Mode == "" {
			if c.Mode = "form"; c.URL != "" || c.ElicitationID != "" {
				c.Mode = "url"
			}
		}
		switch can := caps.Elicitation; {
		case can == nil:
			return bad("the client shows nothing to a user")
		case c.Mode == "form" && can.Form == nil && can.URL != nil:
			return bad("the client shows no forms")
		case c.Mode == "form" && c.URL != "":
			return bad("a form has no page")
		case c.Mode == "form":
			if name := secretField(c.RequestedSchema); name != "" {
				return bad("a form must not ask for secrets (%s)", clip(name, 64))
			}
		case c.Mode != "url":
			return bad("unknown mode")
		case can.URL == nil:
			return bad("the client shows no pages")
		default:
			if err := checkPage(c.URL); err != nil {
				return bad("%w", err)
			}
			c.RequestedSchema = nil
		}
		x.params = &c
	case *mcp.CreateMessageWithToolsParams:
		if p == nil {
			return bad("there is no question")
		}
		c := *p
		c.Meta = meta
		switch can := caps.Sampling; {
		case can == nil:
			return bad("the client offers no model")
		case len(c.Tools) > 0 && can.Tools == nil:
			return bad("the client's model uses no tools")
		case c.IncludeContext != "" && c.IncludeContext != "none":
			return bad("what other servers said is not for this one")
		}
		x.params = &c
	case *mcp.ListRootsParams:
		if !roots || caps.RootsV2 == nil {
			return bad("roots are not told")
		}
		x.params = &mcp.ListRootsParams{Meta: meta}
	default:
		return bad("unknown question")
	}
	raw, err := json.Marshal(x.params)
	if err != nil || len(raw) > maxQuestion {
		return bad("the question is too large or cannot be read")
	}
	x.raw = raw
	return x, nil
}

// checkPage refuses what a user must not be sent to.
func checkPage(page string) error {
	u, err := url.Parse(page)
	switch {
	case err != nil || len(page) > maxPageURL || strings.ContainsFunc(page, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("the address of the page cannot be read")
	case u.Scheme != "https" || u.Host == "" || u.Opaque != "":
		return errors.New("the page must be https")
	case u.User != nil:
		return errors.New("the address of the page holds a user name")
	}
	return nil
}

// secretWords are what no form may ask for: forms are shown by the client, which
// reads the answer, and so does the agent.
var secretWords = []string{"password", "passwd", "passphrase", "secret", "apikey", "accesstoken", "privatekey", "creditcard", "cardnumber"}

// secretField returns the field of a form's schema that asks for a secret, or "".
func secretField(schema any) string {
	raw, err := json.Marshal(schema)
	if err != nil {
		return "schema"
	}
	var s struct {
		Properties map[string]struct {
			Title  string `json:"title"`
			Format string `json:"format"`
		} `json:"properties"`
	}
	if json.Unmarshal(raw, &s) != nil {
		return "schema" // a client may well read what is no schema
	}
	for name, p := range s.Properties {
		for _, text := range []string{name, p.Title, p.Format} {
			plain := strings.Map(func(r rune) rune {
				if unicode.IsLetter(r) || unicode.IsDigit(r) {
					return unicode.ToLower(r)
				}
				return -1
			}, text)
			for _, w := range secretWords {
				if strings.Contains(plain, w) {
					return name
				}
			}
		}
	}
	return ""
}

// ask has a question decided, puts it on record, asks it by put, and puts on
// record how that ended.
func (g *governor) ask(ctx context.Context, f *flight, x *question, bad error, put func() (mcp.InputResponse, error)) (mcp.InputResponse, error) {
	if bad != nil {
		r := refused(audit.GuardMethod)
		r.Action, r.Resource = x.kind, fmt.Sprintf("Server::%q", f.server)
		r.detail = map[string]string{"cause": clip(bad.Error(), 256)}
		g.recordQuestion(ctx, f, x, r)
		return nil, bad
	}
	action := x.kind
	if action == kindRoots {
		action = kindElicit // which the host has let it be, by Upstream.Roots
	}
	d := g.decide(ctx, governance.Request{Actor: f.actor, Action: action, Server: f.server})
	if !d.Allowed() {
		g.recordQuestion(ctx, f, x, decided(d))
		return nil, fmt.Errorf("%w: it is not permitted", errQuestion)
	}
	call, err := g.log.Begin(ctx, audit.Intent{
		Door: audit.DoorTool, Action: d.Action, Resource: d.Resource, Actor: f.actor,
		Decision: d.Decision, Args: x.raw, Trace: f.trace,
	})
	if err != nil || call == nil {
		g.logger.Error("mcpx: a question could not be recorded, so it is not asked", "server", f.server, "error", err)
		d.Settle(governance.Result{})
		return nil, fmt.Errorf("%w: the audit log cannot be written", errQuestion)
	}
	a, err := put()
	out := audit.Outcome{Status: audit.StatusOK, Checks: []string{x.kind + ":" + verdictOf(a)}}
	text, _ := json.Marshal(a)
	switch {
	case ctx.Err() != nil:
		out.Status, out.ErrorCode, out.Checks = audit.StatusCancelled, "cancelled", nil
	case err != nil:
		out.Status, out.ErrorCode, out.Checks = audit.StatusFailed, "error", nil
	case a != nil:
		out.Bytes = int64(len(text))
		if audit.WantsResult(call) {
			out.Result = text
		}
	}
	endErr := call.End(context.WithoutCancel(ctx), out)
	d.Settle(governance.ResultOf(out))
	if endErr != nil {
		g.logger.Error("mcpx: an answer could not be recorded, so it is withheld", "server", f.server, "error", endErr)
		return nil, fmt.Errorf("%w: the audit log cannot be written", errQuestion)
	}
	return a, err
}

// verdictOf is what the record says of an answer.
func verdictOf(a mcp.InputResponse) string {
	switch a := a.(type) {
	case nil:
		return "asked"
	case *mcp.ElicitResult:
		switch a.Action {
		case "accept", "decline", "cancel":
			return a.Action
		}
		return "unreadable"
	}
	return "answered"
}

func (g *governor) recordQuestion(ctx context.Context, f *flight, x *question, r refusal) {
	record(ctx, g.log, g.logger, audit.Event{
		Kind: audit.KindDenial, Door: audit.DoorTool, Action: r.Action, Resource: r.Resource, Actor: f.actor,
		Decision: &r.Decision.Decision, Args: x.raw, Trace: f.trace, Detail: r.detail,
	})
}

// escaped replaces in a text for people what does not show, or turns it around.
func escaped(s string) string {
	var out strings.Builder
	for _, r := range s {
		switch {
		case r == '\n' || r == '\t' || unicode.IsPrint(r):
			out.WriteRune(r)
		case r > 0xffff:
			fmt.Fprintf(&out, `\U%08x`, r)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.String()
}
