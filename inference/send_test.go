package inference

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
	"github.com/twinward-dev/twinward/governance"
)

// A fleet is a router in front of three backends without a network: a and b with
// keys, c without. The route "big" leads to the model m of each, in this order.
type fleet struct {
	t      *testing.T
	log    *audittest.Log
	vault  *credential.Broker
	engine *governance.Engine
	router *Router
	config Config
	now    time.Time
	random float64

	mu      sync.Mutex
	asked   []string // backend by backend, as they were asked
	keys    []string // that came with it
	bodies  []string
	answers map[string]func(*http.Request) (*http.Response, error)
}

const fleetPolicies = `
@id("models")
permit (principal == Agent::"bot", action == Action::"invoke_model", resource);
@id("search")
permit (principal == Agent::"bot", action == Action::"use_hosted_tool", resource) when { resource.name == "web_search" };
@id("keys")
permit (principal == Agent::"bot", action == Action::"use_credential", resource);
`

func newFleet(t *testing.T, change func(*Config), policies ...string) *fleet {
	t.Helper()
	f := &fleet{t: t, log: audittest.NewLog(t), now: time.Unix(1_800_000_000, 0), answers: map[string]func(*http.Request) (*http.Response, error){}}
	f.vault = credentialtest.NewVault(t, nil, map[string]string{"key-a": "aaaaaaaa-secret", "key-b": "bbbbbbbb-secret"})
	f.config = Config{
		Backends: []Backend{
			{Name: "a", BaseURL: "https://a.example/v1", Credential: "key-a", Models: []string{"m", "other"}},
			{Name: "b", BaseURL: "https://b.example/v1", Credential: "key-b", Models: []string{"m"}},
			{Name: "c", BaseURL: "https://c.example/v1", Models: []string{"m"}},
		},
		Routes: []Route{
			{Model: "big", Targets: []Target{{Backend: "a", Model: "m"}, {Backend: "b", Model: "m", Priority: 1}, {Backend: "c", Model: "m", Priority: 2}}},
			{Model: "m", Targets: []Target{{Backend: "a", Model: "m"}}},
		},
	}
	if change != nil {
		change(&f.config)
	}
	for _, b := range f.config.Backends {
		if b.Credential != "" {
			require.NoError(t, f.vault.Bind(t.Context(), b.Credential, mustBind(t, b), operator))
		}
	}
	f.engine = governance.NewEngine(f.log, nil)
	_, err := f.engine.Reload(t.Context(), governance.Bundle{
		Policies: []governance.Source{{Name: "test.cedar", Text: fleetPolicies + strings.Join(policies, "\n")}},
	}, operator)
	require.NoError(t, err)
	f.router, err = NewRouter(f.config, f.engine, f.log, &Options{
		Vault: f.vault, Transport: roundTripFunc(f.roundTrip),
		Now: func() time.Time { return f.now }, Rand: func() float64 { return f.random },
	})
	require.NoError(t, err)
	return f
}

func mustBind(t *testing.T, b Backend) credential.Binding {
	t.Helper()
	binding, err := b.Binding()
	require.NoError(t, err)
	return binding
}

func (f *fleet) roundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	require.NoError(f.t, err)
	name, _, _ := strings.Cut(r.URL.Host, ".")
	f.mu.Lock()
	f.asked = append(f.asked, name)
	f.keys = append(f.keys, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	f.bodies = append(f.bodies, string(body))
	answer := f.answers[name]
	f.mu.Unlock()
	if answer == nil {
		return says(200, "I am "+name)(r)
	}
	return answer(r)
}

// says is a backend that always gives one answer; header is name and value by
// turns.
func says(status int, text string, header ...string) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) {
		resp := &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}},
			Body: io.NopCloser(strings.NewReader(`{"choices":[],"text":"` + text + `"}`))}
		if status >= 400 {
			resp.Body = io.NopCloser(strings.NewReader(`{"error":{"message":"` + text + `"}}`))
		}
		for i := 0; i < len(header); i += 2 {
			resp.Header.Set(header[i], header[i+1])
		}
		return resp, nil
	}
}

func fails(err error) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) { return nil, err }
}

var (
	errDial  = &net.OpError{Op: "dial", Err: errors.New("refused")}
	errReset = &net.OpError{Op: "read", Err: errors.New("reset")}
)

func (f *fleet) call(body string) *httptest.ResponseRecorder {
	return f.callIn(f.t.Context(), body)
}

func (f *fleet) callIn(ctx context.Context, body string) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	req := httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/chat/completions", strings.NewReader(body))
	session(f.router, bot).ServeHTTP(rec, req)
	return rec
}

func (f *fleet) took() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.asked
	f.asked, f.keys, f.bodies = nil, nil, nil
	return out
}

func (f *fleet) outcomes() []audit.Outcome {
	var out []audit.Outcome
	for _, r := range f.log.Records() {
		if r.Outcome != nil {
			out = append(out, *r.Outcome)
		}
	}
	return out
}

// fallbacks returns the records of calls that went on to another model.
func (f *fleet) fallbacks() []audit.Event {
	var out []audit.Event
	for _, r := range f.log.Records() {
		if r.Event != nil && r.Event.Kind == audit.KindFallback {
			out = append(out, *r.Event)
		}
	}
	return out
}

const askBig = `{"model":"big","messages":[]}`

// What is tried again and what is not, by the requests that backends got.
func TestFallback(t *testing.T) {
	const search = `{"model":"big","messages":[],"tools":[{"type":"web_search"}]}`
	for name, tc := range map[string]struct {
		first  func(*http.Request) (*http.Response, error)
		body   string
		asked  []string
		status int
		code   string // of the outcome
		why    string
	}{
		"answers":                   {first: says(200, "yes"), asked: []string{"a"}, status: 200},
		"cannot be dialled":         {first: fails(errDial), asked: []string{"a", "b"}, status: 200, why: "upstream-down"},
		"broke off":                 {first: fails(errReset), asked: []string{"a", "b"}, status: 200, why: "upstream-broken"},
		"broke off without answer":  {first: fails(io.EOF), asked: []string{"a", "b"}, status: 200, why: "upstream-broken"},
		"429":                       {first: says(429, ""), asked: []string{"a", "b"}, status: 200, why: "upstream-429"},
		"502":                       {first: says(502, ""), asked: []string{"a", "b"}, status: 200, why: "upstream-502"},
		"503":                       {first: says(503, ""), asked: []string{"a", "b"}, status: 200, why: "upstream-503"},
		"504":                       {first: says(504, ""), asked: []string{"a", "b"}, status: 200, why: "upstream-504"},
		"529":                       {first: says(529, ""), asked: []string{"a", "b"}, status: 200, why: "upstream-529"},
		"500":                       {first: says(500, ""), asked: []string{"a"}, status: 500, code: "upstream-500"},
		"400":                       {first: says(400, ""), asked: []string{"a"}, status: 400, code: "upstream-400"},
		"401":                       {first: says(401, ""), asked: []string{"a"}, status: 502, code: "upstream-unauthorized"},
		"404":                       {first: says(404, ""), asked: []string{"a"}, status: 404, code: "upstream-404"},
		"hosted tool, no dial":      {first: fails(errDial), body: search, asked: []string{"a", "b"}, status: 200, why: "upstream-down"},
		"hosted tool, 429":          {first: says(429, ""), body: search, asked: []string{"a", "b"}, status: 200, why: "upstream-429"},
		"hosted tool may have run":  {first: fails(errReset), body: search, asked: []string{"a"}, status: 502, code: "upstream-broken"},
		"hosted tool may have, 502": {first: says(502, ""), body: search, asked: []string{"a"}, status: 502, code: "upstream-502"},
	} {
		f := newFleet(t, nil)
		f.answers["a"] = tc.first
		if tc.body == "" {
			tc.body = askBig
		}
		rec := f.call(tc.body)
		assert.Equal(t, tc.asked, f.took(), name)
		assert.Equal(t, tc.status, rec.Code, name)
		out := f.outcomes()
		require.Len(t, out, 1, "one outcome however many were asked")
		assert.Equal(t, tc.code, out[0].ErrorCode, name)
		falls := f.fallbacks()
		if tc.why == "" {
			assert.Empty(t, falls, name)
			continue
		}
		assert.Contains(t, rec.Body.String(), "I am b", name)
		assert.Equal(t, "b/m", strings.TrimPrefix(out[0].Checks[len(out[0].Checks)-1], "target:"), name)
		assert.Contains(t, out[0].Checks, "attempt:a/m:"+tc.why, name)
		require.Len(t, falls, 1, name)
		assert.Equal(t, `Model::"b/m"`, falls[0].Resource, name)
		assert.Equal(t, "a/m", falls[0].Detail["from"])
		assert.Equal(t, tc.why, falls[0].Detail["why"], name)
		assert.Equal(t, "key-b", falls[0].Detail["credential"])
		assert.Equal(t, audit.Allow, falls[0].Decision.Effect)
		assert.NotEmpty(t, falls[0].Decision.Policies)
	}
}

// Each target gets its own model, its own key, and nothing of the others'.
func TestEachTargetGetsItsOwn(t *testing.T) {
	f := newFleet(t, nil)
	f.answers["a"], f.answers["b"] = says(503, ""), says(503, "")
	rec := f.call(askBig)
	assert.Equal(t, 200, rec.Code)
	assert.Equal(t, []string{"aaaaaaaa-secret", "bbbbbbbb-secret", ""}, f.keys)
	for _, body := range f.bodies {
		assert.Equal(t, `{"model":"m","messages":[]}`, body)
	}
	assert.Equal(t, []string{"a", "b", "c"}, f.took())
	assert.Len(t, f.fallbacks(), 2)
}

// The last failure is the answer, in its own words.
func TestTheLastFailureIsTheAnswer(t *testing.T) {
	f := newFleet(t, nil)
	f.answers["a"], f.answers["b"] = fails(errDial), fails(errReset)
	f.answers["c"] = says(529, "overloaded", "Retry-After", "9")
	rec := f.call(askBig)
	assert.Equal(t, []string{"a", "b", "c"}, f.took())
	assert.Equal(t, 529, rec.Code)
	assert.Equal(t, "9", rec.Header().Get("Retry-After"))
	assert.JSONEq(t, `{"error":{"message":"overloaded","type":"server_error","param":null,"code":null}}`, rec.Body.String())
	assert.Equal(t, "upstream-529", f.outcomes()[0].ErrorCode)
}

// A call asks no more often than it may, and the same target again if it may.
func TestAttempts(t *testing.T) {
	for attempts, want := range map[int]string{0: "abc", 1: "a", 2: "ab", 3: "abc", 5: "abcab", 7: "abcabca"} {
		f := newFleet(t, func(c *Config) { c.Retry = Retry{Attempts: attempts, Pause: 1} })
		for _, name := range []string{"a", "b", "c"} {
			f.answers[name] = says(503, "")
		}
		assert.Equal(t, 503, f.call(askBig).Code)
		assert.Equal(t, want, strings.Join(f.took(), ""), attempts)
		assert.Len(t, f.outcomes(), 1)
	}
	f := newFleet(t, func(c *Config) { c.Routes[1].Retry = &Retry{Attempts: 3, Pause: 1} })
	f.answers["a"] = says(503, "")
	f.call(`{"model":"m","messages":[]}`)
	assert.Equal(t, "aaa", strings.Join(f.took(), ""))
	assert.Empty(t, f.fallbacks(), "it stays with the model of the intent")
	assert.Equal(t, []string{"attempt:a/m:upstream-503", "attempt:a/m:upstream-503"}, f.outcomes()[0].Checks)
}

// A target that wants to be left alone for long is not asked again.
func TestLongRetryAfterIsNotWaitedFor(t *testing.T) {
	f := newFleet(t, func(c *Config) { c.Retry, c.Breaker.Failures = Retry{Attempts: 9, Pause: 1}, -1 })
	f.answers["a"] = says(429, "", "Retry-After", "60")
	f.answers["b"] = says(429, "", "Retry-After", "Sat, 01 Jan 2050 00:00:00 GMT")
	f.answers["c"] = says(503, "", "Retry-After", "0")
	assert.Equal(t, 503, f.call(askBig).Code)
	assert.Equal(t, "abccccccc", strings.Join(f.took(), ""))

	// And not asked first by others, as long as it does.
	f.answers["c"] = nil
	f.call(askBig)
	assert.Equal(t, "c", strings.Join(f.took(), ""))
	f.now = f.now.Add(time.Minute)
	f.answers["a"] = nil
	f.call(askBig)
	assert.Equal(t, "a", strings.Join(f.took(), ""))
}

// Policy is asked about the target that a call goes to, before it goes there.
func TestPolicyDecidesEachTarget(t *testing.T) {
	forbid := func(model string) string {
		return `@id("no-` + model + `") forbid (principal, action == Action::"invoke_model", resource == Model::"` + model + `");`
	}
	f := newFleet(t, nil, forbid("a/m"))
	assert.Equal(t, 200, f.call(askBig).Code)
	assert.Equal(t, "b", strings.Join(f.took(), ""), "a denied target is passed over")
	require.Empty(t, f.log.Denials())
	assert.Equal(t, []string{"denied:a/m:forbid"}, shorter(f.outcomes()[0].Checks))
	assert.Equal(t, `Model::"b/m"`, intent(t, f.log).Resource)

	f = newFleet(t, nil, forbid("b/m"))
	f.answers["a"] = says(503, "")
	assert.Equal(t, 200, f.call(askBig).Code)
	assert.Equal(t, "ac", strings.Join(f.took(), ""), "also on the way")

	f = newFleet(t, nil, `@id("no-key") forbid (principal, action == Action::"use_credential", resource == Credential::"key-b");`)
	f.answers["a"] = says(503, "")
	f.call(askBig)
	assert.Equal(t, "ac", strings.Join(f.took(), ""), "and for the key")

	f = newFleet(t, nil, forbid("a/m"), forbid("b/m"), forbid("c/m"))
	rec := f.call(askBig)
	assert.Equal(t, 403, rec.Code)
	assert.Empty(t, f.took())
	require.Len(t, f.log.Denials(), 1)
	assert.Equal(t, `Model::"a/m"`, f.log.Denials()[0].Resource)

	f = newFleet(t, nil, forbid("b/m"), forbid("c/m"))
	f.answers["a"] = says(503, "busy")
	rec = f.call(askBig)
	assert.Equal(t, 503, rec.Code)
	assert.Contains(t, rec.Body.String(), "busy", "what the only permitted one said")
	assert.Equal(t, "a", strings.Join(f.took(), ""))
}

// shorter cuts policy ids off reasons.
func shorter(checks []string) []string {
	var out []string
	for _, c := range checks {
		if at := strings.LastIndex(c, ":"); strings.HasPrefix(c, "denied:") {
			c = c[:at] + ":forbid"
			out = append(out, c)
		}
	}
	return out
}

func intent(t *testing.T, log *audittest.Log) audit.Intent {
	t.Helper()
	for _, r := range log.Records() {
		if r.Intent != nil {
			return *r.Intent
		}
	}
	t.Fatal("no intent on record")
	return audit.Intent{}
}

// Without a record of it, no second model is asked.
func TestFallbackThatCannotBeRecorded(t *testing.T) {
	f := newFleet(t, nil)
	f.answers["a"] = says(503, "busy")
	f.router.log = noFallback{f.log}
	rec := f.call(askBig)
	assert.Equal(t, "a", strings.Join(f.took(), ""))
	assert.Equal(t, 503, rec.Code)
	assert.Equal(t, `Model::"a/m"`, intent(t, f.log).Resource)
	assert.Zero(t, f.router.memory.all, "nor is its copy held")
}

type noFallback struct{ audit.Recorder }

func (n noFallback) Append(ctx context.Context, ev audit.Event) error {
	if ev.Kind == audit.KindFallback {
		return errors.New("full")
	}
	return n.Recorder.Append(ctx, ev)
}

// A client that left is not asked for.
func TestNobodyIsAskedForAClientThatLeft(t *testing.T) {
	f := newFleet(t, func(c *Config) { c.Retry = Retry{Attempts: 9, Pause: time.Hour} })
	ctx, leave := context.WithCancel(t.Context())
	for _, name := range []string{"a", "b"} {
		f.answers[name] = says(503, "")
	}
	f.answers["c"] = func(r *http.Request) (*http.Response, error) { leave(); return says(503, "")(r) }
	assert.PanicsWithValue(t, http.ErrAbortHandler, func() { f.callIn(ctx, askBig) })
	assert.Equal(t, "abc", strings.Join(f.took(), ""))
	assert.Equal(t, audit.StatusCancelled, f.outcomes()[0].Status)
}

// A backend that does not answer is left alone, and then asked once.
func TestBreakerInTheRouter(t *testing.T) {
	f := newFleet(t, func(c *Config) { c.Breaker = Breaker{Failures: 2, Open: time.Minute} })
	const askM = `{"model":"m","messages":[]}`
	f.answers["a"] = fails(errDial)
	for range 2 {
		assert.Equal(t, 502, f.call(askM).Code)
	}
	rec := f.call(askM)
	assert.Equal(t, 503, rec.Code)
	assert.Equal(t, "60", rec.Header().Get("Retry-After"))
	assert.Equal(t, "upstream-open", f.outcomes()[2].ErrorCode)
	assert.Equal(t, "aa", strings.Join(f.took(), ""))
	f.call(`{"model":"other","messages":[]}`)
	assert.Equal(t, "a", strings.Join(f.took(), ""), "it is about the model")

	f.call(askBig)
	assert.Equal(t, "b", strings.Join(f.took(), ""), "all routes to it know")

	// A reload forgets nothing of a target that stays.
	require.NoError(t, f.router.Reload(t.Context(), f.config, operator))
	f.call(askM)
	assert.Empty(t, f.took())

	f.now = f.now.Add(time.Minute)
	f.call(askM)
	f.call(askM)
	assert.Equal(t, "a", strings.Join(f.took(), ""), "one is sent to see")
	f.now = f.now.Add(time.Minute)
	f.answers["a"] = nil
	for range 3 {
		assert.Equal(t, 200, f.call(askM).Code)
	}
	assert.Equal(t, "aaa", strings.Join(f.took(), ""))
}

// What breaks a circuit: no answer, and that the backend is not there or not
// able. What does not: what blames the client or can be caused by it, and the
// limit that all agents share.
func TestWhatCountsAsFailure(t *testing.T) {
	for status, counts := range map[int]bool{200: false, 400: false, 404: false, 429: false, 500: false, 501: false,
		502: true, 503: true, 504: true, 529: true} {
		f := newFleet(t, func(c *Config) { c.Breaker = Breaker{Failures: 1} })
		f.answers["a"] = says(status, "")
		f.call(`{"model":"m","messages":[]}`)
		f.call(`{"model":"m","messages":[]}`)
		want := 2
		if counts {
			want = 1
		}
		assert.Len(t, f.took(), want, status)
	}
}

// Targets of equal priority are asked as often as their weights say.
func TestWeights(t *testing.T) {
	rt := &route{}
	for i, name := range []string{"x", "y", "z"} {
		rt.targets = append(rt.targets, &target{backend: &Backend{Name: name}, model: "m", weight: []int{1, 2, 7}[i], breaker: &breaker{}})
	}
	rt.targets = append(rt.targets, &target{backend: &Backend{Name: "last"}, weight: 1000, priority: 1, breaker: &breaker{}})
	state := uint64(1)
	random := func() float64 { // a fixed sequence
		state = state*6364136223846793005 + 1442695040888963407
		return float64(state>>11) / (1 << 53)
	}
	first := map[string]int{}
	const n = 20_000
	for range n {
		order := rt.order(time.Time{}, random)
		require.Len(t, order, 4)
		require.Equal(t, "last", order[3].backend.Name)
		first[order[0].backend.Name]++
	}
	assert.InDelta(t, 0.1*n, first["x"], 0.015*n)
	assert.InDelta(t, 0.2*n, first["y"], 0.015*n)
	assert.InDelta(t, 0.7*n, first["z"], 0.015*n)
}

// A call that is on its way keeps the configuration that it began with, also for
// what it does after the change; the next call has the new one.
func TestReloadKeepsWhatIsInFlight(t *testing.T) {
	f := newFleet(t, nil)
	changed := f.config
	changed.Backends = changed.Backends[2:]
	changed.Routes = []Route{{Model: "big", Targets: []Target{{Backend: "c", Model: "m"}}}}
	f.answers["a"] = func(r *http.Request) (*http.Response, error) {
		require.NoError(t, f.router.Reload(t.Context(), changed, operator))
		return says(503, "")(r)
	}
	assert.Contains(t, f.call(askBig).Body.String(), "I am b")
	assert.Contains(t, f.call(askBig).Body.String(), "I am c")
	assert.Equal(t, "abc", strings.Join(f.took(), ""))

	bad := f.config
	bad.Routes = []Route{{Model: "big"}}
	require.ErrorIs(t, f.router.Reload(t.Context(), bad, operator), ErrConfig)
	require.Error(t, f.router.Reload(t.Context(), f.config, audit.Change{By: "x"}))
	f.call(askBig)
	assert.Equal(t, "c", strings.Join(f.took(), ""), "what was not taken up changes nothing")
}

// A name is listed when one of the models behind it could be used.
func TestListsOfRoutes(t *testing.T) {
	f := newFleet(t, nil, `@id("lists") permit (principal, action == Action::"list_models", resource);`,
		`@id("not-a") forbid (principal, action == Action::"invoke_model", resource == Model::"a/m");`)
	resp, err := inside(f, bot).Get("http://x/v1/models")
	require.NoError(t, err)
	defer resp.Body.Close()
	var list struct{ Data []struct{ ID string } }
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&list))
	var names []string
	for _, m := range list.Data {
		names = append(names, m.ID)
	}
	assert.ElementsMatch(t, []string{"big", "other"}, names, "once each, and not m, which only a has")
}
