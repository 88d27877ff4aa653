package apidoor_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/agentid"
	"github.com/twinward-dev/twinward/credential/credentialtest"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/sandbox/apidoor"
)

var (
	by     = audit.Change{By: "a test", Reason: "it needs it"}
	worker = audit.Actor{Agent: "worker", Issuer: "session"}
)

const policies = `
@id("reach") permit (principal, action == Action::"connect", resource == Host::"api.example.com") when { context has method && context.method == "GET" };
@id("token") permit (principal == Agent::"worker", action == Action::"use_credential", resource == Credential::"api")
when { context has server && context.server == "api.example.com" && context has purpose && context.purpose == "http" };
@id("mine-only") forbid (principal, action == Action::"connect", resource)
when { context has path && context.path like "/projects/*" && !(context.path like "/projects/mine/*") };
@id("not-there") forbid (principal, action == Action::"connect", resource) when { context has path && context.path like "/admin*" };`

// A house is a host with one API, which counts whom it answers.
type house struct {
	log    *audittest.Log
	engine *governance.Engine
	agents *agentid.Registry
	proxy  *credential.ProxyHandler
	asked  atomic.Int64
	held   chan struct{} // the API answers /slow when it is closed
	came   chan struct{}
}

func newHouse(t *testing.T) *house {
	h := &house{log: audittest.NewLog(t), held: make(chan struct{}), came: make(chan struct{}, 1)}
	h.engine = governance.NewEngine(h.log, nil)
	_, err := h.engine.Reload(t.Context(), governance.Bundle{Policies: []governance.Source{{Name: "test.cedar", Text: policies}}}, by)
	require.NoError(t, err)
	h.agents, err = agentid.NewRegistry(h.log, nil)
	require.NoError(t, err)
	for _, id := range []string{worker.Agent, "other"} {
		_, err = h.agents.Register(t.Context(), agentid.Agent{ID: id, Owner: "a test"}, by)
		require.NoError(t, err)
	}
	token := credentialtest.Canary()
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "Bearer "+token, r.Header.Get("Authorization"))
		h.asked.Add(1)
		if r.URL.Path == "/slow" {
			h.came <- struct{}{}
			select {
			case <-r.Context().Done():
			case <-h.held:
			}
		}
	}))
	t.Cleanup(api.Close)
	vault := credentialtest.NewVault(t, api, map[string]string{"api": token})
	h.proxy = credential.Proxy(api.URL, vault, apidoor.Authorize(h.engine, h.log, "api.example.com", "api", &apidoor.Options{Agents: h.agents}))
	return h
}

// What servers read in different ways is refused, whatever policy says of one of them.
func TestAmbiguous(t *testing.T) {
	h := newHouse(t)
	for path, guard := range map[string]string{
		"/items;admin": audit.GuardAmbiguousPath, "/items%3badmin": audit.GuardAmbiguousPath, "/x%252fadmin": audit.GuardAmbiguousPath,
		"//admin": audit.GuardAmbiguousPath, "/x//admin": audit.GuardAmbiguousPath,
		"/x%c0%afadmin": audit.GuardAmbiguousPath, "/admi%09n": audit.GuardAmbiguousPath, "/items%7f": audit.GuardAmbiguousPath,
		"/x/../admin": audit.GuardAmbiguousPath, "/x/%2e%2e/admin": audit.GuardAmbiguousPath, "/x%2f..%2fadmin": audit.GuardAmbiguousPath,
		"/x/..": audit.GuardAmbiguousPath, "/./admin": audit.GuardAmbiguousPath, `/x\..\admin`: audit.GuardAmbiguousPath,
		"/x%5c..%5cadmin": audit.GuardAmbiguousPath, "/x%00": audit.GuardAmbiguousPath,
		"/items?_method=DELETE": audit.GuardOverride, "/items?a=1&_METHOD=DELETE": audit.GuardOverride,
		"/items?a=1;_metho%64=DELETE": audit.GuardOverride, "/items?_method[]=DELETE": audit.GuardOverride,
	} {
		assert.Equal(t, http.StatusForbidden, h.ask(t, worker, "GET", "http://api.example.com"+path), path)
		recs := h.log.Records()
		d := recs[len(recs)-1].Decision()
		require.NotNil(t, d, path)
		assert.Equal(t, guard, d.Reason, path)
	}
	for _, name := range []string{"X_HTTP_Method_Override", "X-HTTP_Method", "X-Method-Override", "X-Original-Uri", "X_Rewrite_URL", "X-Override-Url"} {
		assert.Equal(t, http.StatusForbidden, h.ask(t, worker, "GET", "http://api.example.com/items", name), name)
		recs := h.log.Records()
		assert.Equal(t, audit.GuardOverride, recs[len(recs)-1].Decision().Reason, name)
	}
	assert.Zero(t, h.asked.Load())
	assert.Equal(t, http.StatusOK, h.ask(t, worker, "GET", "http://api.example.com/items/1%20a?q=a%2Fb&method=x", "X_Method"))
	assert.EqualValues(t, 1, h.asked.Load())
}

// An escaped slash is a part of a name to some servers: policy has to allow both
// readings, and that is one act.
func TestEscapedSlash(t *testing.T) {
	h := newHouse(t)
	for path, want := range map[string]int{
		"/@team%2fsauce": http.StatusOK, "/@team%2Fsauce%20a": http.StatusOK, "/projects/mine/issues": http.StatusOK, "/projects/mine/a%2Fb": http.StatusOK,
		"/projects/mine%2fissues": http.StatusForbidden, "/projects/mine/.x/": http.StatusOK, "%2fadmin": http.StatusForbidden,
	} {
		if path[0] != '/' {
			path = "/" + path
		}
		assert.Equal(t, want, h.ask(t, worker, "GET", "http://api.example.com"+path), path)
	}
	assert.EqualValues(t, 5, h.asked.Load())
	calls := 0
	for _, r := range h.log.Records() {
		if r.Intent != nil && r.Intent.Action == "connect" {
			calls++
		}
	}
	assert.Equal(t, 5, calls, "one record for each")
}

const trace = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"

// ask returns the status, 0 if there was no answer. headers are sent with the value DELETE.
func (h *house) ask(t *testing.T, actor audit.Actor, method, path string, headers ...string) (status int) {
	defer func() {
		if p := recover(); p != nil {
			assert.Equal(t, http.ErrAbortHandler, p)
		}
	}()
	r := httptest.NewRequestWithContext(audit.WithActor(t.Context(), actor), method, path, nil)
	r.Header.Set("Traceparent", trace)
	for _, name := range headers {
		r.Header[name] = []string{"DELETE"}
	}
	w := httptest.NewRecorder()
	h.proxy.ServeHTTP(w, r)
	return w.Code
}

// What both decisions allow is on record, sent with the secret, and on record again.
func TestAllowed(t *testing.T) {
	h := newHouse(t)
	require.Equal(t, http.StatusOK, h.ask(t, worker, "GET", "/repos"))
	assert.EqualValues(t, 1, h.asked.Load())
	var in *audit.Intent
	var out *audit.Outcome
	for _, r := range h.log.Records() {
		if r.Intent != nil {
			require.Nil(t, in)
			in = r.Intent
		}
		if r.Outcome != nil {
			out = r.Outcome
		}
	}
	require.NotNil(t, in)
	require.NotNil(t, out)
	assert.Equal(t, audit.DoorCompute, in.Door)
	assert.Equal(t, "connect", in.Action)
	assert.Equal(t, `Host::"api.example.com"`, in.Resource)
	assert.Equal(t, worker, in.Actor)
	assert.Equal(t, trace, in.Trace)
	assert.Equal(t, "reach", in.Decision.Policies[0].ID)
	assert.Equal(t, "token", in.Credential.Decision.Policies[0].ID)
	assert.Equal(t, audit.StatusOK, out.Status)
	assert.EqualValues(t, 1, out.CredentialVersion)
}

// Each refusal is on record with its own cause, and nothing is sent.
func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		actor        audit.Actor
		method, path string
		before       func(*testing.T, *house)
		action       string
		cause        string
	}{
		"nobody":           {method: "GET", path: "/", action: "connect", cause: audit.GuardNoActor},
		"another method":   {actor: worker, method: "POST", path: "/", action: "connect", cause: audit.ReasonNoPermit},
		"a forbidden path": {actor: worker, method: "GET", path: "/admin/keys", action: "connect", cause: "not-there"},
		"another's secret": {actor: audit.Actor{Agent: "other", Issuer: "session"}, method: "GET", path: "/", action: "use_credential", cause: audit.ReasonNoPermit},
		"an unknown agent": {actor: audit.Actor{Agent: "stranger", Issuer: "session"}, method: "GET", path: "/", action: "connect", cause: audit.GuardRevoked},
		"a revoked agent":  {actor: worker, method: "GET", path: "/", before: func(t *testing.T, h *house) { require.NoError(t, h.agents.Revoke(t.Context(), worker.Agent, by)) }, action: "connect", cause: audit.GuardRevoked},
		"no policy in force": {actor: worker, method: "GET", path: "/", before: func(_ *testing.T, h *house) {
			h.proxy = credential.Proxy("https://api.example.com", credential.NewMemory(nil), apidoor.Authorize(nil, h.log, "api.example.com", "api", nil))
		}, action: "connect", cause: audit.GuardNoSnapshot},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			if c.before != nil {
				c.before(t, h)
			}
			assert.Equal(t, http.StatusForbidden, h.ask(t, c.actor, c.method, c.path))
			assert.Zero(t, h.asked.Load())
			denials := h.log.Denials()
			require.Len(t, denials, 1)
			assert.Equal(t, c.action, denials[0].Action)
			assert.Equal(t, c.actor, denials[0].Actor)
			assert.Contains(t, append(denials[0].Decision.PolicyIDs(), denials[0].Decision.Reason), c.cause)
			for _, r := range h.log.Records() {
				assert.Nil(t, r.Intent)
			}
		})
	}
}

// Without a log there is no request, and an agent that sends no trace, or
// something else in its place, has none on record.
func TestNoLogNoRequest(t *testing.T) {
	h := newHouse(t)
	h.log.Fail(errors.New("the disk is full"))
	assert.Equal(t, http.StatusServiceUnavailable, h.ask(t, worker, "GET", "/"), "this is no denial")
	assert.Zero(t, h.asked.Load())
	h.log.Fail(nil)

	r := httptest.NewRequestWithContext(audit.WithActor(t.Context(), worker), "GET", "/", nil)
	r.Header.Set("Traceparent", "00-"+trace)
	h.proxy.ServeHTTP(httptest.NewRecorder(), r)
	for _, r := range h.log.Records() {
		if r.Intent != nil {
			assert.Empty(t, r.Intent.Trace)
		}
	}
	assert.EqualValues(t, 1, h.asked.Load())
}

// A request that is under way ends with its agent, and the record says why.
func TestRevokedMeanwhile(t *testing.T) {
	h := newHouse(t)
	answered := make(chan int)
	go func() { answered <- h.ask(t, worker, "GET", "/slow") }()
	<-h.came
	require.NoError(t, h.agents.Revoke(t.Context(), worker.Agent, by))
	assert.NotEqual(t, http.StatusOK, <-answered)
	ended := 0
	for _, r := range h.log.Records() {
		if r.Outcome != nil {
			ended++
			assert.Equal(t, audit.StatusCancelled, r.Outcome.Status)
			assert.Equal(t, audit.GuardRevoked, r.Outcome.ErrorCode)
		}
	}
	assert.Equal(t, 1, ended)
}
