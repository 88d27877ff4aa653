package inference

import (
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// What Anthropic turns on by a header is decided by policy, and nothing else
// than what policy saw goes on.
func TestBetasAreDecided(t *testing.T) {
	f := newFleet(t, func(c *Config) { c.Backends[0].Protocol = Anthropic },
		`@id("no-long-context") forbid (principal, action == Action::"invoke_model", resource)
		when { context has betas && context.betas.contains("context-1m-2025-08-07") };`)
	var got []string
	f.answers["a"] = func(r *http.Request) (*http.Response, error) {
		got = r.Header.Values("Anthropic-Beta")
		return says(200, "")(r)
	}
	ask := func(headers ...string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x/v1/messages", strings.NewReader(`{"model":"m","max_tokens":1,"messages":[]}`))
		require.NoError(t, err)
		req.Header["Anthropic-Beta"] = headers
		req.Header.Set("X-Claude-Code-Session-Id", "0a1b-2c3d")
		resp, err := inside(f, bot).Do(req)
		require.NoError(t, err)
		resp.Body.Close()
		return resp.StatusCode
	}
	assert.Equal(t, 200, ask("claude-code-20250219, interleaved-thinking-2025-05-14", "oauth-2025-04-20,,oauth-2025-04-20"))
	assert.Equal(t, []string{"claude-code-20250219,interleaved-thinking-2025-05-14,oauth-2025-04-20"}, got)
	assert.Contains(t, f.outcomes()[0].Checks, "client-session:0a1b-2c3d")
	assert.Equal(t, 200, ask())
	assert.Empty(t, got)
	f.took()
	assert.Equal(t, 403, ask("oauth-2025-04-20", "context-1m-2025-08-07"))
	for _, odd := range []string{"a b", "a;b", "ä", strings.Repeat("x", 65), strings.Repeat("a,", 3) + "\x00"} {
		assert.Equal(t, 400, ask(odd), odd)
	}
	many := ""
	for i := range maxBetas + 1 {
		many += "b" + strconv.Itoa(i) + ","
	}
	assert.Equal(t, 400, ask(many))
	assert.Empty(t, f.took(), "nothing of it was sent")
	denials := f.log.Denials()
	require.Len(t, denials, 7)
	assert.Equal(t, audit.GuardHeaders, denials[1].Decision.Reason)
}

func TestClientSessions(t *testing.T) {
	for want, h := range map[string]http.Header{
		"s1": {"X-Claude-Code-Session-Id": {"s1"}, "Session_id": {"s2"}},
		"s2": {"X-Claude-Code-Session-Id": {"not an id"}, "Session_id": {"s2"}},
		"":   {"Session-Id": {"a", "b"}},
	} {
		assert.Equal(t, want, clientSession(h))
	}
	assert.Empty(t, clientSession(http.Header{"Session-Id": {strings.Repeat("x", 129)}}))
	assert.Empty(t, clientSession(http.Header{"Session-Id": {"a\nb"}}))
}
