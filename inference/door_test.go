package inference

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential/credentialtest"
	"github.com/twinward-dev/twinward/governance"
)

const plainMessage = `{"model":"good","max_tokens":9,"messages":[]}`

func TestCallPassesThrough(t *testing.T) {
	for path, tc := range map[string]struct {
		body, answer, upstream string
		used                   audit.Usage
	}{
		"/v1/chat/completions": {plainChat, `{"id":"1", "choices":[{}],"usage":{"prompt_tokens":5,"completion_tokens":2}}`, "/v1/chat/completions",
			audit.Usage{Model: "good", Input: 5, Output: 2, Final: true}},
		"/chat/completions": {plainChat, `{"choices":[]}`, "/v1/chat/completions", audit.Usage{Model: "good", Input: 15, Output: 4}},
		"/v1/messages?beta=true": {plainMessage, `{"type":"message","usage":{"input_tokens":3,"cache_read_input_tokens":9,"output_tokens":4}}`,
			"/v1/messages?beta=true", audit.Usage{Model: "good", Input: 3, CacheRead: 9, Output: 4, Final: true}},
	} {
		h := newHouse(t, nil)
		var got string
		h.backend = func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			got = r.Method + " " + r.URL.String() + " " + string(b)
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, tc.answer)
		}
		resp, answer := h.post(path, tc.body)
		assert.Equal(t, 200, resp.StatusCode)
		assert.Equal(t, tc.answer, answer)
		assert.Equal(t, "POST "+tc.upstream+" "+tc.body, got)

		records := h.log.Records()
		require.Len(t, records, 3) // policy, intent, outcome
		in := records[1].Intent
		require.NotNil(t, in)
		assert.Equal(t, "invoke_model", in.Action)
		assert.Equal(t, bot, in.Actor)
		assert.Equal(t, []string{"models"}, in.Decision.PolicyIDs())
		assert.Equal(t, []string{"keys"}, in.Credential.Decision.PolicyIDs())
		out := h.outcome()
		assert.Equal(t, audit.StatusOK, out.Status)
		assert.EqualValues(t, len(answer), out.Bytes)
		assert.EqualValues(t, 1, out.CredentialVersion)
		assert.Equal(t, tc.used, *out.Usage)
	}
}

func TestHeadersPassByAllowListOnly(t *testing.T) {
	h := newHouse(t, nil)
	var got http.Header
	h.backend = func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		for k, v := range map[string]string{"Set-Cookie": "a=b", "Openai-Organization": "org-1", "Anthropic-Organization-Id": "o",
			"X-Ratelimit-Remaining-Tokens": "5", "Server": "x", "Request-Id": "r1", "Retry-After": "7"} {
			w.Header().Set(k, v)
		}
		_, _ = io.WriteString(w, "{}")
	}
	req := h.request(http.MethodPost, "/v1/messages", plainMessage)
	for k, v := range map[string]string{"Cookie": "c=d", "Authorization": "Bearer dummy", "X-Api-Key": "dummy", "X-Exfil": "data",
		"Openai-Organization": "org-2", "Anthropic-Beta": "b1,b2", "Anthropic-Version": "2023-06-01", "Accept": "application/json",
		"User-Agent": "agent/1", "X-Forwarded-For": "1.2.3.4", "Accept-Encoding": "gzip, br", "X-Claude-Code-Session-Id": "s"} {
		req.Header.Set(k, v)
	}
	resp, _, err := h.do(req)
	require.NoError(t, err)
	assert.Equal(t, http.Header{
		"Accept": {"application/json"}, "Anthropic-Beta": {"b1,b2"}, "Anthropic-Version": {"2023-06-01"},
		"Content-Length": {"45"}, "Content-Type": {"application/json"}, "User-Agent": {"twinward"}, "X-Api-Key": {h.key},
	}, without(got, "Accept-Encoding"))
	assert.NotContains(t, got.Get("Accept-Encoding"), "gzip")
	assert.Equal(t, http.Header{
		"Content-Length": {"2"}, "Content-Type": {"text/plain; charset=utf-8"}, "Request-Id": {"r1"}, "Retry-After": {"7"},
	}, without(resp.Header, "Date"))
}

// A backend without a credential gets none, and least of all the agent's.
func TestBackendsWithoutACredential(t *testing.T) {
	h := newHouse(t, nil)
	var got http.Header
	open := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { got = r.Header.Clone() }))
	defer open.Close()
	router, err := NewRouter(Config{Backends: []Backend{{Name: "openai", BaseURL: open.URL, Models: []string{"good"}}}}, h.engine, h.log, nil)
	require.NoError(t, err)
	defer router.Close()
	rec, req := httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/v1/chat/completions", strings.NewReader(plainChat))
	req.Header.Set("Authorization", "Bearer dummy")
	session(router, bot).ServeHTTP(rec, req)
	assert.Equal(t, 200, rec.Code)
	assert.NotContains(t, got, "Authorization")
	assert.NotContains(t, got, "X-Api-Key")
	assert.Empty(t, h.log.Records()[1].Intent.Credential)
	assert.Zero(t, h.outcome().CredentialVersion)
}

func without(h http.Header, names ...string) http.Header {
	h = h.Clone()
	for _, n := range names {
		h.Del(n)
	}
	return h
}

func TestTheKeyNeverComesBack(t *testing.T) {
	for name, path := range map[string]string{"openai": "/v1/chat/completions", "anthropic": "/v1/messages"} {
		for form, echo := range map[string]func(string) string{
			"raw":    func(k string) string { return k },
			"base64": func(k string) string { return base64.StdEncoding.EncodeToString([]byte("Bearer " + k)) },
		} {
			for kind, answer := range map[string]http.HandlerFunc{
				"json": func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.WriteString(w, `{"x":"`+r.Header.Get("Echo")+`"}`)
				},
				"error": func(w http.ResponseWriter, r *http.Request) {
					http.Error(w, `{"error":{"message":"`+r.Header.Get("Echo")+`"}}`, http.StatusTooManyRequests)
				},
				"header": func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Request-Id", r.Header.Get("Echo")) },
				"stream": func(w http.ResponseWriter, r *http.Request) {
					e := r.Header.Get("Echo")
					sse("data: {\"text\":\"", e[:9], e[9:], "\"}\n\ndata: [DONE]\n\n")(w, r)
				},
			} {
				h := newHouse(t, nil)
				h.backend = func(w http.ResponseWriter, r *http.Request) {
					r.Header.Set("Echo", echo(h.key))
					answer(w, r)
				}
				resp, body := h.post(path, `{"model":"good","max_tokens":1,"messages":[]}`)
				seen := body
				for k, v := range resp.Header {
					seen += k + ": " + strings.Join(v, ",")
				}
				assert.NotContains(t, seen, h.key)
				assert.NotContains(t, seen, echo(h.key))
				credentialtest.AssertNoLeak(t, h.vault.Scrubber(), []byte(seen))
				if kind != "header" {
					assert.Contains(t, seen, "[redacted:", "%s %s %s", name, form, kind)
					require.NotEmpty(t, h.outcome().Checks)
					assert.Contains(t, h.outcome().Checks[0], "scrubbed:")
					records := h.log.Records()
					require.Equal(t, audit.KindLeak, records[len(records)-2].Event.Kind, "before the outcome")
					assert.Equal(t, "1", records[len(records)-2].Event.Detail["found"])
				}
				line, err := json.Marshal(h.log.Records())
				require.NoError(t, err)
				credentialtest.AssertNoLeak(t, h.vault.Scrubber(), line)
			}
		}
	}
}

func TestDeniedCallsDoNotReachTheBackend(t *testing.T) {
	for name, tc := range map[string]struct {
		path, body string
		status     int
		action     string
		reason     string // prefix
		says       string
	}{
		"model that policy forbids":     {"/v1/chat/completions", `{"model":"forbidden"}`, 403, "invoke_model", audit.ReasonNoPermit, `may not use the model`},
		"model outside of the profile":  {"/v1/messages", `{"model":"not-in-profile"}`, 404, "invoke_model", audit.ReasonNotInProfile, `does not exist`},
		"model that nobody serves":      {"/v1/messages", `{"model":"nowhere"}`, 404, "invoke_model", audit.GuardUnknown, `does not exist`},
		"model of the other protocol":   {"/v1/messages", `{"model":"keyless"}`, 404, "invoke_model", audit.GuardUnknown, `does not exist`},
		"alias of the other protocol":   {"/v1/messages", `{"model":"fast"}`, 404, "invoke_model", audit.GuardUnknown, `does not exist`},
		"too long an answer":            {"/v1/messages", `{"model":"good","max_tokens":64000}`, 403, "invoke_model", "small-answers", `like this`},
		"too many answers":              {"/v1/chat/completions", `{"model":"good","max_tokens":40000,"n":2}`, 403, "invoke_model", "small-answers", `like this`},
		"hosted tool":                   {"/v1/chat/completions", `{"model":"good","web_search_options":{}, "plugins":[{}]}`, 403, "use_hosted_tool", audit.ReasonNoPermit, `\"plugins\"`},
		"hosted tool, other protocol":   {"/v1/messages", `{"model":"good","tools":[{"type":"web_search_20250305","name":"web_search"},{"type":"code_execution_20250825"}]}`, 403, "use_hosted_tool", audit.ReasonNoPermit, `\"code_execution\"`},
		"field that nobody knows":       {"/v1/chat/completions", `{"model":"good","models":["forbidden"]}`, 403, "use_hosted_tool", audit.ReasonNoPermit, `\"field:models\"`},
		"image by address":              {"/v1/messages", `{"model":"good","messages":[{"role":"user","content":[{"type":"image","source":{"type":"url","url":"http://169.254.169.254/"}}]}]}`, 403, "use_hosted_tool", audit.ReasonNoPermit, `\"fetch_url\"`},
		"credential":                    {"/v1/chat/completions", `{"model":"keyless"}`, 403, "use_credential", audit.ReasonNoPermit, `credential`},
		"smuggled model":                {"/v1/chat/completions", `{"model":"good","Model":"forbidden"}`, 400, "invoke_model", audit.GuardStrictJSON, `misspelling`},
		"endpoint of the stored":        {"/v1/files", `{}`, 403, "request", audit.GuardMethod, `not served`},
		"endpoint with a query":         {"/v1/chat/completions?api-version=1", plainChat, 403, "request", audit.GuardMethod, `not served`},
		"endpoint with another query":   {"/v1/messages?beta=true&x=1", plainMessage, 403, "request", audit.GuardMethod, `not served`},
		"endpoint that is no text":      {"/v1/%ff%00", plainMessage, 403, "request", audit.GuardMethod, `not served`},
		"endpoint with a doubled slash": {"/v1//messages", plainMessage, 403, "request", audit.GuardMethod, `not served`},
	} {
		h := newHouse(t, nil)
		resp, body := h.post(tc.path, tc.body)
		assert.Equal(t, tc.status, resp.StatusCode, name)
		assert.Contains(t, body, tc.says, name)
		d := h.denial()
		assert.Equal(t, tc.action, d.Action, name)
		assert.Equal(t, bot, d.Actor, name)
		assert.True(t, strings.HasPrefix(d.Decision.Reason, tc.reason), "%s: %s", name, d.Decision.Reason)
		assert.Contains(t, body, d.Decision.ID, name)
		assert.Equal(t, d.Decision.ID, resp.Header.Get("Twinward-Decision"), name)
		for _, id := range append(d.Decision.PolicyIDs(), d.Decision.Nearest...) {
			assert.NotContains(t, body, id, "%s: the agent learns policy", name)
		}
	}
}

// What the agent must not know about looks like what does not exist.
func TestHiddenAndUnknownModelsLookAlike(t *testing.T) {
	h := newHouse(t, nil)
	answer := func(model string) string {
		resp, body := h.post("/v1/messages", `{"model":"`+model+`"}`)
		assert.Equal(t, 404, resp.StatusCode)
		return strings.NewReplacer(model, "M", resp.Header.Get("Twinward-Decision"), "ID").Replace(body)
	}
	assert.Equal(t, answer("nowhere-at-all"), answer("not-in-profile"))
}

func TestErrorsHaveTheShapeOfTheProtocol(t *testing.T) {
	h := newHouse(t, nil)
	_, body := h.post("/v1/chat/completions", `{"model":"nowhere"}`)
	var o struct {
		Error struct{ Message, Type, Code string }
	}
	require.NoError(t, json.Unmarshal([]byte(body), &o))
	assert.Equal(t, "model_not_found", o.Error.Code)
	assert.Equal(t, "invalid_request_error", o.Error.Type)

	_, body = h.post("/v1/messages", `{"model":"nowhere"}`)
	var a struct {
		Type  string
		Error struct{ Message, Type string }
	}
	require.NoError(t, json.Unmarshal([]byte(body), &a))
	assert.Equal(t, "error", a.Type)
	assert.Equal(t, "not_found_error", a.Error.Type)

	_, body = h.post("/v1beta/models/x:generateContent", `{}`)
	assert.Contains(t, body, `"NOT_FOUND"`)
	_, body = h.post("/v1beta/files", `{}`)
	assert.Contains(t, body, `"PERMISSION_DENIED"`)
}

func TestHosted(t *testing.T) {
	h := newHouse(t, nil)
	resp, _ := h.post("/v1/messages", `{"model":"good","tools":[{"type":"web_search_20250305","name":"web_search"}]}`)
	assert.Equal(t, 200, resp.StatusCode)
	assert.Equal(t, []string{"hosted-tool:web_search"}, h.outcome().Checks, "the record must name it")
}

func TestAliasesBecomeTheModel(t *testing.T) {
	h := newHouse(t, nil)
	var got string
	h.backend = func(w http.ResponseWriter, r *http.Request) { b, _ := io.ReadAll(r.Body); got = string(b) }
	h.post("/v1/chat/completions", `{"seed":1, "model" : "fast" ,"messages":[]}`)
	assert.Equal(t, `{"seed":1, "model" : "good" ,"messages":[]}`, got)
	assert.Contains(t, h.log.Records()[1].Intent.Resource, "openai/good")
}

func TestUsageIsAskedForByteExact(t *testing.T) {
	for body, want := range map[string]string{
		`{"model":"good","stream":true}`:                                                  `{"stream_options":{"include_usage":true},"model":"good","stream":true}`,
		` { "model":"good","stream":true}`:                                                ` {"stream_options":{"include_usage":true}, "model":"good","stream":true}`,
		`{"model":"fast","stream":true}`:                                                  `{"stream_options":{"include_usage":true},"model":"good","stream":true}`,
		`{"model":"good","stream":true,"stream_options":null}`:                            `{"model":"good","stream":true,"stream_options":{"include_usage":true}}`,
		`{"model":"good","stream":true,"stream_options":{ }}`:                             `{"model":"good","stream":true,"stream_options":{"include_usage":true}}`,
		`{"stream_options":{"x":1},"model":"fast","stream":true}`:                         `{"stream_options":{"include_usage":true,"x":1},"model":"good","stream":true}`,
		`{"stream_options":{"x":1,"include_usage": false},"model":"good","stream":true}`:  `{"stream_options":{"x":1,"include_usage": true},"model":"good","stream":true}`,
		`{"stream_options":{"include_usage":null,"x":[1]},"model":"good","stream":true}`:  `{"stream_options":{"include_usage":true,"x":[1]},"model":"good","stream":true}`,
		`{"stream_options":{"include_usage":true},"model":"good","stream":true,"seed":1}`: `{"stream_options":{"include_usage":true},"model":"good","stream":true,"seed":1}`,
		`{"model":"good","stream":false}`:                                                 `{"model":"good","stream":false}`,
		`{"model":"good","stream":null,"stream_options":{"include_usage":false}}`:         `{"model":"good","stream":null,"stream_options":{"include_usage":false}}`,
	} {
		h := newHouse(t, nil)
		var got string
		h.backend = func(w http.ResponseWriter, r *http.Request) { b, _ := io.ReadAll(r.Body); got = string(b) }
		h.post("/v1/chat/completions", body)
		assert.Equal(t, want, got)
	}
}

func TestNobodyIsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		identify func(*http.Request) (audit.Actor, error)
		guard    string
	}{
		"no way to identify": {nil, audit.GuardNoActor},
		"no token":           {func(*http.Request) (audit.Actor, error) { return audit.Actor{}, audit.ErrNoActor }, audit.GuardNoActor},
		"bad token":          {func(*http.Request) (audit.Actor, error) { return audit.Actor{}, errors.New("expired") }, audit.GuardToken},
		"revoked":            {func(*http.Request) (audit.Actor, error) { return audit.Actor{}, audit.ErrRevoked }, audit.GuardRevoked},
		"two actors":         {func(*http.Request) (audit.Actor, error) { return audit.Actor{}, audit.ErrActorConflict }, audit.GuardActor},
		"nobody":             {func(*http.Request) (audit.Actor, error) { return audit.Actor{User: "u"}, nil }, audit.GuardNoActor},
	} {
		h := newHouse(t, &Options{Identify: tc.identify})
		for _, path := range []string{"/v1/messages", "/v1/chat/completions"} {
			rec := httptest.NewRecorder()
			h.router.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, path, strings.NewReader(plainMessage)))
			assert.Equal(t, 401, rec.Code, name)
			assert.Contains(t, rec.Body.String(), "authentication_error", name)
		}
		d := h.log.Denials()
		require.Len(t, d, 2)
		assert.Equal(t, tc.guard, d[0].Decision.Reason, name)
		assert.Zero(t, h.requests.Load())
	}
}

func TestRevokedAgentsAreRefused(t *testing.T) {
	h := newHouse(t, &Options{Agents: &agents{err: errors.New("revoked")}})
	resp, _ := h.post("/v1/messages", plainMessage)
	assert.Equal(t, 403, resp.StatusCode)
	assert.Equal(t, audit.GuardRevoked, h.denial().Decision.Reason)
}

func TestNoAuditNoAction(t *testing.T) {
	h := newHouse(t, nil)
	h.log.Fail(errors.New("disk full"))
	for _, body := range []string{plainMessage, `{"model":"nowhere"}`, `{`} {
		resp, got := h.post("/v1/messages", body)
		assert.Equal(t, 503, resp.StatusCode)
		assert.Contains(t, got, "cannot record")
	}
	resp, _, err := h.do(h.request(http.MethodGet, "/v1/models", ""))
	require.NoError(t, err)
	assert.Equal(t, 503, resp.StatusCode)
	assert.Zero(t, h.requests.Load()+h.strays.Load())
	h.log.Fail(nil)
}

// The outcome of an answer that is not a stream is durable before any of it.
func TestNoOutcomeNoAnswer(t *testing.T) {
	h := newHouse(t, nil)
	h.backend = func(w http.ResponseWriter, r *http.Request) {
		h.log.Fail(errors.New("disk full"))
		_, _ = io.WriteString(w, `{"choices":"the answer"}`)
	}
	resp, got := h.post("/v1/chat/completions", plainChat)
	assert.Equal(t, 503, resp.StatusCode)
	assert.NotContains(t, got, "the answer")
	h.log.Fail(nil)
}

func TestNilEngineAndNilLogRefuse(t *testing.T) {
	h := newHouse(t, nil)
	for name, tc := range map[string]struct {
		engine *governance.Engine
		log    audit.Recorder
		status int
	}{"no engine": {nil, h.log, 403}, "no log": {h.engine, nil, 503}} {
		router, err := NewRouter(h.config(), tc.engine, tc.log, &Options{Vault: h.vault})
		require.NoError(t, err)
		for _, req := range []*http.Request{
			httptest.NewRequest(http.MethodPost, "/v1/messages", strings.NewReader(plainMessage)),
			httptest.NewRequest(http.MethodGet, "/v1/models", nil),
		} {
			rec := httptest.NewRecorder()
			session(router, bot).ServeHTTP(rec, req)
			assert.Equal(t, tc.status, rec.Code, name)
		}
	}
	assert.Zero(t, h.requests.Load()+h.strays.Load())
}

func TestBodiesThatAreNotPlainJSON(t *testing.T) {
	h := newHouse(t, &Options{MaxBody: 1000})
	for name, tc := range map[string]struct {
		header, value string
		size          int
		status        int
	}{
		"gzip":         {"Content-Encoding", "gzip", 1, 415},
		"unknown":      {"Content-Encoding", "identity, zstd", 1, 415},
		"identity":     {"Content-Encoding", "identity", 1, 200},
		"form":         {"Content-Type", "application/x-www-form-urlencoded", 1, 415},
		"UTF-16":       {"Content-Type", "application/json; charset=utf-16", 1, 415},
		"UTF-8":        {"Content-Type", `application/json; charset="UTF-8"`, 1, 200},
		"too large":    {"X", "x", 1000, 413},
		"not too much": {"X", "x", 800, 200},
	} {
		body := `{"model":"good","max_tokens":1,"metadata":{"x":"` + strings.Repeat("x", tc.size) + `"}}`
		for _, chunked := range []bool{false, true} {
			req := h.request(http.MethodPost, "/v1/messages", body)
			req.Header.Set(tc.header, tc.value)
			if chunked {
				req.ContentLength = -1
			}
			resp, got, err := h.do(req)
			require.NoError(t, err)
			assert.Equal(t, tc.status, resp.StatusCode, "%s: %s", name, got)
		}
	}
}

func TestModelsAreListedByPolicy(t *testing.T) {
	h := newHouse(t, nil)
	ids := func(header string) (out []string) {
		req := h.request(http.MethodGet, "/v1/models", "")
		if header != "" {
			req.Header.Set(header, "2023-06-01")
		}
		_, body, err := h.do(req)
		require.NoError(t, err)
		var list struct{ Data []struct{ ID string } }
		require.NoError(t, json.Unmarshal([]byte(body), &list))
		for _, m := range list.Data {
			out = append(out, m.ID)
		}
		return out
	}
	assert.Equal(t, []string{"good", "keyless", "fast"}, remove(ids(""), "forbidden"))
	assert.Equal(t, []string{"good"}, ids("Anthropic-Version"))
	var lists int
	for _, r := range h.log.Records() {
		if r.Event != nil && r.Event.Kind == audit.KindList {
			lists++
			assert.Equal(t, bot, r.Event.Actor)
		}
	}
	assert.Equal(t, 2, lists)
	assert.Zero(t, h.requests.Load(), "no backend is asked")
}

func remove(from []string, what string) (out []string) {
	for _, s := range from {
		if s != what {
			out = append(out, s)
		}
	}
	return out
}

func TestGreetingsAndUpgrades(t *testing.T) {
	h := newHouse(t, nil)
	for _, method := range []string{http.MethodHead, http.MethodGet} {
		resp, body, err := h.do(h.request(method, "/", ""))
		require.NoError(t, err)
		assert.Equal(t, 200, resp.StatusCode)
		assert.Empty(t, body)
	}
	assert.Len(t, h.log.Records(), 1)
	req := h.request(http.MethodGet, "/v1/responses", "")
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "websocket")
	resp, _, err := h.do(req)
	require.NoError(t, err)
	assert.Equal(t, 426, resp.StatusCode)
	assert.Equal(t, audit.GuardMethod, h.denial().Decision.Reason)
}

// Refusals keep the connection: agents go on on it.
func TestRefusalsKeepTheConnection(t *testing.T) {
	h := newHouse(t, nil)
	var conns int
	srv := httptest.NewUnstartedServer(session(h.router, bot))
	srv.Config.ConnState = countNew(&conns)
	srv.Start()
	defer srv.Close()
	for _, path := range []string{"/v1/files", "/v1/responses", "/v1/chat/completions", "/v1/messages"} {
		resp, err := srv.Client().Post(srv.URL+path, "application/json", strings.NewReader(`{"model":"nowhere","user":"`+strings.Repeat("x", 100<<10)+`"}`))
		require.NoError(t, err)
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	srv.Close()
	assert.Equal(t, 1, conns)
}

func TestReload(t *testing.T) {
	h := newHouse(t, nil)
	next := h.config()
	next.Backends[1].Models = []string{"good", "newer"}
	require.ErrorIs(t, h.router.Reload(t.Context(), next, audit.Change{}), audit.ErrNoAuthority)
	require.ErrorIs(t, h.router.Reload(t.Context(), Config{}, operator), ErrConfig)

	// A call in flight keeps its routes.
	h.backend = func(w http.ResponseWriter, r *http.Request) {
		require.NoError(t, h.router.Reload(t.Context(), next, operator))
		sse(golden(t, "anthropic.sse"))(w, r)
	}
	_, body := h.post("/v1/messages", messagesStream)
	assert.Equal(t, golden(t, "anthropic.sse"), body)
	records := h.log.Records()
	assert.Equal(t, &operator, records[len(records)-2].Event.Change)

	h.log.Fail(errors.New("disk full"))
	require.Error(t, h.router.Reload(t.Context(), h.config(), operator))
	h.log.Fail(nil)
	assert.NotNil(t, h.router.routes.Load().byModel[routeKey{Anthropic, "newer"}], "a change that is not on record took effect")
}
