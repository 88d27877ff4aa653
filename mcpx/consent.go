package mcpx

import (
	"context"
	"fmt"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
)

// Consents gets the consent of the user whom an actor acts for: oauth.Grants
// does. The user opens a page of the host, which sends them on to the service.
type Consents interface {
	// Ask begins it, and returns the page and an id that nobody can guess.
	Ask(ctx context.Context, a audit.Actor, credential string) (id, url string, err error)
	// Await returns nil once the user has consented to what Ask began for that
	// very actor, and an error if they have not, or there is nothing of that id.
	Await(ctx context.Context, a audit.Actor, id string) error
}

// codeConsent is the outcome of a call that was not made because its user has
// to consent first.
const codeConsent = "consent"

// consentRequest names the one thing that such a call asks its client for.
const consentRequest = "consent"

// consent asks the user to consent, by having the client open a page (URL mode
// elicitation). It returns nil and no error when they have done so, and else an
// answer for the client to act upon and call again: of the protocol versions
// before 2026-07-28 that is the error URLElicitationRequired.
func (g *Gateway) consent(ctx context.Context, f *flight, u *Upstream) (reply, error) {
	say := func(format string, args ...any) error { return failed(codeConsent, fmt.Sprintf(format, args...), true) }
	if g.opts.Consents == nil || f.actor.User == "" {
		return nil, say("The server %q needs a user who has opened their account to you. An operator has to look.", u.Name)
	}
	q := f.q
	if e := q.asked; e != nil && e.page != "" && q.answers[consentRequest] != nil {
		if a, ok := q.answers[consentRequest].(*mcp.ElicitResult); !ok || a.Action != "accept" {
			return nil, say("The user has not opened the account that the server %q needs.", u.Name)
		}
		// That they opened the page is all that the client knows.
		if err := g.opts.Consents.Await(ctx, f.actor, e.page); err != nil {
			g.gov.logger.Warn("mcpx: no consent", "server", u.Name, "credential", u.Credential, "user", f.actor.User, "error", err)
			return nil, say("The user has not opened the account that the server %q needs.", u.Name)
		}
		return nil, nil
	}
	id, page, err := g.opts.Consents.Ask(ctx, f.actor, u.Credential)
	if err != nil {
		g.gov.logger.Error("mcpx: consent cannot be asked for", "server", u.Name, "credential", u.Credential, "error", err)
		return nil, say("The user cannot be asked to open the account that the server %q needs. An operator has to look.", u.Name)
	}
	caps := q.caps()
	if caps == nil || caps.Elicitation == nil || caps.Elicitation.URL == nil {
		// Only that user, signed in at the host, gets further on that page.
		return nil, say("The server %q needs an account of the user you work for. Ask them to open %s and then call again.", u.Name, page)
	}
	f.asks = codeConsent
	open := &mcp.ElicitParams{
		Mode: "url", URL: page, ElicitationID: id,
		Message: fmt.Sprintf("The agent %q wants to use your account at %q.", f.actor.Agent, u.Name),
	}
	if !q.modern {
		return nil, mcp.URLElicitationRequiredError([]*mcp.ElicitParams{open})
	}
	r, err := g.gov.needInput(q, &needsInput{
		key: consentRequest, params: open, good: inputTime,
		asked: asked{page: id, policy: f.decision.PolicyHash, grant: q.grant},
	})
	if err != nil {
		f.asks = ""
		return nil, say("Too many questions to the user of the server %q are open already.", u.Name)
	}
	return r, nil
}
