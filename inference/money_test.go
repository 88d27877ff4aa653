package inference

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// counted answers with three tokens read and four written.
func counted(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(`{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}`))}, nil
}

// Each attempt is charged by the price of its own target, and what is on record of
// the call is what the ledger has of it; no hold is left, whoever answered.
func TestMoneyAcrossTargets(t *testing.T) {
	const body = `{"model":"big","max_tokens":100,"messages":[]}`
	each := int64(len(body)) + 100 + pieceSlack // tokens, and micro-dollars of a; b costs ten times as much, and c nothing
	for name, tc := range map[string]struct {
		a, b, c func(*http.Request) (*http.Response, error)
		usd     string
		deaf    bool // no fallback can be recorded
		asked   string
		holds   int64
		used    Amount
		cost    int64
	}{
		"the first answers":               {a: counted, asked: "a", holds: 1, used: Amount{7, 7}, cost: 7},
		"the first did nothing":           {a: says(503, ""), b: counted, asked: "ab", holds: 2, used: Amount{7, 70}, cost: 70},
		"the first cannot be reached":     {a: fails(errDial), b: counted, asked: "ab", holds: 2, used: Amount{7, 70}, cost: 70},
		"the first may have cost":         {a: says(502, ""), b: counted, asked: "ab", holds: 2, used: Amount{each + 7, MicroUSD(each + 70)}, cost: 70},
		"the first broke off":             {a: fails(errReset), b: counted, asked: "ab", holds: 2, used: Amount{each + 7, MicroUSD(each + 70)}, cost: 70},
		"two may have cost":               {a: says(502, ""), b: says(504, ""), c: counted, asked: "abc", holds: 3, used: Amount{2*each + 7, MicroUSD(11 * each)}},
		"all may have cost":               {a: says(502, ""), b: says(502, ""), c: says(502, ""), asked: "abc", holds: 3, used: Amount{3 * each, MicroUSD(11 * each)}},
		"nobody did anything":             {a: says(503, ""), b: says(429, ""), c: fails(errDial), asked: "abc", holds: 3},
		"the second has no count":         {a: says(503, ""), b: says(200, ""), asked: "ab", holds: 2, used: Amount{each, MicroUSD(10 * each)}},
		"the second is refused":           {a: says(503, ""), b: says(400, ""), asked: "ab", holds: 2},
		"no room for the second":          {a: says(503, ""), c: counted, usd: "0.0005", asked: "ac", holds: 2, used: Amount{7, 0}},
		"no room, and the first cost":     {a: says(502, ""), c: counted, usd: "0.0005", asked: "ac", holds: 2, used: Amount{each + 7, MicroUSD(each)}},
		"fallbacks that have no record":   {a: says(503, ""), deaf: true, asked: "a", holds: 3},
		"and the first may have cost":     {a: says(502, ""), deaf: true, asked: "a", holds: 3, used: Amount{each, MicroUSD(each)}},
		"the second's answer is too long": {a: says(502, ""), b: func(*http.Request) (*http.Response, error) { return overlong(), nil }, asked: "ab", holds: 2, used: Amount{2 * each, MicroUSD(11 * each)}},
	} {
		l := &watchedLedger{Ledger: NewMemoryLedger()}
		f := newFleet(t, func(c *Config) {
			var err error
			c.Spend, err = spendOf(`prices: {a/*: {input: 1, output: 1}, b/*: {input: 10, output: 10}, c/*: {free: true}}
budgets: [{name: all, per: host, window: total, usd: ` + cmp.Or(tc.usd, "1") + `}]`)
			require.NoError(t, err)
		})
		f.router.opts.Ledger, f.router.opts.MaxBody = l, 1<<10
		if tc.deaf {
			f.router.log = noFallback{f.log}
		}
		f.answers["a"], f.answers["b"], f.answers["c"] = tc.a, tc.b, tc.c
		f.call(body)
		assert.Equal(t, tc.asked, strings.Join(f.took(), ""), name)
		assert.Equal(t, tc.holds, l.reserved.Load(), name)
		assert.Equal(t, tc.holds, l.settled.Load(), name)
		assert.Empty(t, l.Ledger.(*memoryLedger).holds, name)
		used, err := l.Used(t.Context(), []string{`all host "" total`})
		require.NoError(t, err)
		assert.Equal(t, tc.used, used[0], name)

		out := f.outcomes()
		require.Len(t, out, 1, name)
		u := cmp.Or(out[0].Usage, &audit.Usage{})
		if tc.cost > 0 {
			assert.Equal(t, tc.cost, u.Cost, name)
		}
		assert.EqualValues(t, tc.used.Cost, cmp.Or(u.Charged, u.Cost), "%s: the record and the ledger agree", name)
	}
}

// overlong is an answer that is not read to its end.
func overlong() *http.Response {
	return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(strings.Repeat("x", 2<<10)))}
}

// The same target asked again is charged again, and each time only if it may have
// cost.
func TestMoneyAcrossRetries(t *testing.T) {
	const body = `{"model":"m","max_tokens":100,"messages":[]}`
	each := int64(len(body)) + 100 + pieceSlack
	for statuses, want := range map[string]struct{ holds, charged int64 }{
		"ok": {1, 7}, "503 ok": {1, 7}, "502 ok": {2, each + 7}, "502 503 502 ok": {3, 2*each + 7}, "503 503 503 503": {1, 0}, "502 502 502 502": {4, 4 * each},
	} {
		l := &watchedLedger{Ledger: NewMemoryLedger()}
		f := newFleet(t, func(c *Config) {
			var err error
			c.Spend, err = spendOf("prices: {a/*: {input: 1, output: 1}}\nbudgets: [{name: all, per: host, window: total, usd: 1}]")
			require.NoError(t, err)
			c.Retry, c.Breaker.Failures = Retry{Attempts: 4, Pause: 1}, -1
		})
		f.router.opts.Ledger = l
		left := strings.Fields(statuses)
		f.answers["a"] = func(r *http.Request) (*http.Response, error) {
			status := left[0]
			left = left[1:]
			switch status {
			case "502":
				return says(502, "")(r)
			case "503":
				return says(503, "")(r)
			}
			return counted(r)
		}
		f.call(body)
		assert.Empty(t, left, statuses)
		assert.Equal(t, want.holds, l.reserved.Load(), statuses)
		assert.Equal(t, want.holds, l.settled.Load(), statuses)
		used, err := l.Used(t.Context(), []string{`all host "" total`})
		require.NoError(t, err)
		assert.Equal(t, Amount{want.charged, MicroUSD(want.charged)}, used[0], statuses)
		u := cmp.Or(f.outcomes()[0].Usage, &audit.Usage{})
		assert.Equal(t, want.charged, cmp.Or(u.Charged, u.Cost), statuses)
	}
}

// A client that leaves between two requests pays for what may have been done, and for
// nothing else.
func TestMoneyOfClientsThatLeaveBetweenRequests(t *testing.T) {
	const body = `{"model":"m","max_tokens":100,"messages":[]}`
	each := int64(len(body)) + 100 + pieceSlack
	for name, tc := range map[string]struct {
		said func(*http.Request) (*http.Response, error)
		want int64
	}{
		"503": {says(503, ""), 0}, "429": {says(429, ""), 0}, "no connection": {fails(errDial), 0}, "502": {says(502, ""), each}, "broke off": {fails(errReset), each},
	} {
		for _, late := range []bool{false, true} {
			f := newFleet(t, func(c *Config) {
				var err error
				c.Spend, err = spendOf("prices: {a/*: {input: 1, output: 1}}\nbudgets: [{name: all, per: host, window: total, usd: 1}]")
				require.NoError(t, err)
				c.Retry = Retry{Attempts: 4, Pause: time.Hour}
			})
			l := NewMemoryLedger()
			f.router.opts.Ledger = l
			ctx, leave := context.WithCancel(t.Context())
			f.answers["a"] = func(r *http.Request) (*http.Response, error) {
				if !late {
					leave()
				}
				return tc.said(r)
			}
			f.router.opts.Rand = func() float64 { leave(); return 0.5 } // it draws how long to wait
			assert.PanicsWithValue(t, http.ErrAbortHandler, func() { f.callIn(ctx, body) }, name)
			assert.Equal(t, "a", strings.Join(f.took(), ""), name)
			used, err := l.Used(t.Context(), []string{`all host "" total`})
			require.NoError(t, err)
			want := tc.want
			if resp, _ := tc.said(nil); resp == nil && !late {
				want = each // it could be the client's leaving that ended it
			}
			assert.Equal(t, Amount{want, MicroUSD(want)}, used[0], "%s %v", name, late)
			u := cmp.Or(f.outcomes()[0].Usage, &audit.Usage{})
			assert.Equal(t, want, cmp.Or(u.Charged, u.Cost), "%s %v: the record agrees", name, late)
		}
	}
}

// An unsureLedger has done what it says it has not.
type unsureLedger struct{ *watchedLedger }

func (l unsureLedger) Reserve(ctx context.Context, h Hold) error {
	return errors.Join(l.watchedLedger.Reserve(ctx, h), errors.New("the line broke"))
}

// A ledger that says less than it was asked.
type curtLedger struct{ Ledger }

func (curtLedger) Used(context.Context, []string) ([]Amount, error) { return nil, nil }

// A reservation that may have come to be is given back, and half an answer is none.
func TestLedgersThatAreUnsure(t *testing.T) {
	l := &watchedLedger{Ledger: NewMemoryLedger()}
	h, _ := purse(t, daily, &Options{Ledger: unsureLedger{l}})
	resp, got := h.post("/v1/chat/completions", limited)
	assert.Equal(t, 503, resp.StatusCode)
	assert.Contains(t, got, `"no_ledger"`)
	assert.EqualValues(t, 1, l.settled.Load())
	assert.Zero(t, h.used(l))
	assert.Zero(t, h.requests.Load())

	h, _ = purse(t, daily, &Options{Ledger: curtLedger{NewMemoryLedger()}})
	resp, got = h.post("/v1/chat/completions", limited)
	assert.Equal(t, 503, resp.StatusCode)
	assert.Contains(t, got, `"no_ledger"`)
	assert.Zero(t, h.requests.Load())
}

// Policy sees the money budget that has the least left, whichever it is.
func TestPolicySeesTheBudgetWithTheLeast(t *testing.T) {
	const tokens = "{name: t, per: host, window: total, tokens: 5000}"
	const small, large = "{name: s, per: agent, window: total, usd: 0.5}", "{name: l, per: host, window: total, usd: 2}"
	for _, order := range [][]string{{tokens, small, large}, {large, tokens, small}, {small, large, tokens}} {
		h, _ := purse(t, oneEach+"budgets: ["+strings.Join(order, ", ")+"]", nil)
		seen := &spyEngine{decider: h.router.engine}
		h.router.engine = seen
		h.post("/v1/chat/completions", limited)
		require.Len(t, seen.attrs, 1)
		assert.EqualValues(t, 500_000, seen.attrs[0]["budget"])
	}
	h, _ := purse(t, oneEach+"budgets: ["+tokens+"]", nil)
	seen := &spyEngine{decider: h.router.engine}
	h.router.engine = seen
	h.post("/v1/chat/completions", limited)
	assert.NotContains(t, seen.attrs[0], "budget", "tokens are no money")
}

// A hold whose account was forgotten takes nothing from the one that came after it.
func TestSettlingAfterTheWindowIsForgotten(t *testing.T) {
	l := newMemoryLedger(100)
	hold := func(id string, tokens int64) Hold {
		return Hold{ID: id, At: noon, Amount: Amount{Tokens: tokens}, Claims: []Claim{{Account: "x", Ends: noon.Add(time.Minute)}}}
	}
	require.NoError(t, l.Reserve(t.Context(), hold("a", 10)))
	l.sweep(noon.Add(2 * time.Minute))
	require.Empty(t, l.accounts)
	require.NoError(t, l.Reserve(t.Context(), hold("b", 3)))
	require.NoError(t, l.Settle(t.Context(), "a", Amount{}))
	used, err := l.Used(t.Context(), []string{"x"})
	require.NoError(t, err)
	assert.Equal(t, int64(3), used[0].Tokens)
}
