package mcpx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Before 2026-07-28 a server may refuse a call until the user has opened a page: the
// error -32042 names the pages, and the client calls again. They are questions like
// others, decided and on record, and no page is shown that is not https. A client of
// the older era gets the error as it was, with only what was let through in it. One
// of the newer era is asked to open them, and its next call goes to the server, which
// says itself whether that was done; it is told of no completion.

// A pagesWanted is such an error for a client that is asked before it calls again.
type pagesWanted struct{ pages mcp.InputRequestMap }

func (*pagesWanted) Error() string { return "mcpx: the server wants pages opened first" }

// wantsPages is what comes of the error -32042 of a server. What is in data has no
// secret any more.
func (g *Gateway) wantsPages(ctx context.Context, f *flight, data json.RawMessage) error {
	no := func(why error) error {
		return failed("upstream-input", fmt.Sprintf("The server %q wants a web page opened: %s.", f.server, clip(why.Error(), 200)), false)
	}
	var doc struct {
		Pages []*mcp.ElicitParams `json:"elicitations"`
	}
	if json.Unmarshal(data, &doc) != nil || len(doc.Pages) == 0 || len(doc.Pages) > maxQuestions {
		return no(errors.New("which one cannot be read"))
	}
	u := g.upstream(f.server)
	if u == nil || f.q == nil {
		return no(errQuestion)
	}
	caps := g.clientCaps(f.q, f, u)
	asks := make(mcp.InputRequestMap, len(doc.Pages))
	list := make([]*mcp.ElicitParams, 0, len(doc.Pages))
	for i, p := range doc.Pages {
		x, bad := newQuestion(u.Name, p, caps, false)
		page, _ := x.params.(*mcp.ElicitParams)
		if bad == nil && page.Mode != "url" {
			bad = fmt.Errorf("%w: it is no page", errQuestion)
		}
		if bad == nil {
			bad = unasked(f)
		}
		if _, err := g.gov.ask(ctx, f, x, bad, func() (mcp.InputResponse, error) { return nil, nil }); err != nil {
			return no(err)
		}
		asks[fmt.Sprintf("page-%d", i+1)] = page
		list = append(list, page)
	}
	if f.q.modern {
		return &pagesWanted{asks}
	}
	return mcp.URLElicitationRequiredError(list)
}

// openPages answers a call of the newer era with the pages that its server wants
// opened.
func (g *Gateway) openPages(q *query, f *flight, p *pagesWanted) (reply, error) {
	st := clientState{Pages: true}
	var err error
	if q.grant != nil {
		if st.ID, err = g.gov.memory.put(owner(q.actor), asked{policy: f.decision.PolicyHash, grant: q.grant}, inputTime); err != nil {
			return nil, failed("upstream-input", "Too many questions are open already.", true)
		}
	}
	f.asks = codeInput
	return q.inputRequired(g.gov.seal, p.pages, st, inputTime)
}

// opened reports whether the user has opened all pages that a state is about.
func (st clientState) opened(answers mcp.InputResponseMap) bool {
	for key := range st.Kinds {
		if a, ok := answers[key].(*mcp.ElicitResult); st.Pages && (!ok || a.Action != "accept") {
			return false
		}
	}
	return true
}

// isPagesError reports whether a server wants pages opened.
func isPagesError(e *jsonrpc.Error) bool { return e.Code == mcp.CodeURLElicitationRequired }
