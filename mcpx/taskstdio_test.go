package mcpx_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/mcpx"
)

// anything is a result as it goes on the wire.
type anything struct {
	mcp.ResultBase
	text json.RawMessage
}

func (r *anything) MarshalJSON() ([]byte, error) { return r.text, nil }

// custom are the parameters of the methods that the SDK does not know.
type custom struct {
	mcp.ParamsBase
	TaskID    string                     `json:"taskId"`
	Responses map[string]json.RawMessage `json:"inputResponses,omitempty"`
}

// whole is the server with its tasks, for transports without HTTP.
func (j *jobs) whole() *mcp.Server {
	answer := func(method string, params any) (*anything, error) {
		text, err := json.Marshal(params)
		if err != nil {
			return nil, err
		}
		var p taskParams
		if err := json.Unmarshal(text, &p); err != nil {
			return nil, err
		}
		r := &http.Request{Header: http.Header{"Mcp-Method": {method}, "Mcp-Name": {p.Name + p.TaskID}}}
		_, what := j.answer(r, method, p)
		var doc struct {
			Result json.RawMessage
			Error  *jsonrpc.Error
		}
		if err := json.Unmarshal([]byte("{"+what+"}"), &doc); err != nil {
			return nil, err
		}
		if doc.Error != nil {
			return nil, doc.Error
		}
		return &anything{text: doc.Result}, nil
	}
	for _, method := range []string{"tasks/get", "tasks/update", "tasks/cancel"} {
		err := mcp.AddReceivingCustomMethod(j.server, method, func(_ context.Context, _ *mcp.ServerSession, p *custom) (*anything, error) {
			return answer(method, p)
		})
		if err != nil {
			panic(err)
		}
	}
	j.server.AddReceivingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler {
		return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
			if method == "tools/call" {
				return answer(method, req.GetParams())
			}
			return next(ctx, method, req)
		}
	})
	return j.server
}

// A child process and a server in memory may answer with tasks as well.
func TestTasksWithoutHTTP(t *testing.T) {
	for _, how := range []string{"child", "memory"} {
		ways(t, func(t *testing.T, slow bool) {
			jobs, children := newJobServer(), &children{kind: "jobs"}
			u := mcpx.Stdio("jobs", children.command)
			if how == "memory" {
				u = mcpx.InMemory("jobs", jobs.whole())
			}
			o := newYardOf(t, jobs, u, slow, jobsPolicy)
			o.caps += `,"elicitation":{"form":{}}`
			begun := o.call("slow_compute")
			require.Equal(t, "task", begun.Result.Type, begun.body)
			done := o.get(begun.Result.TaskID)
			require.Equal(t, "completed", done.Result.Status, done.body)
			assert.JSONEq(t, said("computed 9007199254740993"), string(done.Result.Result))

			id := o.call("confirm_delete").Result.TaskID
			asks := o.get(id)
			require.Equal(t, "input_required", asks.Result.Status, asks.body)
			o.ask(o.url, "tasks/update", id, `"taskId":"`+id+`","inputResponses":{"first":{"action":"accept","content":{"name":"x"}}}`)
			assert.Equal(t, "completed", o.get(id).Result.Status)

			begun = o.ask(o.url, "tools/call", "jobs__slow_compute", `"name":"jobs__slow_compute","arguments":{"seconds":3600}`)
			id = begun.Result.TaskID
			assert.Equal(t, "working", o.get(id).Result.Status)
			assert.Equal(t, "complete", o.ask(o.url, "tasks/cancel", id, `"taskId":"`+id+`"`).Result.Type)
			assert.Equal(t, "cancelled", o.get(id).Result.Status)

			o.caps = ""
			assert.Equal(t, "complete", o.call("slow_compute").Result.Type, "who knows no tasks gets none")
			intents, outcomes := o.acts()
			assert.Len(t, outcomes, len(intents))
		})
	}
}

// The tasks of 2025-11-25 are not here: nobody is told of them, who asks for one gets
// the result, as that version says, and the methods about them are unknown.
func TestTasksOfTheOlderEra(t *testing.T) {
	for _, slow := range []bool{false, true} {
		o := newYard(t, slow, jobsPolicy)
		for _, version := range []string{legacy, "2025-06-18"} {
			code, body, h := fire(t, o.url, shot{body: fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":%q,"capabilities":{"tasks":{"list":{},"cancel":{}},"extensions":{%q:{}}},"clientInfo":{"name":"x","version":"1"}}}`, version, tasksExtension)})
			require.Equal(t, 200, code, body)
			assert.NotContains(t, body, "tasks")
			session := [2]string{"Mcp-Session-Id", h.Get("Mcp-Session-Id")}
			call := legacyCall(session, "jobs__slow_compute", `{}`)
			call.header[1][1] = version
			call.body = strings.Replace(call.body, `"params":{`, `"params":{"task":{"ttl":60000},`, 1)
			code, body, _ = fire(t, o.url, call)
			assert.Equal(t, 200, code, body)
			assert.Contains(t, body, `"text":"computed"`)
			for _, method := range []string{"tasks/get", "tasks/result", "tasks/list", "tasks/cancel"} {
				call.body = fmt.Sprintf(`{"jsonrpc":"2.0","id":2,"method":%q,"params":{"taskId":"1"}}`, method)
				before := len(o.log.Denials())
				_, body, _ = fire(t, o.url, call)
				assert.Contains(t, body, `"code":-32601`, method)
				require.Len(t, o.log.Denials(), before+1)
				assert.Equal(t, "method", o.log.Denials()[before].Decision.Reason)
			}
		}
		assert.Equal(t, []string{"tools/call slow_compute", "tools/call slow_compute"}, o.jobs.has())
	}
}
