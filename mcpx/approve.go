package mcpx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// An Approver gets the agreement of people to calls that a permit with
// @approval("group") has stopped. [ApproverFunc] is a callback of the host,
// [Desk] a page that people open, and [ClientApprover] a form at the client
// that called.
//
// What a person agrees to is one call: of this actor, of this tool, with these
// bytes as arguments, by the policies in force. The engine decides again with
// the approval, and counts it once. Whatever else the agent calls, or calls a
// second time, is asked for anew. Prompts and resources are stopped, and agreed
// to, in the same way.
type Approver interface {
	// Approve returns what a person said. It may wait for as long as ctx lasts,
	// which ends with the time that people have, and when the agent leaves or is
	// revoked. An error denies; [AwaitingError] besides tells the agent where its
	// people find the question, and to call again.
	//
	// It is called by many calls at once.
	Approve(ctx context.Context, r ApprovalRequest) (Verdict, error)
}

// ApproverFunc is an [Approver] that is a function.
type ApproverFunc func(ctx context.Context, r ApprovalRequest) (Verdict, error)

// Approve implements [Approver].
func (f ApproverFunc) Approve(ctx context.Context, r ApprovalRequest) (Verdict, error) {
	return f(ctx, r)
}

// An ApprovalRequest is a call that waits for a person. Show all of it: a person
// agrees to what they saw.
type ApprovalRequest struct {
	// Decision is the id of the decision that stopped the call, for the auditor.
	Decision string
	// Actor is who calls.
	Actor audit.Actor
	// Action and Resource are what was decided, as on record: such as
	// "slack__post_message" and `Tool::"slack__post_message"`, or "get_prompt" and
	// `Prompt::"slack__digest"`, or "read_resource" and a Resource.
	Action, Resource string
	// Server and Tool are what is called, and Args with which JSON. Tool is the
	// name of a prompt or the URI of a resource, if Action says that it is one;
	// Args are nil for a resource.
	Server, Tool string
	Args         json.RawMessage
	// Groups are those of each of which the person has to be.
	Groups []string
	// Call identifies actor, tool and arguments; Policy the policies in force.
	// Together they say whether two requests are the same to a person.
	Call, Policy string
	// Returned says that the agent's user was shown the page of an
	// [AwaitingError], so that it is worth waiting for the answer.
	Returned bool
}

// A Verdict is what a person said to one [ApprovalRequest].
type Verdict struct {
	// Approved is false for a no.
	Approved bool
	// By is the person, as policies name users, and Reason why they agreed or
	// not. An approval without either does not count.
	By, Reason string
	// Groups are those that the host knows the person to be in. An approval
	// counts only if all that are asked for are among them.
	Groups []string
}

// An AwaitingError says that people were asked and have not answered.
type AwaitingError struct {
	// URL is the page where they answer, of which the agent is told; empty if
	// people find it in another way.
	URL string
}

func (e *AwaitingError) Error() string { return "mcpx: people were asked and have not answered yet" }

// errCannotAsk is returned for a client that cannot be asked, or not this way.
var errCannotAsk = errors.New("mcpx: the client of this call cannot be asked")

const (
	// approvalTime is how long people have to answer, if the host says nothing.
	approvalTime = 5 * time.Minute
	// approvalGood is how long an answer is good once it is there; it is used at once.
	approvalGood = time.Minute
	// maxWaiting and maxWaitingPerActor bound the calls that wait for a person.
	maxWaiting         = 1024
	maxWaitingPerActor = 16
)

// what says in words what the actor wants to do.
func (r ApprovalRequest) what() string {
	name := strconv.QuoteToASCII(r.Tool)
	switch r.Action {
	case "get_prompt":
		return "get the prompt " + name
	case "read_resource":
		return "read the resource " + name
	}
	return "call the tool " + name
}

// waits reports whether d only lacks the agreement of a person.
func waits(d governance.Decision) bool {
	return d.Effect == audit.Deny && d.Reason == audit.GuardApproval && d.Call != ""
}

// approve gets the agreement that d lacks and decides again. A reply or an error
// is the answer to the client; with neither, the decision is.
func (g *governor) approve(ctx context.Context, q *query, ask governance.Request, d governance.Decision) (governance.Decision, reply, error) {
	if g.approver == nil || !waits(d) {
		return d, nil, nil
	}
	stop := func(text string, retryable bool) (governance.Decision, reply, error) {
		r := decided(d)
		r.text, r.retryable = text, retryable
		_, err := g.no(ctx, q, r)
		return d, nil, err
	}
	if q.method != methodCallTool {
		// Whether it is still what was approved shows when it is had.
	} else if guard := g.site.live(ctx, q, ask.Server, ask.Name); guard != "" {
		_, err := g.no(ctx, q, override(d, guard))
		return d, nil, err // nobody is asked about what cannot be done
	}
	demands, err := d.Demands()
	if err != nil {
		return stop("", false)
	}
	leave, ok := g.waiting.enter(owner(q.actor))
	if !ok {
		return stop("Too many calls wait for people already.", true)
	}
	defer leave()
	v, err := g.verdict(ctx, q, ApprovalRequest{
		Decision: d.ID, Actor: q.actor, Action: d.Action, Resource: d.Resource, Server: ask.Server, Tool: ask.Name, Args: ask.Args,
		Groups: demands.Approvals, Call: d.Call, Policy: d.PolicyHash,
	})
	var waiting *AwaitingError
	var needs *needsInput
	switch {
	case ctx.Err() != nil && q.outer.Err() == nil:
		r := override(d, audit.GuardRevoked)
		r.text = "This agent may not act any more."
		_, err := g.no(ctx, q, r)
		return d, nil, err
	case errors.As(err, &needs):
		r, err := g.needInput(q, needs)
		if err != nil {
			return stop("Too many questions are open already.", true)
		}
		g.recordRefusal(ctx, q, decided(d)) // until the answer is here
		return d, r, nil
	case errors.As(err, &waiting):
		return g.await(ctx, q, d, waiting.URL)
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled):
		return stop("Nobody agreed to this call in time.", true)
	case err != nil:
		g.logger.Warn("mcpx: nobody could be asked to approve a call", "action", d.Action, "decision", d.ID, "error", err)
		return stop("A person has to agree to this call, and none could be asked.", true)
	}
	r := decided(d)
	r.detail = map[string]string{"by": clip(v.By, 128), "reason": clip(v.Reason, 256)}
	switch {
	case !v.Approved:
		r.text = "A person was asked, and does not agree to this call."
	case !allOf(demands.Approvals, v.Groups):
		r.text = "Somebody agreed to this call who may not."
		r.detail["groups"] = clip(strings.Join(v.Groups, " "), 256)
	default:
		counted := slices.DeleteFunc(slices.Clone(v.Groups), func(s string) bool { return !slices.Contains(demands.Approvals, s) })
		ask.Approval, err = d.Approve(audit.Change{By: v.By, Reason: v.Reason}, counted, time.Now(), approvalGood)
		if err == nil {
			q.grant = &v // for the same call, if it comes again with what it needs
			return g.decide(ctx, ask), nil, nil
		}
		g.logger.Error("mcpx: an approval does not count", "action", d.Action, "decision", d.ID, "error", err)
		r.text = "A person agreed to this call, but not in a way that counts."
	}
	_, err = g.no(ctx, q, r)
	return d, nil, err
}

// verdict asks the approver, unless a person has answered on an earlier leg of
// this very call.
func (g *governor) verdict(ctx context.Context, q *query, r ApprovalRequest) (v Verdict, err error) {
	if e := q.asked; e != nil && e.grant != nil && e.policy == r.Policy {
		return *e.grant, nil
	}
	if e := q.asked; e != nil && e.page == approvalPage && e.policy == r.Policy {
		if a, ok := q.answers[approvalRequest].(*mcp.ElicitResult); !ok || a.Action != "accept" {
			return Verdict{}, errors.New("the user did not open the page")
		}
		r.Returned = true
	}
	ctx, cancel := context.WithTimeout(ctx, g.approvalTime)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			g.logger.Error("mcpx: panic in an approver", "panic", p, "stack", string(debug.Stack()))
			v, err = Verdict{}, errors.New("the approver failed inside")
		}
	}()
	return g.approver.Approve(context.WithValue(ctx, askerKey{}, &asker{g: g, q: q, policy: r.Policy}), r)
}

// approvalRequest names the question about an approval, and approvalPage the
// state of a client whose user was sent to a page about it.
const (
	approvalRequest = "approval"
	approvalPage    = "approval"
)

// await answers a call whose approver will know later. A client that can show
// pages is asked to show this one.
func (g *governor) await(ctx context.Context, q *query, d governance.Decision, page string) (governance.Decision, reply, error) {
	r := decided(d)
	r.retryable = true
	r.text = "A person has to agree to this call first. They were asked. Make the same call again later."
	if page != "" {
		r.text = fmt.Sprintf("A person has to agree to this call first. Ask the person you work for to open %s, and then make the same call again.", page)
	}
	caps := q.caps()
	if page == "" || caps == nil || caps.Elicitation == nil || caps.Elicitation.URL == nil {
		_, err := g.no(ctx, q, r)
		return d, nil, err
	}
	g.recordRefusal(ctx, q, r)
	open := &mcp.ElicitParams{
		Mode: "url", URL: page, ElicitationID: d.ID,
		Message: fmt.Sprintf("The agent %q wants to call %q. A person has to agree first.", q.actor.Agent, q.name),
	}
	if !q.modern {
		return d, nil, mcp.URLElicitationRequiredError([]*mcp.ElicitParams{open})
	}
	answer, err := g.needInput(q, &needsInput{
		key: approvalRequest, params: open, good: g.approvalTime,
		asked: asked{page: approvalPage, policy: d.PolicyHash},
	})
	if err != nil {
		return d, nil, r // it stands on record
	}
	return d, answer, nil
}

// allOf reports whether all that are wanted are there.
func allOf(wanted, have []string) bool {
	for _, w := range wanted {
		if !slices.Contains(have, w) {
			return false
		}
	}
	return true
}

// A crowd bounds what waits, for each owner and in all.
type crowd struct {
	mu    sync.Mutex
	quota quota
}

// enter reports whether there is room, and returns how to leave.
func (c *crowd) enter(owner string) (leave func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.quota.room(owner) {
		return nil, false
	}
	c.quota.add(owner)
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.quota.drop(owner)
	}), true
}
