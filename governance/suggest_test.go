package governance

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

func onTape(t testing.TB, s *Snapshot, rs ...Request) iter.Seq2[Recorded, error] {
	t.Helper()
	var list []Recorded
	for _, r := range rs {
		if r.Time.IsZero() {
			r.Time = time.Date(2026, 11, 27, 9, 0, 0, 0, time.UTC)
		}
		r.counted = true
		d, err := s.Decide(t.Context(), r)
		require.NoError(t, err)
		list = append(list, recorded(r, d))
	}
	return func(yield func(Recorded, error) bool) {
		for _, r := range list {
			if !yield(r, nil) {
				return
			}
		}
	}
}

func TestSuggest(t *testing.T) {
	b := Bundle{
		Catalog: []Server{{Name: "files", Tools: []Tool{
			{ToolDefinition: ToolDefinition{Name: "write", InputSchema: []byte(`{"type":"object","required":["path","text"],"properties":{
				"path":{"type":"string"},"text":{"type":"string"},"mode":{"type":"string","enum":["a","w"]},"size":{"type":"integer"},
				"ratio":{"type":"number"},"tags":{"type":"array","items":{"type":"string"}},"force":{"type":"boolean"},
				"owner":{"type":"object","properties":{"in":{"type":"string"},"x-y":{"type":"string"}}}}}`)}, Class: Write},
			{ToolDefinition: ToolDefinition{Name: "erase", InputSchema: []byte(`{"type":"object"}`)}, Class: Destructive},
		}}},
		Profiles: []Profile{{ID: "writers", Agents: []string{"w1", "w2"}, Servers: map[string]Grant{"files": {Tools: []string{"*"}}}}},
		Policies: []Source{{Name: "policies/all.cedar", Text: `// everything
@id("all") @max_bytes("1000") permit (principal, action in Action::"call_tool", resource);
@id("hosts") permit (principal, action == Action::"connect", resource);
@id("never") forbid (principal, action == Action::"files__write", resource) when { context.args.path == "/etc/passwd" };
`}},
	}
	s, _, err := Compile(t.Context(), b, nil)
	require.NoError(t, err)
	write := func(agent string, i int, args string) Request {
		return Request{Actor: audit.Actor{Agent: agent}, Action: "call_tool", Server: "files", Name: "write", Enforces: []string{"max_bytes"},
			Args: fmt.Appendf(nil, `{"path":"/srv/data/%d.txt","text":"a line\n",%s}`, i, args)}
	}
	var rs []Request
	for i := range 10 {
		rs = append(rs, write([]string{"w1", "w2"}[i%2], i, fmt.Sprintf(`"mode":"a","size":%d,"ratio":%d.5,"tags":["x"],"owner":{"in":"q","x-y":"z"}`, i*10, i)))
	}
	rs = append(rs,
		write("w1", 10, `"tags":[]`),
		Request{Actor: audit.Actor{Agent: "w1"}, Action: "call_tool", Server: "files", Name: "write", Enforces: []string{"max_bytes"}, Args: []byte(`{"path":"/etc/passwd","text":"x"}`)},
		Request{Actor: audit.Actor{Agent: "solo", User: "ann"}, Action: "connect", Name: "api.example.com", Attrs: map[string]any{"port": 443, "scheme": "https"}},
	)
	got, err := Suggest(t.Context(), b, onTape(t, s, rs...), nil)
	require.NoError(t, err)
	assert.Equal(t, 12, got.Observed)
	assert.Equal(t, 3, got.Policies)
	assert.Equal(t, []string{"writers: files__erase"}, got.Unused)
	assert.NotEmpty(t, got.Diff.Witnesses)
	for _, w := range got.Diff.Witnesses {
		assert.NotEqual(t, NowAllowed, w.Change)
	}
	assert.Equal(t, `// Suggested from recorded requests: read before use.

@id("suggested/solo/connect/api.example.com")
@generated("from 1 requests, 2026-11-27 to 2026-11-27")
permit (principal == Agent::"solo", action == Action::"connect", resource == Host::"api.example.com")
when {
  context has port && context.port == 443 &&
  context has scheme && context.scheme == "https"
};

@id("suggested/writers/files__write")
@generated("from 11 requests, 2026-11-27 to 2026-11-27")
@max_bytes("1000")
permit (principal in Profile::"writers", action == Action::"files__write", resource)
when {
  !(context.args has force) &&
  (if context.args has mode then context.args.mode == "a" else true) &&
  (if context.args has owner then context.args.owner has "in" && context.args.owner["in"] == "q" && context.args.owner has "x-y" && context.args.owner["x-y"] == "z" else true) &&
  context.args.path like "/srv/data/*" && !(context.args.path like "*..*") &&
  (if context.args has ratio then context.args.ratio.greaterThanOrEqual(decimal("0.5")) && context.args.ratio.lessThanOrEqual(decimal("9.5")) else true) &&
  (if context.args has size then context.args.size >= 0 && context.args.size <= 90 else true) &&
  context.args has tags && ["x"].containsAll(context.args.tags) &&
  context.extra.isEmpty()
};

@id("suggested/users/connect/api.example.com")
@generated("from 1 requests, 2026-11-27 to 2026-11-27")
permit (principal is User, action == Action::"connect", resource == Host::"api.example.com")
when {
  principal == User::"ann" &&
  context has port && context.port == 443 &&
  context has scheme && context.scheme == "https"
};
`, got.Source.Text)
	assert.Equal(t, "policies/all.cedar", got.Bundle.Policies[0].Name)
	assert.NotContains(t, got.Bundle.Policies[0].Text, "permit")
	assert.Contains(t, got.Bundle.Policies[0].Text, `@id("never")`)

	free, err := Suggest(t.Context(), b, onTape(t, s, rs...), &SuggestOptions{Free: []string{"files__write/path"}})
	require.NoError(t, err)
	assert.NotContains(t, free.Source.Text, "args.path")
	listed, err := Suggest(t.Context(), b, onTape(t, s, rs...), &SuggestOptions{MaxValues: 20})
	require.NoError(t, err)
	assert.Contains(t, listed.Source.Text, `["/srv/data/0.txt", "/srv/data/1.txt",`)
}

// Whatever is observed, all of it is allowed by what is suggested, with the
// same obligations.
func TestSuggestAllowsWhatWasObserved(t *testing.T) {
	t.Parallel()
	r := seeded(t)
	done := 0
	for range max(3, rounds(150)) {
		s := randomLaw(t, r, 8)
		if s == nil {
			continue
		}
		var rs []Request
		for range 60 {
			target := pick(r, randomTargets...)
			rs = append(rs, randomRequest(r, pick(r, randomActors...), target.action, target.server, target.name))
		}
		b := randomBundle(s)
		tape := onTape(t, s, rs...)
		got, err := Suggest(t.Context(), b, tape, &SuggestOptions{MaxValues: 1 + r.IntN(3)})
		if errors.Is(err, ErrSuggest) && got.Observed == 0 {
			continue // nothing was allowed
		}
		require.NoError(t, err, "%s", got.Source.Text)
		after, _, err := Compile(t.Context(), got.Bundle, nil)
		require.NoError(t, err)
		rep, err := Replay(t.Context(), after, tape)
		require.NoError(t, err)
		require.Zero(t, rep.Changed[NowDenied]+rep.Changed[OtherDuties], "%s", got.Source.Text)
		done++
	}
	require.NotZero(t, done)
}

// randomBundle is the bundle that a random law was compiled from, as far as it
// matters here.
func randomBundle(s *Snapshot) Bundle {
	b := Bundle{Catalog: s.catalog, Profiles: s.profiles}
	text := ""
	for _, id := range sortedIDs(s) {
		if p := s.policies[id]; p.profile == "" {
			text += string(p.cedar.MarshalCedar()) + "\n"
		}
	}
	b.Policies = []Source{{Name: "random.cedar", Text: text}}
	for _, e := range sortedEntities(s.entities) {
		if slices.Contains(ownEntities, e.UID.Type) && s.members[string(e.UID.ID)] == "" {
			b.Entities = append(b.Entities, e)
		}
	}
	return b
}

func TestSuggestRefuses(t *testing.T) {
	b := standupBundle(t)
	s, _, err := Compile(t.Context(), b, nil)
	require.NoError(t, err)
	_, err = Suggest(t.Context(), b, onTape(t, s), nil)
	require.ErrorIs(t, err, ErrSuggest)
	_, err = Suggest(t.Context(), b, func(yield func(Recorded, error) bool) { yield(Recorded{}, ErrTape) }, nil)
	require.ErrorIs(t, err, ErrTape)
	_, err = Suggest(t.Context(), Bundle{Policies: []Source{{Name: "x", Text: "permit"}}}, onTape(t, s), nil)
	require.ErrorIs(t, err, ErrBundle)

	// The tape of another bundle: what it allowed is forbidden here.
	ok := Recorded{Request: Request{Actor: audit.Actor{Agent: "standup-bot"}, Action: "call_tool", Server: "slack", Name: "delete_message", Args: []byte(`{"id":"1"}`), Time: time.Now()},
		Decision: audit.Decision{Effect: audit.Allow}}
	_, err = Suggest(t.Context(), b, func(yield func(Recorded, error) bool) { yield(ok, nil) }, nil)
	require.ErrorIs(t, err, ErrSuggest)
	require.ErrorContains(t, err, "1 of 1 observed requests would be denied")
	ok.Request.Name = "no_such"
	_, err = Suggest(t.Context(), b, func(yield func(Recorded, error) bool) { yield(ok, nil) }, nil)
	require.ErrorContains(t, err, "request 1 does not fit the bundle")
}
