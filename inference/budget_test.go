package inference

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

var noon = time.Date(2026, 11, 29, 12, 34, 56, 7, time.UTC)

func TestWindowsAreFixedInUTC(t *testing.T) {
	berlin := time.FixedZone("UTC+1", 3600)
	for w, want := range map[Window][2]string{
		WindowMinute: {"2026-11-29T12:34:00Z", "2026-11-29T12:35:00Z"},
		WindowHour:   {"2026-11-29T12:00:00Z", "2026-11-29T13:00:00Z"},
		WindowDay:    {"2026-11-29T00:00:00Z", "2026-11-30T00:00:00Z"},
		WindowMonth:  {"2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"},
	} {
		for _, at := range []time.Time{noon, noon.In(berlin)} {
			from, to := w.bounds(at)
			assert.Equal(t, want, [2]string{from.Format(time.RFC3339), to.Format(time.RFC3339)}, w)
		}
	}
	from, to := WindowDay.bounds(time.Date(2027, 1, 1, 0, 30, 0, 0, berlin)) // still last year in UTC
	assert.Equal(t, "2026-12-31T00:00:00Z", from.Format(time.RFC3339))
	assert.Equal(t, "2027-01-01T00:00:00Z", to.Format(time.RFC3339))
	from, to = WindowTotal.bounds(noon)
	assert.True(t, from.IsZero() && to.IsZero())
}

func TestAccountsOfACall(t *testing.T) {
	s, err := spendOf(`budgets:
  - {name: a, per: agent, window: day, usd: 1}
  - {name: b, per: agent, of: [other], window: day, usd: 1}
  - {name: c, per: profile, window: total, tokens: 7}
  - {name: d, per: team, of: [ops, dev], window: month, usd: 1}
  - {name: e, per: user, window: minute, usd: 1}
  - {name: f, per: host, window: hour, usd: 1}
  - {name: g, per: agent, window: request, tokens: 9}`)
	require.NoError(t, err)
	names := func(p payer) (out []string) {
		for _, c := range s.claims(p, noon) {
			out = append(out, c.Account)
		}
		return out
	}
	assert.Equal(t, []string{`a agent "bot" day 2026-11-29T00:00:00Z`, `f host "" hour 2026-11-29T12:00:00Z`}, names(payer{actor: audit.Actor{Agent: "bot", Profile: "not believed"}}))
	assert.Equal(t, []string{
		`a agent "bot" day 2026-11-29T00:00:00Z`,
		`c profile "p" total`,
		`d team "ops" month 2026-11-01T00:00:00Z`,
		`e user "ann \" x" minute 2026-11-29T12:34:00Z`,
		`f host "" hour 2026-11-29T12:00:00Z`,
	}, names(payer{actor: audit.Actor{Agent: "bot", User: `ann " x`}, profiles: []string{"p"}, teams: []string{"all", "ops"}}))
	b, over := s.perRequest(payer{actor: audit.Actor{Agent: "bot"}}, Amount{Tokens: 10})
	assert.True(t, over)
	assert.Equal(t, "g", b.Name)
	some, money := s.applies(payer{actor: audit.Actor{Agent: "bot"}})
	assert.True(t, some && money)
	some, money = (&Spend{Budgets: s.Budgets[1:3]}).applies(payer{actor: audit.Actor{Agent: "bot"}})
	assert.False(t, some || money)
	_, over = s.perRequest(payer{actor: audit.Actor{Agent: "bot"}}, Amount{Tokens: 9, Cost: 1 << 60})
	assert.False(t, over)
}

func TestMemoryLedgerIsBounded(t *testing.T) {
	l := newMemoryLedger(100)
	hold := func(i int, at time.Time) error {
		return l.Reserve(context.Background(), Hold{ID: audit.NewID(), At: at, Claims: []Claim{{Account: fmt.Sprint(i), Ends: at.Add(time.Minute)}}})
	}
	for i := range 100 {
		require.NoError(t, hold(i, noon))
	}
	assert.ErrorIs(t, hold(100, noon), ErrLedgerFull)
	require.NoError(t, hold(5, noon), "who is counted already goes on")
	require.NoError(t, hold(100, noon.Add(time.Minute)), "windows that have ended make room")
	assert.Len(t, l.accounts, 1)
}

func TestRates(t *testing.T) {
	rates := []RateLimit{{Name: "calls", Per: PerAgent, Requests: 3}, {Name: "words", Per: PerHost, Tokens: 600}}
	who := func(agent string) payer { return payer{actor: audit.Actor{Agent: agent}} }
	l := newLimiter(1000)
	now := noon
	take := func(agent string, tokens int64) ([]rateUse, error) { return l.take(rates, who(agent), tokens, now) }
	for range 3 {
		_, err := take("a", 0)
		require.NoError(t, err)
	}
	var full *rateError
	_, err := take("a", 0)
	require.ErrorAs(t, err, &full)
	assert.Equal(t, "calls", full.name)
	assert.Equal(t, 20*time.Second, full.after)
	_, err = take("b", 600)
	require.NoError(t, err, "another agent has an account of its own")
	_, err = take("c", 1)
	require.ErrorAs(t, err, &full)
	assert.Equal(t, "words", full.name)
	assert.Equal(t, 100*time.Millisecond, full.after)
	now = now.Add(20 * time.Second)
	_, err = take("a", 0)
	require.NoError(t, err, "there is room when it said so")
	_, err = take("a", 0)
	require.ErrorAs(t, err, &full)

	// What was refused has taken nothing, and what was not used comes back.
	uses, err := take("c", 200)
	require.NoError(t, err, "a third of a minute fills 200 tokens")
	_, err = take("d", 1)
	require.ErrorAs(t, err, &full)
	l.settle(uses, 150)
	_, err = take("d", 50)
	require.NoError(t, err)
	_, err = take("d", 1)
	require.ErrorAs(t, err, &full)
	_, err = take("e", 601)
	require.ErrorAs(t, err, &full)
	assert.Zero(t, full.after, "it never fits")
	uses, err = take("e", 0)
	require.NoError(t, err)
	l.settle(uses, 600)
	_, err = take("f", 1)
	require.ErrorAs(t, err, &full)
	assert.Equal(t, 60*time.Second+100*time.Millisecond, full.after, "what was more than estimated is owed")
}

// A million agents do not fill the memory, and nobody goes uncounted.
func TestRatesAreBounded(t *testing.T) {
	l := newLimiter(1000)
	rates := []RateLimit{{Name: "calls", Per: PerAgent, Requests: 60}}
	now, refused := noon, 0
	for i := range 20_000 {
		if _, err := l.take(rates, payer{actor: audit.Actor{Agent: fmt.Sprint(i)}}, 0, now); err != nil {
			require.ErrorIs(t, err, errBucketsFull)
			refused++
		}
		require.LessOrEqual(t, len(l.buckets), 1000)
		if i == 10_000 {
			now = now.Add(2 * time.Second)
		}
	}
	assert.Equal(t, 18_000, refused)
}
