//lint:file-ignore SA1019 logging, sampling and roots are deprecated, and clients and servers of the older era use them

package mcpx

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// FuzzQuestion feeds the bridge what servers ask, in both ways of asking. What
// passes is what the client can do, sends nobody anywhere but to https, asks for
// no secrets, and is written the same when it is read again.
func FuzzQuestion(f *testing.F) {
	for _, s := range []string{
		`{"mode":"form","message":"Which?","requestedSchema":{"type":"object","properties":{"a":{"type":"string"}}}}`,
		`{"mode":"url","message":"Pay","url":"https://pay.example/1","elicitationId":"1"}`,
		`{"mode":"url","url":"javascript:alert(1)"}`, `{"URL":"http://x","mode":"form"}`, `{"url":"https://a@b/"}`,
		`{"message":"\u202e","requestedSchema":{"properties":{"PassWord":{}}}}`,
		`{"messages":[{"role":"user","content":{"type":"text","text":"hi"}}],"maxTokens":1,"includeContext":"allServers"}`,
		`{"messages":[],"maxTokens":1,"tools":[{"name":"t","inputSchema":{"type":"object"}}]}`,
		`{}`, `null`, `[]`, `{"_meta":{"dev.twinward/server":"other"}}`,
	} {
		f.Add(s, uint8(0), uint8(0xff))
		f.Add(s, uint8(1), uint8(0x0f))
		f.Add(s, uint8(2), uint8(0xf0))
	}
	f.Fuzz(func(t *testing.T, raw string, method, can uint8) {
		name := []string{askElicit, askSample, askRoots}[method%3]
		caps := &mcp.ClientCapabilities{}
		if can&1 != 0 {
			caps.Elicitation = &mcp.ElicitationCapabilities{}
			if can&2 != 0 {
				caps.Elicitation.Form = &mcp.FormElicitationCapabilities{}
			}
			if can&4 != 0 {
				caps.Elicitation.URL = &mcp.URLElicitationCapabilities{}
			}
		}
		if can&8 != 0 {
			caps.Sampling = &mcp.SamplingCapabilities{}
			if can&16 != 0 {
				caps.Sampling.Tools = &mcp.SamplingToolsCapabilities{}
			}
		}
		if can&32 != 0 {
			caps.RootsV2 = &mcp.RootCapabilities{}
		}
		var asks mcp.InputRequestMap
		if p := readAsk(&jsonrpc.Request{Method: name, Params: json.RawMessage(raw)}); p != nil {
			asks = mcp.InputRequestMap{"a": p.(mcp.InputRequest)}
			check(t, asks["a"], caps, can&64 != 0)
		}
		if json.Unmarshal([]byte(`{"k":{"method":"`+name+`","params":`+raw+`}}`), &asks) == nil {
			for _, p := range asks {
				check(t, p, caps, can&64 != 0)
			}
		}
	})
}

func check(t *testing.T, p mcp.InputRequest, caps *mcp.ClientCapabilities, roots bool) {
	x, err := newQuestion("shop", p, caps, roots)
	if x == nil {
		t.Fatal("nothing to put on record")
	}
	if err != nil {
		return
	}
	switch p := x.params.(type) {
	case *mcp.ElicitParams:
		if caps.Elicitation == nil || strings.ContainsAny(p.Message, "\u202e\u200b\u2066\U000E0041") || p.Meta[metaServer] != "shop" || len(p.Meta) != 1 {
			t.Fatalf("%+v", p)
		}
		if p.Mode == "url" {
			u, err := url.Parse(p.URL)
			if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || caps.Elicitation.URL == nil {
				t.Fatalf("page %q", p.URL)
			}
		} else if p.Mode != "form" || p.URL != "" || secretField(p.RequestedSchema) != "" {
			t.Fatalf("form %+v", p)
		}
	case *mcp.CreateMessageWithToolsParams:
		if caps.Sampling == nil || len(p.Tools) > 0 && caps.Sampling.Tools == nil || p.IncludeContext != "" && p.IncludeContext != "none" {
			t.Fatalf("%+v", p)
		}
	case *mcp.ListRootsParams:
		if !roots || caps.RootsV2 == nil {
			t.Fatal("roots")
		}
	default:
		t.Fatalf("%T", p)
	}
	text, err := json.Marshal(x.params)
	if err != nil || string(text) != string(x.raw) {
		t.Fatalf("on record %s, sent %s", x.raw, text)
	}
}

// FuzzInput feeds the state and the answers that clients bring. Nothing counts
// that was not asked for here, and what was taken is taken once.
func FuzzInput(f *testing.F) {
	g := newGovernor(nil, nil, nil)
	made := map[string]clientState{}
	asks := mcp.InputRequestMap{"q": &mcp.ElicitParams{Mode: "form", Message: "?"}}
	query := func(agent string) *query {
		q := &query{method: methodCallTool, name: "shop__order", args: []byte(`{}`)}
		q.actor.Agent = agent
		return q
	}
	for _, st := range []clientState{{Theirs: true, Inner: "after 1"}, {Theirs: true}, {ID: "gone"}} {
		r, err := query("bot").inputRequired(g.seal, asks, st, time.Hour)
		if err != nil {
			f.Fatal(err)
		}
		var doc struct{ RequestState string }
		text, _ := r.text()
		if err := json.Unmarshal(text, &doc); err != nil {
			f.Fatal(err)
		}
		made[doc.RequestState] = st
		f.Add(doc.RequestState, "bot", `{"q":{"action":"accept"}}`)
		f.Add(doc.RequestState, "other", `{"q":{"action":"accept"},"x":{"roots":[]}}`)
	}
	f.Add("", "bot", `{}`)
	f.Add("", "bot", `{"q":{"role":"user"}}`)
	f.Fuzz(func(t *testing.T, state, agent, answers string) {
		p := &mcp.CallToolParamsRaw{RequestState: state}
		if json.Unmarshal([]byte(answers), &p.InputResponses) != nil {
			return
		}
		brought := len(p.InputResponses)
		q := query(agent)
		q.req = &mcp.CallToolRequest{Params: p}
		no := g.takeInput(q)
		st, ours := made[state]
		switch {
		case no != nil && ours && agent == "bot" && st.ID == "":
			t.Fatalf("refused: %v", no.detail)
		case no != nil:
			if len(q.answers) > 0 || q.asked != nil {
				t.Fatal("refused, and counted")
			}
		case state == "" && brought == 0:
		case !ours || agent != "bot":
			t.Fatalf("taken: %q of %q", state, agent)
		case p.RequestState != st.Inner:
			t.Fatalf("state %q", p.RequestState)
		}
		for key, a := range q.answers {
			if key != "q" || kindOfAnswer(a) != kindElicit {
				t.Fatalf("answer %q to nothing", key)
			}
		}
	})
}
