package mcpx_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

const tasksExtension = "io.modelcontextprotocol/tasks"

// jobs is a server that answers calls with tasks, as the extension says: with the
// tools that the conformance suite wants, and one that leaks its token. Everything
// but its tasks is the SDK's.
type jobs struct {
	*httptest.Server
	server   *mcp.Server
	mu       sync.Mutex
	of       map[string]*job
	seen     []string // methods, and what they were about
	rogue    bool     // answers with tasks whoever asks
	extra    string   // members of every answer about a task
	ttl      int      // of new tasks, in milliseconds; 0 is an hour
	question string   // that they ask; "" is the usual one
}

type job struct {
	id, status string
	created    time.Time
	ttl        int
	result     string
	fault      string
	asks       map[string]bool
	after      func(answers map[string]json.RawMessage) string
	answers    map[string]json.RawMessage
}

// newJobServer makes one that nobody serves yet.
func newJobServer() *jobs {
	j := &jobs{of: make(map[string]*job)}
	j.server = mcp.NewServer(&mcp.Implementation{Name: "jobs", Version: "1"}, &mcp.ServerOptions{
		Capabilities: &mcp.ServerCapabilities{Tools: &mcp.ToolCapabilities{}, Extensions: map[string]any{tasksExtension: map[string]any{}}},
	})
	for _, name := range []string{"greet", "slow_compute", "failing_job", "protocol_error_job", "confirm_delete", "multi_input", "test_tool_with_task", "leak"} {
		j.server.AddTool(&mcp.Tool{Name: name, Description: name, InputSchema: json.RawMessage(`{"type":"object"}`), Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true}}, nil)
	}
	return j
}

func newJobs(t testing.TB) *jobs {
	t.Helper()
	j := newJobServer()
	sdk := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return j.server }, &mcp.StreamableHTTPOptions{Stateless: true, JSONResponse: true})
	j.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var m struct {
			ID     json.RawMessage `json:"id"`
			Method string          `json:"method"`
			Params taskParams      `json:"params"`
		}
		_ = json.Unmarshal(body, &m)
		if m.Method != "tools/call" && m.Method != "tasks/get" && m.Method != "tasks/update" && m.Method != "tasks/cancel" {
			r.Body = io.NopCloser(bytes.NewReader(body))
			sdk.ServeHTTP(w, r)
			return
		}
		status, what := j.answer(r, m.Method, m.Params)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,%s}`, m.ID, what)
	}))
	t.Cleanup(func() {
		j.CloseClientConnections()
		j.Close()
	})
	return j
}

type taskParams struct {
	Meta struct {
		Caps struct {
			Extensions map[string]any `json:"extensions"`
		} `json:"io.modelcontextprotocol/clientCapabilities"`
	} `json:"_meta"`
	Name      string                     `json:"name"`
	TaskID    string                     `json:"taskId"`
	Arguments map[string]any             `json:"arguments"`
	Responses map[string]json.RawMessage `json:"inputResponses"`
}

func refusal(code int, text, data string) (int, string) {
	if data != "" {
		data = `,"data":` + data
	}
	return http.StatusBadRequest, fmt.Sprintf(`"error":{"code":%d,"message":%q%s}`, code, text, data)
}

func (j *jobs) answer(r *http.Request, method string, p taskParams) (int, string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	knows := p.Meta.Caps.Extensions[tasksExtension] != nil
	missing := func() (int, string) {
		return refusal(-32021, "tasks are needed", `{"requiredCapabilities":{"extensions":{"`+tasksExtension+`":{}}}}`)
	}
	named := p.Name + p.TaskID
	if r.Header.Get("Mcp-Method") != method || r.Header.Get("Mcp-Name") != named {
		return refusal(-32020, "header mismatch", "")
	}
	if method == "tools/call" {
		j.seen = append(j.seen, method+" "+p.Name)
		return j.call(r, p, knows || j.rogue, missing)
	}
	j.seen = append(j.seen, method+" "+strings.Join(slices.Sorted(maps.Keys(p.Responses)), " "))
	if !knows {
		return missing()
	}
	t := j.of[p.TaskID]
	if t == nil {
		return refusal(-32602, "no such task", "")
	}
	switch method {
	case "tasks/get":
		return 200, `"result":{"resultType":"complete",` + strings.ReplaceAll(t.doc(), question, cmp.Or(j.question, question)) + j.extra + `}`
	case "tasks/cancel":
		if t.status == "working" || t.status == "input_required" {
			t.status = "cancelled"
		}
	case "tasks/update":
		for key, a := range p.Responses {
			if t.asks[key] {
				t.answers[key] = a
				delete(t.asks, key)
			}
		}
		if t.status == "input_required" && len(t.asks) == 0 {
			t.status, t.result = "completed", t.after(t.answers)
		}
	}
	return 200, `"result":{"resultType":"complete"` + j.extra + `}`
}

func said(text string) string { return fmt.Sprintf(`{"content":[{"type":"text","text":%q}]}`, text) }

func (j *jobs) call(r *http.Request, p taskParams, knows bool, missing func() (int, string)) (int, string) {
	complete := func(text string) (int, string) {
		return 200, `"result":{"resultType":"complete",` + said(text)[1:]
	}
	t := &job{id: fmt.Sprint("job-", len(j.of)+1), status: "working", created: time.Now().UTC(), ttl: cmp.Or(j.ttl, 3600000), asks: map[string]bool{}, answers: map[string]json.RawMessage{}}
	finish := func(after time.Duration, status, result, fault string) {
		end := func() {
			if t.status == "working" {
				t.status, t.result, t.fault = status, result, fault
			}
		}
		if after == 0 {
			end()
			return
		}
		time.AfterFunc(after, func() {
			j.mu.Lock()
			defer j.mu.Unlock()
			end()
		})
	}
	switch p.Name {
	case "greet":
		return complete(fmt.Sprintf("Hello, %v!", p.Arguments["name"]))
	case "slow_compute":
		if !knows {
			return complete("computed")
		}
		seconds, _ := p.Arguments["seconds"].(float64)
		finish(time.Duration(seconds*float64(time.Second)), "completed", said("computed 9007199254740993"), "")
	case "leak":
		if !knows {
			return complete("nothing")
		}
		finish(0, "completed", said("sent "+r.Header.Get("Authorization")), "")
	case "failing_job":
		if !knows {
			return missing()
		}
		finish(100*time.Millisecond, "completed", `{"isError":true,`+said("it failed")[1:], "")
	case "protocol_error_job":
		if !knows {
			return missing()
		}
		finish(0, "failed", "", `{"code":-32603,"message":"broken inside"}`)
	case "confirm_delete", "multi_input":
		if !knows {
			return complete("not asked")
		}
		t.status, t.asks["first"] = "input_required", true
		if p.Name == "multi_input" {
			t.asks["second"] = true
		}
		t.after = func(map[string]json.RawMessage) string { return said("answered") }
	case "test_tool_with_task":
		if !knows {
			return missing()
		}
		a := p.Responses["user_name"]
		if a == nil {
			return 200, `"result":{"resultType":"input_required","inputRequests":{"user_name":` + question + `},"requestState":"s"}`
		}
		finish(0, "completed", said("hello "+string(a)), "")
	}
	j.of[t.id] = t
	state := t.status
	t.status = "working"
	doc := t.doc()
	t.status = state
	return 200, `"result":{"resultType":"task",` + doc + j.extra + `}`
}

const question = `{"method":"elicitation/create","params":{"mode":"form","message":"Sure?","requestedSchema":{"type":"object","properties":{"name":{"type":"string"}}}}}`

func (t *job) doc() string {
	out := fmt.Sprintf(`"taskId":%q,"status":%q,"createdAt":%q,"lastUpdatedAt":%q,"ttlMs":%d,"pollIntervalMs":100`,
		t.id, t.status, t.created.Format(time.RFC3339), t.created.Format(time.RFC3339), t.ttl)
	switch t.status {
	case "completed":
		out += `,"result":` + t.result
	case "failed":
		out += `,"error":` + t.fault
	case "input_required":
		var asks []string
		for key := range t.asks {
			asks = append(asks, fmt.Sprintf(`%q:%s`, key, question))
		}
		out += `,"inputRequests":{` + strings.Join(asks, ",") + `}`
	}
	return out
}

func (j *jobs) has() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.seen)
}

// A yard is a gateway in front of jobs.
type yard struct {
	t      *testing.T
	jobs   *jobs
	log    *audittest.Log
	engine *governance.Engine
	bundle governance.Bundle
	gw     *mcpx.Gateway
	url    string // of bot's door
	caps   string // what the client declares
	n      int
}

const jobsPolicy = `
@id("jobs") permit (principal, action in Action::"call_tool", resource);
@id("ask") permit (principal == Agent::"bot", action == Action::"elicit", resource);
@id("key") permit (principal, action == Action::"use_credential", resource);
`

func newYard(t *testing.T, slow bool, policy string, options ...func(*mcpx.GatewayOptions)) *yard {
	t.Helper()
	jobs := newJobs(t)
	u := mcpx.HTTP("jobs", jobs.URL)
	u.Credential = "jobs"
	return newYardOf(t, jobs, u, slow, policy, options...)
}

// newYardOf is newYard with the upstream u, whose server is jobs.
func newYardOf(t *testing.T, jobs *jobs, u *mcpx.Upstream, slow bool, policy string, options ...func(*mcpx.GatewayOptions)) *yard {
	t.Helper()
	o := &yard{t: t, jobs: jobs, log: audittest.NewLog(t), caps: `"extensions":{"` + tasksExtension + `":{}}`}
	catalog, err := mcpx.Catalog(t.Context(), "jobs", o.jobs.server)
	require.NoError(t, err)
	o.engine = governance.NewEngine(o.log, nil)
	o.bundle = governance.Bundle{Policies: []governance.Source{{Name: "p.cedar", Text: policy}}, Catalog: []governance.Server{catalog}}
	_, err = o.engine.Reload(t.Context(), o.bundle, admin)
	require.NoError(t, err)
	opts := &mcpx.GatewayOptions{}
	if u.Credential != "" {
		vault := credential.NewMemory(map[string]credential.Secret{"jobs": credential.NewSecret([]byte(token))})
		require.NoError(t, vault.Bind(t.Context(), "jobs", credential.Binding{Origin: o.jobs.URL}, admin))
		opts.Vault = vault
	}
	for _, f := range options {
		f(opts)
	}
	o.gw = mcpx.NewGateway(o.engine, o.log, opts)
	t.Cleanup(func() { o.gw.Close() })
	if slow {
		mcpx.SlowOnly(o.gw)
	}
	require.NoError(t, o.gw.AddUpstream(t.Context(), u))
	o.url = mcptest.Door(t, o.gw, bot).URL
	return o
}

// about is a JSON-RPC answer.
type about struct {
	Status int
	Result struct {
		Type   string          `json:"resultType"`
		TaskID string          `json:"taskId"`
		Status string          `json:"status"`
		Result json.RawMessage `json:"result"`
		Error  json.RawMessage `json:"error"`
		Asks   map[string]any  `json:"inputRequests"`
		Text   json.RawMessage `json:"content"`
	} `json:"result"`
	Error struct {
		Code int             `json:"code"`
		Data json.RawMessage `json:"data"`
	} `json:"error"`
	body string
}

// ask sends one request of the newer era.
func (o *yard) ask(url, method, name, params string, header ...[2]string) about {
	o.t.Helper()
	o.n++
	if params != "" {
		params = "," + params
	}
	status, body, h := fire(o.t, url, shot{
		header: append([][2]string{{"Mcp-Protocol-Version", modern}, {"Mcp-Method", method}, {"Mcp-Name", name}}, header...),
		body: fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":%q,"params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{%s}}%s}}`,
			o.n, method, o.caps, params),
	})
	out := about{Status: status, body: jsonOf(o.t, body, h)}
	require.NoError(o.t, json.Unmarshal([]byte(out.body), &out), body)
	return out
}

func (o *yard) call(tool string) about {
	return o.ask(o.url, "tools/call", "jobs__"+tool, `"name":"jobs__`+tool+`","arguments":{}`)
}

func (o *yard) get(id string) about {
	return o.ask(o.url, "tasks/get", id, `"taskId":"`+id+`"`)
}

func (o *yard) acts() (intents, outcomes []audit.Record) {
	for _, r := range o.log.Records() {
		if r.Intent != nil {
			intents = append(intents, r)
		}
		if r.Outcome != nil {
			outcomes = append(outcomes, r)
		}
	}
	return intents, outcomes
}

func ways(t *testing.T, f func(t *testing.T, slow bool)) {
	for _, slow := range []bool{false, true} {
		t.Run(fmt.Sprint("slow ", slow), func(t *testing.T) { f(t, slow) })
	}
}

// A task is one act of one owner: its intent is on record before the call, and its
// outcome before the client has the result, which is governed like any answer.
func TestTasks(t *testing.T) {
	ways(t, func(t *testing.T, slow bool) {
		o := newYard(t, slow, jobsPolicy)
		begun := o.call("slow_compute")
		require.Equal(t, "task", begun.Result.Type, begun.body)
		assert.Equal(t, "working", begun.Result.Status)
		id := begun.Result.TaskID
		assert.NotContains(t, begun.body, "job-1", "the server's id goes to nobody")
		assert.Contains(t, begun.body, `"ttlMs":3600000`)
		intents, outcomes := o.acts()
		require.Len(t, intents, 1)
		assert.Empty(t, outcomes)

		thief := mcptest.Door(t, o.gw, other).URL
		stolen := o.ask(thief, "tasks/get", id, `"taskId":"`+id+`"`)
		made := o.ask(thief, "tasks/get", "made-up", `"taskId":"made-up"`)
		assert.Equal(t, []int{400, -32602}, []int{stolen.Status, stolen.Error.Code})
		assert.Equal(t, strings.ReplaceAll(stolen.body, fmt.Sprint(`"id":`, o.n-1), ""), strings.ReplaceAll(made.body, fmt.Sprint(`"id":`, o.n), ""))
		assert.Equal(t, -32020, o.ask(o.url, "tasks/get", "other", `"taskId":"`+id+`"`).Error.Code)
		o.caps = ""
		undeclared := o.get(id)
		assert.Equal(t, []int{400, -32021}, []int{undeclared.Status, undeclared.Error.Code})
		assert.Contains(t, string(undeclared.Error.Data), tasksExtension)
		o.caps = `"extensions":{"` + tasksExtension + `":{}}`
		assert.Equal(t, []string{"tools/call slow_compute"}, o.jobs.has(), "none of this reached the server")

		done := o.get(id)
		assert.Equal(t, []string{"complete", "completed", id}, []string{done.Result.Type, done.Result.Status, done.Result.TaskID}, done.body)
		assert.JSONEq(t, said("computed 9007199254740993"), string(done.Result.Result))
		_, outcomes = o.acts()
		require.Len(t, outcomes, 1)
		assert.Equal(t, audit.StatusOK, outcomes[0].Outcome.Status)
		assert.Equal(t, intents[0].Seq, outcomes[0].Call)
		o.get(id)
		_, outcomes = o.acts()
		assert.Len(t, outcomes, 1, "an act ends once")

		leak := o.get(o.call("leak").Result.TaskID)
		assert.Equal(t, "completed", leak.Result.Status, leak.body)
		assert.NotContains(t, leak.body, token)
		_, outcomes = o.acts()
		assert.NotEmpty(t, outcomes[1].Outcome.Checks, "what was found is on record")

		failed := o.get(o.call("protocol_error_job").Result.TaskID)
		assert.Equal(t, "failed", failed.Result.Status)
		assert.Contains(t, string(failed.Result.Error), "broken inside")
		_, outcomes = o.acts()
		assert.Equal(t, audit.StatusFailed, outcomes[2].Outcome.Status)

		o.caps = ""
		assert.Equal(t, "complete", o.call("slow_compute").Result.Type, "who knows no tasks gets none")
		needs := o.call("protocol_error_job")
		assert.Equal(t, []int{400, -32021}, []int{needs.Status, needs.Error.Code}, needs.body)
		o.jobs.rogue = true
		rogue := o.call("slow_compute")
		assert.NotEqual(t, "task", rogue.Result.Type)
		assert.NotContains(t, rogue.body, "job-")
	})
}

// Policy decides about a task whenever its client comes, and what it demands of
// answers holds for the result.
func TestTasksMeetPolicy(t *testing.T) {
	o := newYard(t, false, jobsPolicy+`@id("small") @max_bytes("20") permit (principal, action == Action::"jobs__slow_compute", resource);`)
	done := o.get(o.call("slow_compute").Result.TaskID)
	assert.Equal(t, "completed", done.Result.Status, done.body)
	assert.Contains(t, string(done.Result.Result), `"isError":true`)
	assert.NotContains(t, done.body, "9007199254740993")
	_, outcomes := o.acts()
	assert.Equal(t, []string{"withheld:max_bytes", "polls:1"}, outcomes[0].Outcome.Checks)

	id := o.call("leak").Result.TaskID
	o.bundle.Policies[0].Text = jobsPolicy + `@id("no-more") forbid (principal, action == Action::"jobs__leak", resource);`
	_, err := o.engine.Reload(t.Context(), o.bundle, admin)
	require.NoError(t, err)
	seen := len(o.jobs.has())
	denied := o.get(id)
	assert.Equal(t, mcpx.CodeDenied, denied.Error.Code, denied.body)
	assert.Len(t, o.jobs.has(), seen)
	cancelled := o.ask(o.url, "tasks/cancel", id, `"taskId":"`+id+`"`) // whoever may do nothing more may still stop
	assert.Equal(t, "complete", cancelled.Result.Type, cancelled.body)
	assert.Equal(t, "tasks/cancel ", o.jobs.has()[seen])

	// What nobody saw the end of ends with the gateway.
	require.NoError(t, o.gw.Close())
	intents, outcomes := o.acts()
	assert.Len(t, outcomes, len(intents))
	assert.Equal(t, "closing", outcomes[len(outcomes)-1].Outcome.ErrorCode)
}

// A task may ask for what a call may ask for, if policy lets it, and hears no answer
// to anything else.
func TestTasksAsk(t *testing.T) {
	o := newYard(t, false, jobsPolicy)
	o.caps += `,"elicitation":{"form":{}}`
	id := o.call("multi_input").Result.TaskID
	for range 2 {
		asks := o.get(id)
		assert.Equal(t, "input_required", asks.Result.Status, asks.body)
		assert.Len(t, asks.Result.Asks, 2)
		assert.Contains(t, asks.body, `"dev.twinward/server":"jobs"`)
	}
	elicits := 0
	intents, _ := o.acts()
	for _, r := range intents {
		if r.Intent.Action == "elicit" {
			elicits++
		}
	}
	assert.Equal(t, 2, elicits, "each question is on record once")
	update := func(responses string) about {
		return o.ask(o.url, "tasks/update", id, `"taskId":"`+id+`","inputResponses":`+responses)
	}
	yes := `{"action":"accept","content":{"name":"x"}}`
	assert.Equal(t, "complete", update(`{"first":`+yes+`,"made-up":`+yes+`}`).Result.Type)
	assert.Equal(t, "tasks/update first", o.jobs.has()[len(o.jobs.has())-1])
	assert.Len(t, o.get(id).Result.Asks, 1)
	update(`{"second":{"roots":[]}}`) // of another kind
	assert.Equal(t, "tasks/update ", o.jobs.has()[len(o.jobs.has())-1])
	update(`{"second":` + yes + `}`)
	assert.Equal(t, "completed", o.get(id).Result.Status)

	begun := o.call("test_tool_with_task") // asks before it is a task
	require.Equal(t, "input_required", begun.Result.Type, begun.body)
	var state struct {
		Result struct {
			State string `json:"requestState"`
		} `json:"result"`
	}
	require.NoError(t, json.Unmarshal([]byte(begun.body), &state))
	then := o.ask(o.url, "tools/call", "jobs__test_tool_with_task", `"name":"jobs__test_tool_with_task","arguments":{},"requestState":"`+state.Result.State+`","inputResponses":{"user_name":`+yes+`}`)
	assert.Equal(t, "task", then.Result.Type, then.body)

	o.bundle.Policies[0].Text = strings.ReplaceAll(jobsPolicy, `@id("ask") permit`, `@id("ask") forbid`)
	_, err := o.engine.Reload(t.Context(), o.bundle, admin)
	require.NoError(t, err)
	id = o.call("confirm_delete").Result.TaskID
	no := o.get(id)
	assert.Equal(t, mcpx.CodeDenied, no.Error.Code, no.body)
	assert.NotContains(t, no.body, "Sure?")
}

// A revoked agent's tasks end with it.
func TestTasksEndWithTheirAgent(t *testing.T) {
	registry := newAgents()
	o := newYard(t, false, jobsPolicy, func(opts *mcpx.GatewayOptions) { opts.Agents = registry })
	id := o.call("slow_compute").Result.TaskID
	require.NotEmpty(t, id)
	registry.revoke("bot")
	require.Eventually(t, func() bool {
		_, outcomes := o.acts()
		return len(outcomes) == 1 && outcomes[0].Outcome.ErrorCode == audit.GuardRevoked
	}, time.Minute, time.Millisecond)
	registry.reinstate("bot")
	require.Eventually(t, func() bool { // it is forgotten after its end is on record, and nobody's until then
		code := o.get(id).Error.Code
		assert.Contains(t, []int{-32602, mcpx.CodeDenied}, code)
		return code == -32602
	}, time.Minute, time.Millisecond)
}

// What a server puts into its answers about a task besides how it stands passes by
// nothing that holds for results.
func TestTasksSayHowTheyStand(t *testing.T) {
	o := newYard(t, false, `
@id("jobs") @redact("$.structuredContent.ssn") permit (principal, action in Action::"call_tool", resource);
@id("key") permit (principal, action == Action::"use_credential", resource);
`)
	o.jobs.extra = `,"statusMessage":"SSN 078","content":[{"type":"text","text":"SSN 078"}],"_meta":{"x":"SSN 078"}`
	begun := o.ask(o.url, "tools/call", "jobs__slow_compute", `"name":"jobs__slow_compute","arguments":{"seconds":3600}`)
	require.Equal(t, "task", begun.Result.Type, begun.body)
	assert.NotContains(t, begun.body, "078")
	id := begun.Result.TaskID
	stands := o.ask(o.url, "tasks/get", id, fmt.Sprintf(`"taskId":%q`, id))
	assert.Equal(t, "working", stands.Result.Status, stands.body)
	assert.NotContains(t, stands.body, "078")
	stopped := o.ask(o.url, "tasks/cancel", id, fmt.Sprintf(`"taskId":%q`, id))
	assert.Zero(t, stopped.Error.Code, stopped.body)
	assert.NotContains(t, stopped.body, "078")
}

// Once the end of a task is on record, nothing else is told of it.
func TestTasksEndOnce(t *testing.T) {
	o := newYard(t, false, jobsPolicy)
	begun := o.ask(o.url, "tools/call", "jobs__slow_compute", `"name":"jobs__slow_compute","arguments":{"seconds":0}`)
	id := begun.Result.TaskID
	require.NotEmpty(t, id, begun.body)
	get := func() about { return o.ask(o.url, "tasks/get", id, fmt.Sprintf(`"taskId":%q`, id)) }
	first := get()
	require.Equal(t, "completed", first.Result.Status, first.body)
	assert.Equal(t, string(first.Result.Result), string(get().Result.Result), "the same again")
	o.jobs.mu.Lock()
	for _, j := range o.jobs.of {
		j.result = said("and this besides")
	}
	o.jobs.mu.Unlock()
	other := get()
	assert.NotZero(t, other.Error.Code, other.body)
	assert.NotContains(t, other.body, "besides")
	o.jobs.mu.Lock()
	for _, j := range o.jobs.of {
		j.status = "working"
	}
	o.jobs.mu.Unlock()
	assert.NotZero(t, get().Error.Code)
}
