package mcpx

import (
	"context"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// An asker puts the gateway's own questions to the client of one request.
type asker struct {
	g      *governor
	q      *query
	policy string // in force as the question is asked
}

type askerKey struct{}

// caps are what the client of this request says that it can do, nil if that is
// not known.
func (q *query) caps() *mcp.ClientCapabilities {
	c, ok := q.req.(interface {
		ClientCapabilities() *mcp.ClientCapabilities
	})
	if !ok {
		return q.features
	}
	return c.ClientCapabilities()
}

// form has the client show a form, and returns what the user did with it, or a
// [needsInput] that the request has to be answered with first.
func (a *asker) form(ctx context.Context, key string, p *mcp.ElicitParams) (*mcp.ElicitResult, error) {
	caps := a.q.caps()
	if caps == nil || caps.Elicitation == nil || caps.Elicitation.Form == nil && caps.Elicitation.URL != nil {
		return nil, errCannotAsk
	}
	if !a.q.modern {
		res, err := a.q.server(ctx, func(ctx context.Context, ss *mcp.ServerSession) (any, error) { return ss.Elicit(ctx, p) })
		if err != nil {
			return nil, err
		}
		return res.(*mcp.ElicitResult), nil
	}
	if e := a.q.asked; e != nil && e.page == formPage && e.policy == a.policy {
		if answer, ok := a.q.answers[key].(*mcp.ElicitResult); ok {
			return answer, nil
		}
	}
	return nil, &needsInput{key: key, params: p, good: a.g.approvalTime, asked: asked{page: formPage, policy: a.policy}}
}

// formPage is the state of a client that shows a form of the gateway's.
const formPage = "form"

// server makes a request to the client of an older session, on the stream of the
// client's own request.
func (q *query) server(ctx context.Context, ask func(context.Context, *mcp.ServerSession) (any, error)) (any, error) {
	ss, ok := q.req.GetSession().(*mcp.ServerSession)
	if !ok || ss == nil {
		return nil, errCannotAsk
	}
	// The SDK finds the stream by values of the request's own context.
	own, cancel := context.WithCancelCause(q.outer)
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })()
	if q.open != nil {
		defer q.open(ss.ID())()
	}
	res, err := ask(own, ss)
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return res, err
}

// answerTime bounds how long the client of an older session may take to answer a
// question that a server asks.
const answerTime = 5 * time.Minute
