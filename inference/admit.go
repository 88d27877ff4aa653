package inference

import (
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// choose finds the route and its first target that policy permits. Those that it
// does not permit are passed over; if it permits none, the call is refused.
func (c *call) choose() bool {
	asked := c.wanted
	c.route = c.routes.byModel[routeKey{c.protocol, asked}]
	if c.route == nil {
		c.refuse(noModel(asked), c.op.action, fmt.Sprintf("Model::%q", asked), guarded(audit.GuardUnknown))
		return false
	}
	c.own.memory, c.own.agent, c.own.text, c.own.share = c.memory, c.actor.Agent, c.body, c.holds
	c.holds = 0
	c.order = c.route.order(c.opts.Now(), c.opts.Rand)
	var no *denial
	for _, t := range c.order {
		c.at++
		d := c.admit(t)
		if d == nil {
			return true
		}
		c.passed = append(c.passed, t)
		if no == nil || no.decision.Hidden && !d.decision.Hidden {
			no = d
		}
	}
	c.refuse(no.refusal, no.decision.Action, no.decision.Resource, no.decision.Decision)
	return false
}

// admit decides everything that a call of t needs, and makes t the target if all
// of it is allowed. Else nothing is changed, and the denial is not on record yet.
//
// The model is decided before the request is written anew or translated, which
// costs more than all the rest: whoever may not use it makes no work. If tools have
// other names in the translation, it is decided once more for what the backend will
// read; what the first decision reserved is then given back.
func (c *call) admit(t *target) (denied *denial) {
	asked, names := c.wanted, c.env.toolNames(c.body)
	attrs := map[string]any{"protocol": string(c.protocol), "stream": c.env.stream, "tools": names}
	if len(c.betas) > 0 {
		attrs["betas"] = c.betas
	}
	if n := c.outputLimit(t); n > 0 {
		attrs["max_output"] = n
	}
	if err := c.attributes(t, attrs); err != nil {
		d := governance.Decision{Decision: guarded(audit.GuardBudget), Action: c.op.action, Resource: fmt.Sprintf("Model::%q", t)}
		return &denial{c.noRoom(err), d}
	}
	var allowed []governance.Decision
	ask := func(q governance.Request, hidden refusal, message string) (governance.Decision, *denial) {
		d, no := c.ask(q, hidden, message)
		if no == nil {
			allowed = append(allowed, d)
			return d, nil
		}
		settleAll(allowed, governance.Result{})
		if len(c.order) > 1 {
			c.note("denied:" + t.String() + ":" + d.Reason)
		}
		return d, no
	}
	askModel := func() (governance.Decision, *denial) {
		return ask(governance.Request{Action: c.op.action, Server: t.backend.Name, Name: t.model, Attrs: attrs, Enforces: meets}, noModel(asked),
			fmt.Sprintf("this agent may not use the model %q like this", asked))
	}
	decision, no := askModel()
	if no != nil {
		return no
	}
	to := c.render(t)
	defer func() {
		if denied != nil {
			c.scrap(to)
		}
	}()
	if to.refused != nil {
		settleAll(allowed, governance.Result{})
		return unrendered(decision, to.refused)
	}
	if told := to.asks.toolNames(to.scanned); to.exchange != nil && !slices.Equal(told, names) {
		attrs = maps.Clone(attrs)
		attrs["tools"] = told
		settleAll(allowed, governance.Result{}) // one call counts once
		allowed = nil
		if decision, no = askModel(); no != nil {
			return no
		}
	}
	if demands, err := decision.Demands(); err != nil || demands.RecordPrompt == governance.RecordRedacted && c.opts.Inspect == nil {
		settleAll(allowed, governance.Result{})
		decision.Decision = guarded(audit.GuardObligation)
		return &denial{refusal{status: http.StatusForbidden, code: "denied", message: "this needs something that is not available here"}, decision}
	}
	for _, name := range to.asks.hosted {
		_, no := ask(governance.Request{
			Action: actHosted, Server: t.backend.Name, Name: name,
			Attrs: map[string]any{"model": t.model, "protocol": string(c.protocol)},
		}, refusal{}, fmt.Sprintf("this agent may not use %q: it would act outside of this host; remove it from the request", name))
		if no != nil {
			return no
		}
	}
	var keyUse *audit.CredentialUse
	if t.backend.Credential != "" && to.estimate == 0 {
		d, no := ask(governance.Request{
			Action: actCredential, Name: t.backend.Credential,
			Attrs: map[string]any{"server": t.backend.Name, "tool": t.model, "purpose": "model"},
		}, refusal{}, fmt.Sprintf("this agent may not use the host's credential for %q", t.backend.Name))
		if no != nil {
			return no
		}
		keyUse = &audit.CredentialUse{Name: t.backend.Credential, Decision: d.Decision}
	}
	held, no := c.reserve(t, decision)
	if no != nil {
		settleAll(allowed, governance.Result{})
		return no
	}
	c.target, c.rendering, c.decision, c.allowed, c.keyUse, c.held = t, to, decision, allowed, keyUse, held
	return nil
}

// A denial is what policy said, and what the agent is told.
type denial struct {
	refusal  refusal
	decision governance.Decision
}

// ask decides one request. A denial is told with hidden if the agent must not
// learn that the thing exists, else with message.
func (c *call) ask(q governance.Request, hidden refusal, message string) (governance.Decision, *denial) {
	q.Actor = c.actor
	d, err := c.engine.Decide(c.ctx, q)
	if err == nil && d.Allowed() {
		return d, nil
	}
	if err != nil {
		c.opts.Logger.Warn("inference: policy could not decide", slog.String("action", q.Action), slog.Any("error", err))
		d.Effect = audit.Deny
	}
	if d.ID == "" || d.Reason == "" {
		d.Decision = guarded(audit.GuardPolicyError)
	}
	if d.Action == "" {
		d.Action, d.Resource = q.Action, q.Server+"/"+q.Name
	}
	ref := refusal{status: http.StatusForbidden, code: "denied", message: message}
	if d.Hidden && hidden.status != 0 {
		ref = hidden
	} else if d.Hint != "" {
		ref.message += ": " + d.Hint
	}
	return d, &denial{ref, d}
}
