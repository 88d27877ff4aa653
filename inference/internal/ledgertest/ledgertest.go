// Package ledgertest holds what every ledger of budgets has to do, for the tests
// of all of them.
package ledgertest

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/inference"
)

// Noon is when everything happens.
var Noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

// Claim is a claim on an account of that name, for the day.
func Claim(name string, tokens int64, cost inference.MicroUSD) inference.Claim {
	return inference.Claim{Budget: "b", Account: name, Ends: Noon.Add(12 * time.Hour), Limit: inference.Amount{Tokens: tokens, Cost: cost}}
}

// Hold is a hold with an id of its own.
func Hold(amount inference.Amount, claims ...inference.Claim) inference.Hold {
	return inference.Hold{ID: audit.NewID(), At: Noon, Expires: Noon.Add(24 * time.Hour), Amount: amount, Claims: claims}
}

// Run runs all tests. open returns an empty ledger.
func Run(t *testing.T, open func(t *testing.T) inference.Ledger) {
	t.Run("reserve and settle", func(t *testing.T) { reserveAndSettle(t, open(t)) })
	t.Run("all or none", func(t *testing.T) { allOrNone(t, open(t)) })
	t.Run("at once", func(t *testing.T) { atOnce(t, open(t)) })
	t.Run("any order", func(t *testing.T) { anyOrder(t, open(t)) })
	t.Run("huge", func(t *testing.T) { huge(t, open(t)) })
}

func used(t *testing.T, l inference.Ledger, accounts ...string) []inference.Amount {
	t.Helper()
	out, err := l.Used(t.Context(), accounts)
	require.NoError(t, err)
	require.Len(t, out, len(accounts))
	return out
}

func reserveAndSettle(t *testing.T, l inference.Ledger) {
	ctx := t.Context()
	assert.Equal(t, []inference.Amount{{}, {}}, used(t, l, "x", "y"))
	h := Hold(inference.Amount{Tokens: 60, Cost: 600}, Claim("x", 100, 1000))
	require.NoError(t, l.Reserve(ctx, h))
	assert.Equal(t, []inference.Amount{{}, {Tokens: 60, Cost: 600}}, used(t, l, "y", "x"), "what is held counts as used")

	var full *inference.BudgetError
	err := l.Reserve(ctx, Hold(inference.Amount{Tokens: 41}, Claim("x", 100, 0)))
	require.ErrorAs(t, err, &full)
	assert.Equal(t, inference.Amount{Tokens: 60, Cost: 600}, full.Used)
	assert.Equal(t, inference.Amount{Tokens: 41}, full.Asked)
	assert.Equal(t, "x", full.Account)
	require.ErrorAs(t, l.Reserve(ctx, Hold(inference.Amount{Cost: 401}, Claim("x", 0, 1000))), &full)

	exact := Hold(inference.Amount{Tokens: 40, Cost: 400}, Claim("x", 100, 1000))
	require.NoError(t, l.Reserve(ctx, exact), "what fits exactly fits")
	require.NoError(t, l.Settle(ctx, h.ID, inference.Amount{Tokens: 10, Cost: 100}))
	assert.Equal(t, []inference.Amount{{Tokens: 50, Cost: 500}}, used(t, l, "x"))
	assert.ErrorIs(t, l.Settle(ctx, h.ID, inference.Amount{}), inference.ErrNoHold, "a hold is settled once")
	assert.Equal(t, []inference.Amount{{Tokens: 50, Cost: 500}}, used(t, l, "x"))
	require.NoError(t, l.Settle(ctx, exact.ID, inference.Amount{Tokens: 1000, Cost: 400}))
	assert.Equal(t, []inference.Amount{{Tokens: 1010, Cost: 500}}, used(t, l, "x"), "the truth is kept even where it is more")

	assert.Error(t, l.Reserve(ctx, Hold(inference.Amount{Tokens: -1}, Claim("x", 0, 0))), "nobody earns budget back")
	twice := Hold(inference.Amount{}, Claim("z", 1, 1))
	require.NoError(t, l.Reserve(ctx, twice))
	assert.Error(t, l.Reserve(ctx, twice), "an id names one hold")
	nameless := Hold(inference.Amount{}, Claim("z", 1, 1))
	nameless.ID = ""
	assert.Error(t, l.Reserve(ctx, nameless), "and there has to be one")
	require.NoError(t, l.Settle(ctx, twice.ID, inference.Amount{Tokens: -5, Cost: -5}))
	assert.Equal(t, []inference.Amount{{}}, used(t, l, "z"), "what is spent is never less than nothing")
	require.NoError(t, l.Reserve(ctx, Hold(inference.Amount{Tokens: 5})), "without a claim there is nothing to deny")
}

func allOrNone(t *testing.T, l inference.Ledger) {
	ctx := t.Context()
	var full *inference.BudgetError
	err := l.Reserve(ctx, Hold(inference.Amount{Tokens: 10}, Claim("a", 100, 0), Claim("b", 5, 0), Claim("c", 100, 0)))
	require.ErrorAs(t, err, &full)
	assert.Equal(t, "b", full.Account)
	assert.Equal(t, []inference.Amount{{}, {}, {}}, used(t, l, "a", "b", "c"))
}

// 64 callers at once take exactly what there is.
func atOnce(t *testing.T, l inference.Ledger) {
	const callers, room = 64, 40
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		kept []inference.Hold
	)
	for range callers {
		wg.Go(func() {
			// In both orders: claims are no reason to wait for each other for ever.
			h := Hold(inference.Amount{Tokens: 1}, Claim("p", room, 0), Claim("q", callers, 0))
			if rand.N(2) == 0 {
				h.Claims[0], h.Claims[1] = h.Claims[1], h.Claims[0]
			}
			err := l.Reserve(context.Background(), h)
			var full *inference.BudgetError
			if errors.As(err, &full) {
				return
			}
			assert.NoError(t, err)
			mu.Lock()
			kept = append(kept, h)
			mu.Unlock()
		})
	}
	wg.Wait()
	assert.Len(t, kept, room)
	for _, h := range kept {
		wg.Go(func() { assert.NoError(t, l.Settle(context.Background(), h.ID, inference.Amount{})) })
	}
	wg.Wait()
	assert.Equal(t, []inference.Amount{{}, {}}, used(t, l, "p", "q"))
}

// anyOrder reserves and settles at random, also never and twice, and knows at
// each step what must be used; it never is more than the limit.
func anyOrder(t *testing.T, l inference.Ledger) {
	steps := 200
	if os.Getenv("TWINWARD_FULL") != "" {
		steps = 2000
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	ctx := t.Context()
	names := []string{"one", "two", "three"}
	limit := map[string]inference.Amount{"one": {Tokens: 500}, "two": {Cost: 700}, "three": {Tokens: 400, Cost: 400}}
	want := map[string]inference.Amount{}
	var open []inference.Hold
	var ended []string
	for range steps {
		if len(open) > 0 && r.IntN(2) == 0 {
			i := r.IntN(len(open))
			h := open[i]
			open = append(open[:i], open[i+1:]...)
			spent := inference.Amount{Tokens: r.Int64N(h.Amount.Tokens + 1), Cost: inference.MicroUSD(r.Int64N(int64(h.Amount.Cost) + 1))}
			if r.IntN(4) == 0 {
				spent = inference.Amount{} // nothing was done
			}
			require.NoError(t, l.Settle(ctx, h.ID, spent))
			ended = append(ended, h.ID)
			for _, c := range h.Claims {
				w := want[c.Account]
				want[c.Account] = inference.Amount{Tokens: w.Tokens - h.Amount.Tokens + spent.Tokens, Cost: w.Cost - h.Amount.Cost + spent.Cost}
			}
		} else {
			h := Hold(inference.Amount{Tokens: r.Int64N(80), Cost: inference.MicroUSD(r.Int64N(80))})
			fits := true
			for _, n := range names {
				if r.IntN(2) == 0 {
					continue
				}
				lim := limit[n]
				h.Claims = append(h.Claims, Claim(n, lim.Tokens, lim.Cost))
				sum := want[n].Plus(h.Amount)
				fits = fits && (lim.Tokens == 0 || sum.Tokens <= lim.Tokens) && (lim.Cost == 0 || sum.Cost <= lim.Cost)
			}
			err := l.Reserve(ctx, h)
			if fits {
				require.NoError(t, err)
				open = append(open, h)
				for _, c := range h.Claims {
					want[c.Account] = want[c.Account].Plus(h.Amount)
				}
			} else {
				var full *inference.BudgetError
				require.ErrorAs(t, err, &full)
			}
		}
		if len(ended) > 0 && r.IntN(8) == 0 {
			require.ErrorIs(t, l.Settle(ctx, ended[r.IntN(len(ended))], inference.Amount{Tokens: 1}), inference.ErrNoHold)
		}
		for i, got := range used(t, l, names...) {
			require.Equal(t, want[names[i]], got, names[i])
			lim := limit[names[i]]
			require.False(t, lim.Tokens > 0 && got.Tokens > lim.Tokens || lim.Cost > 0 && got.Cost > lim.Cost)
		}
	}
}

// What does not fit into a number is not taken for little.
func huge(t *testing.T, l inference.Ledger) {
	ctx := t.Context()
	const most = 1<<63 - 1
	h := Hold(inference.Amount{Tokens: most, Cost: most}, Claim("h", 0, 0))
	require.NoError(t, l.Reserve(ctx, h))
	require.NoError(t, l.Reserve(ctx, Hold(inference.Amount{Tokens: most}, Claim("h", 0, 0))))
	var full *inference.BudgetError
	require.ErrorAs(t, l.Reserve(ctx, Hold(inference.Amount{Tokens: 1}, Claim("h", most-1, 0))), &full)
	require.NoError(t, l.Settle(ctx, h.ID, inference.Amount{}))
	require.ErrorAs(t, l.Reserve(ctx, Hold(inference.Amount{Tokens: 1}, Claim("h", most-1, 0))), &full)
}
