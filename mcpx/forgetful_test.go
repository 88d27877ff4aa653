package mcpx_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// A forgetful is a wiki at a URL, with sessions that it forgets when told to, behind
// a gateway that has a secret for it.
type forgetful struct {
	*fed
	live    *mcp.Server
	logged  *lines
	url     string           // of the gateway's door
	door    *httptest.Server // of the wiki
	options mcp.StreamableHTTPOptions
	posts   atomic.Int64
	get     atomic.Pointer[func() int] // the status of a stream of no request, 0 to serve it
	vault   func()                     // is called for every lease
	secrets *credential.Broker
	agents  *agents
	whose   atomic.Pointer[func()] // is called before agents are
	now     atomic.Pointer[mcp.StreamableHTTPHandler]
}

func (f *forgetful) forget() {
	for ss := range f.live.Sessions() {
		ss.Close()
	}
	f.now.Store(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return f.live }, &f.options))
}

func (f *forgetful) touch() {
	require.NoError(f.t, f.live.ResourceUpdated(f.t.Context(), &mcp.ResourceUpdatedNotificationParams{URI: "wiki://page/1"}))
}

// tried waits until it was in vain n more times to subscribe again.
func (f *forgetful) tried(n int) {
	f.t.Helper()
	count := func() int { return strings.Count(f.logged.String(), "could not be subscribed to again") }
	from := count()
	require.Eventually(f.t, func() bool { return count() >= from+n }, time.Minute, time.Millisecond)
}

// reload puts a policy in force besides fedPolicy.
func (f *forgetful) reload(more string) {
	f.t.Helper()
	f.bundle.Policies[0].Text = fedPolicy + more
	_, err := f.engine.Reload(f.t.Context(), f.bundle, admin)
	require.NoError(f.t, err)
}

// A watchedVault is the vault of a forgetful.
type watchedVault struct {
	*credential.Broker
	f *forgetful
}

func (v watchedVault) Lease(ctx context.Context, req credential.LeaseRequest) (*credential.Lease, error) {
	v.f.vault()
	return v.Broker.Lease(ctx, req)
}

// Context is that of the agents.
func (f *forgetful) Context(ctx context.Context, who audit.Actor) (context.Context, context.CancelFunc, error) {
	if do := f.whose.Load(); do != nil {
		(*do)()
	}
	return f.agents.Context(ctx, who)
}

// begun counts the intents to subscribe that are on record.
func begun(log *audittest.Log) (n int) {
	for _, r := range log.Records() {
		if r.Intent != nil && r.Intent.Action == "subscribe" {
			n++
		}
	}
	return n
}

// subscribed counts those that have been done. What is heard may be an older change.
func subscribed(log *audittest.Log) (n int) {
	recs := log.Records()
	for _, r := range recs {
		if r.Outcome != nil && r.Outcome.Status == audit.StatusOK && recs[r.Call-1].Intent.Action == "subscribe" {
			n++
		}
	}
	return n
}

func newForgetful(t *testing.T) *forgetful { return newForgetfulOf(t, legacy) }

// newForgetfulOf has a wiki of either era. One of the newer has no sessions, and
// forgets what it was asked to tell of.
func newForgetfulOf(t *testing.T, version string) *forgetful {
	f := &forgetful{fed: newFed(t, map[string]*mcp.Server{"wiki": wiki()}), live: wiki(), logged: &lines{}, vault: func() {}, agents: newAgents()}
	f.options = mcp.StreamableHTTPOptions{Stateless: version == modern}
	none := func() int { return 0 }
	f.get.Store(&none)
	f.forget()
	f.door = mcptest.Door(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			f.posts.Add(1)
		} else if r.Method == http.MethodGet {
			if status := (*f.get.Load())(); status != 0 {
				w.WriteHeader(status)
				return
			}
		}
		f.now.Load().ServeHTTP(w, r)
	}), bot)
	f.secrets = credential.NewMemory(map[string]credential.Secret{"wiki": credential.NewSecret([]byte(token))})
	t.Cleanup(func() { f.secrets.Close() })
	require.NoError(t, f.secrets.Bind(t.Context(), "wiki", credential.Binding{Origin: f.door.URL}, admin))
	f.gateway = mcpx.NewGateway(f.engine, f.log, &mcpx.GatewayOptions{Vault: watchedVault{f.secrets, f}, Agents: f, Logger: slog.New(slog.NewTextHandler(f.logged, nil))})
	t.Cleanup(func() { f.gateway.Close() })
	mcpx.SetRewatch(f.gateway, time.Millisecond)
	u := mcpx.HTTP("wiki", f.door.URL)
	u.Credential = "wiki"
	require.NoError(t, f.gateway.AddUpstream(t.Context(), u))
	f.url = mcptest.Door(t, f.gateway, bot).URL
	return f
}

// What is subscribed to again is decided as a whole and on record, and so is that it
// is refused: once, however often it is tried.
func TestSubscribingAgainIsDecidedAndOnRecord(t *testing.T) {
	f := newForgetful(t)
	_, heard := listener(t, f.url, legacy)
	until(t, heard, f.touch)
	drained(heard)
	since := func(n int) (intents []*audit.Intent, outcomes int, denials []*audit.Event) {
		for _, r := range f.log.Records()[n:] {
			switch {
			case r.Intent != nil && r.Intent.Action == "subscribe":
				intents = append(intents, r.Intent)
			case r.Outcome != nil:
				assert.Equal(t, audit.StatusOK, r.Outcome.Status)
				outcomes++
			case r.Event != nil && r.Event.Kind == audit.KindDenial:
				denials = append(denials, r.Event)
			}
		}
		return intents, outcomes, denials
	}
	n := len(f.log.Records())
	f.forget()
	until(t, heard, func() { /* the gateway says so by itself */ })
	require.Eventually(t, func() bool { return subscribed(f.log) > 1 }, time.Minute, time.Millisecond)
	intents, outcomes, denials := since(n)
	require.Len(t, intents, 1)
	assert.Equal(t, `Resource::"wiki__wiki://page/1"`, intents[0].Resource)
	require.NotNil(t, intents[0].Credential)
	assert.Equal(t, "wiki", intents[0].Credential.Name)
	assert.Equal(t, 1, outcomes)
	assert.Empty(t, denials)
	until(t, heard, f.touch)

	for _, c := range []struct{ policy, action string }{
		{`@id("late") forbid (principal, action == Action::"subscribe", resource) when { context.now > datetime("2020-01-01") };`, "subscribe"},
		{`@id("key") forbid (principal, action == Action::"use_credential", resource);`, "use_credential"},
	} {
		n = len(f.log.Records())
		f.reload(c.policy)
		f.forget()
		f.tried(1)
		posts := f.posts.Load()
		f.tried(3)
		assert.Equal(t, posts, f.posts.Load(), "the server is not asked")
		intents, _, denials = since(n)
		assert.Empty(t, intents)
		require.Len(t, denials, 1)
		assert.Equal(t, c.action, denials[0].Action)
		assert.Equal(t, bot, denials[0].Actor)
		drained(heard)
		f.reload("")
		until(t, heard, func() { /* nothing */ })
		until(t, heard, f.touch)
	}
}

// A panic of the host's vault is a failure: of the one who subscribes, and of one
// time to subscribe again.
func TestSubscribingMeetsAPanic(t *testing.T) {
	f := newForgetful(t)
	var bad atomic.Bool
	f.vault = func() {
		if bad.Load() {
			panic("the host's own code")
		}
	}
	_, heard := listener(t, f.url, legacy)
	until(t, heard, f.touch)
	bad.Store(true)
	f.forget()
	f.tried(3)
	drained(heard)
	bad.Store(false)
	until(t, heard, func() { /* nothing */ })
	until(t, heard, f.touch)

	bad.Store(true)
	a := mcptest.Connect(t, f.url, &mcptest.ConnectOptions{Version: legacy})
	assert.Error(t, a.Subscribe(t.Context(), &mcp.SubscribeParams{URI: "wiki://page/2"}))
	closed := make(chan error, 1)
	go func() { closed <- f.gateway.Close() }()
	select {
	case err := <-closed:
		assert.NoError(t, err)
	case <-time.After(time.Minute):
		t.Fatal("the gateway does not close")
	}
}

// A server that has trouble with the stream of a session is asked for it again; one
// that has no such stream is not.
func TestTheStreamOfASessionIsAskedForAgain(t *testing.T) {
	trouble := []int{http.StatusInternalServerError, http.StatusTooManyRequests, http.StatusConflict, http.StatusServiceUnavailable}
	f := newForgetful(t)
	var gets atomic.Int64
	status := func() int {
		if n := int(gets.Add(1)); n <= len(trouble) {
			return trouble[n-1]
		}
		return 0
	}
	f.get.Store(&status)
	_, heard := listener(t, f.url, legacy)
	until(t, heard, f.touch)
	assert.EqualValues(t, len(trouble)+1, gets.Load())

	f = newForgetful(t)
	gets.Store(0)
	none := func() int {
		gets.Add(1)
		return http.StatusMethodNotAllowed
	}
	f.get.Store(&none)
	a, _ := listener(t, f.url, legacy)
	require.Eventually(t, func() bool { return gets.Load() == 1 }, time.Minute, time.Millisecond)
	for range 100 {
		require.NoError(t, a.Ping(t.Context(), nil))
	}
	assert.EqualValues(t, 1, gets.Load())
}
