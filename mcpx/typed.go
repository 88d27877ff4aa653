package mcpx

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
)

// The SDK as the carrier of a request: what it parsed comes in, and what the
// rest of its chain answered goes out.

// callTool has a tools/call governed that the SDK parsed.
func (g *governor) callTool(ctx context.Context, q *query) (mcp.Result, error) {
	p, ok := q.req.GetParams().(*mcp.CallToolParamsRaw)
	if !ok || p == nil {
		return g.refuse(ctx, q, refused(audit.GuardArguments))
	}
	return q.deliver(g.call(ctx, q))
}

// viaSDK does an allowed request further down the SDK's chain. What policy saw is
// what the tool gets.
func (q *query) viaSDK(ctx context.Context, f *flight) (reply, error) {
	if p, ok := q.req.GetParams().(*mcp.CallToolParamsRaw); ok {
		p.Arguments = f.args
	}
	res, err := q.next(ctx, q.method, q.req)
	return typedReply{res}, err
}

// deliver gives the SDK what came of a governed request.
func (q *query) deliver(r reply, err error) (mcp.Result, error) {
	if no, ok := err.(refusal); ok {
		return q.answer(no)
	}
	if err != nil || r == nil {
		return nil, err
	}
	if raw, ok := r.(*rawReply); ok {
		return &rawResult{reply: raw, modern: q.modern}, nil
	}
	return r.result()
}

// A typedReply is a reply in the SDK's types, which may be nil.
type typedReply struct{ res mcp.Result }

func (r typedReply) tool() *mcp.CallToolResult {
	t, _ := r.res.(*mcp.CallToolResult)
	return t
}

func (r typedReply) failed() bool {
	t := r.tool()
	return t != nil && t.IsError
}

func (r typedReply) text() ([]byte, error)       { return json.Marshal(r.res) }
func (r typedReply) result() (mcp.Result, error) { return r.res, nil }

// raw is the same reply as an upstream would have written it.
func (r typedReply) raw() (reply, error) {
	text, err := r.text()
	if err != nil {
		return nil, err
	}
	raw, asks, ok := parseResult(methodCallTool, text)
	if asks || !ok {
		return nil, errGarbage
	}
	return raw, nil
}

func (r typedReply) size() int64 {
	t, ok := r.res.(*mcp.CallToolResult)
	if !ok {
		b, _ := json.Marshal(r.res)
		return int64(len(b))
	}
	if t == nil {
		return 0
	}
	var n int
	for _, c := range t.Content {
		if text, ok := c.(*mcp.TextContent); ok {
			n += len(text.Text)
		} else if c != nil {
			b, _ := c.MarshalJSON()
			n += len(b)
		}
	}
	switch s := t.StructuredContent.(type) {
	case nil:
	case json.RawMessage:
		n += len(s)
	default:
		b, _ := json.Marshal(s)
		n += len(b)
	}
	return int64(n)
}

// traceparent returns the trace of a request that the SDK carries.
func traceparent(req mcp.Request, header http.Header) string {
	meta := ""
	if p := req.GetParams(); p != nil && !isNil(p) {
		meta, _ = p.GetMeta()["traceparent"].(string)
	}
	return traceFrom(meta, header)
}

// isNil reports whether params is a typed nil, as list methods may have.
func isNil(p mcp.Params) bool {
	v := reflect.ValueOf(p)
	return v.Kind() == reflect.Pointer && v.IsNil()
}
