//go:build unix

package postgres_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit/audittest/pgtest"
	"github.com/twinward-dev/twinward/inference"
	"github.com/twinward-dev/twinward/inference/internal/ledgertest"
	"github.com/twinward-dev/twinward/inference/postgres"
)

func connect(t testing.TB, server *pgtest.Server) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), server.DSN())
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

func open(t testing.TB, pool *pgxpool.Pool) *postgres.Ledger {
	t.Helper()
	ledger, err := postgres.Open(t.Context(), pool)
	require.NoError(t, err)
	return ledger
}

func TestLedger(t *testing.T) {
	pool := connect(t, pgtest.Start(t))
	_, err := postgres.Open(t.Context(), pool)
	require.ErrorIs(t, err, postgres.ErrSchema)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { assert.NoError(t, postgres.Migrate(t.Context(), pool)) })
	}
	wg.Wait()
	ledgertest.Run(t, func(t *testing.T) inference.Ledger {
		_, err := pool.Exec(t.Context(), `truncate twinward_budget_account, twinward_budget_hold`)
		require.NoError(t, err)
		return open(t, pool)
	})
	_, err = pool.Exec(t.Context(), `insert into twinward_budget_schema (version) values (1000)`)
	require.NoError(t, err)
	_, err = postgres.Open(t.Context(), pool)
	assert.ErrorIs(t, err, postgres.ErrSchema)
}

// Hosts that share accounts in all orders take exactly what there is, and none
// waits for another in a circle.
func TestManyHostsShareABudget(t *testing.T) {
	server := pgtest.Start(t)
	require.NoError(t, postgres.Migrate(t.Context(), connect(t, server)))
	const hosts, calls, room = 4, 50, 70
	var (
		wg    sync.WaitGroup
		taken atomic.Int64
	)
	for host := range hosts {
		ledger := open(t, connect(t, server))
		for worker := range 4 {
			wg.Go(func() {
				for i := range calls / 4 {
					claims := []inference.Claim{ledgertest.Claim("all", room, 0), ledgertest.Claim("b", 0, 0), ledgertest.Claim("c", 0, 0)}
					n := (host + worker + i) % 3
					claims[0], claims[n] = claims[n], claims[0]
					h := ledgertest.Hold(inference.Amount{Tokens: 2, Cost: 5}, claims...)
					if err := ledger.Reserve(t.Context(), h); err != nil {
						var full *inference.BudgetError
						assert.ErrorAs(t, err, &full)
						continue
					}
					// Each turns out to have used half of what it held.
					if assert.NoError(t, ledger.Settle(t.Context(), h.ID, inference.Amount{Tokens: 1, Cost: 2})) {
						taken.Add(1)
					}
				}
			})
		}
	}
	wg.Wait()
	used, err := open(t, connect(t, server)).Used(t.Context(), []string{"all", "b", "c", "nobody"})
	require.NoError(t, err)
	n := taken.Load()
	assert.LessOrEqual(t, used[0].Tokens, int64(room))
	for i := range 3 {
		assert.Equal(t, inference.Amount{Tokens: n, Cost: inference.MicroUSD(2 * n)}, used[i])
	}
	assert.Zero(t, used[3])
}

// What a dead host held is spent, and its row goes.
func TestHoldsOfDeadHostsStaySpent(t *testing.T) {
	pool := connect(t, pgtest.Start(t))
	ctx := t.Context()
	require.NoError(t, postgres.Migrate(ctx, pool))
	ledger := open(t, pool)
	now := time.Now()
	hold := func(account string, expires, ends time.Time) inference.Hold {
		h := ledgertest.Hold(inference.Amount{Tokens: 10}, inference.Claim{Budget: "b", Account: account, Ends: ends, Limit: inference.Amount{Tokens: 15}})
		h.Expires = expires
		require.NoError(t, ledger.Reserve(ctx, h))
		return h
	}
	dead := hold("dead", now.Add(-time.Hour), now.Add(time.Hour))
	live := hold("live", now.Add(time.Hour), now.Add(time.Hour))
	old := hold("old", now.Add(time.Hour), now.Add(-25*time.Hour))
	forever := hold("total", now.Add(time.Hour), time.Time{})
	require.NoError(t, ledger.Purge(ctx))
	used, err := ledger.Used(ctx, []string{"dead", "live", "old", "total"})
	require.NoError(t, err)
	assert.Equal(t, []inference.Amount{{Tokens: 10}, {Tokens: 10}, {}, {Tokens: 10}}, used)
	assert.ErrorIs(t, ledger.Settle(ctx, dead.ID, inference.Amount{}), inference.ErrNoHold)
	for _, h := range []inference.Hold{live, old, forever} {
		require.NoError(t, ledger.Settle(ctx, h.ID, inference.Amount{}))
	}
	var full *inference.BudgetError
	again := ledgertest.Hold(inference.Amount{Tokens: 6}, inference.Claim{Budget: "b", Account: "dead", Limit: inference.Amount{Tokens: 15}})
	require.ErrorAs(t, ledger.Reserve(ctx, again), &full, "what it held came back")

	// Calls purge by themselves.
	hold("gone", now.Add(-time.Hour), now.Add(-25*time.Hour))
	for i := range 500 {
		require.NoError(t, ledger.Reserve(ctx, ledgertest.Hold(inference.Amount{}, ledgertest.Claim(fmt.Sprint(i%3), 1, 1))))
	}
	used, err = ledger.Used(ctx, []string{"gone"})
	require.NoError(t, err)
	assert.Zero(t, used[0])
}

// What is over can stay: no call is denied because it cannot be deleted, nor waits
// for somebody who is at it.
func TestPurgeDeniesNobody(t *testing.T) {
	pool := connect(t, pgtest.Start(t))
	ctx := t.Context()
	require.NoError(t, postgres.Migrate(ctx, pool))
	ledger := open(t, pool)
	old := ledgertest.Claim("old", 10, 0)
	old.Ends = time.Now().Add(-25 * time.Hour)
	reserve := func(n int, c inference.Claim) {
		for range n {
			require.NoError(t, ledger.Reserve(ctx, ledgertest.Hold(inference.Amount{}, c)))
		}
	}
	reserve(1, old)
	other, err := pool.Begin(ctx)
	require.NoError(t, err)
	_, err = other.Exec(ctx, `select 1 from twinward_budget_account where account = 'old' for update`)
	require.NoError(t, err)
	require.NoError(t, ledger.Purge(ctx), "it does not wait")
	require.NoError(t, other.Rollback(ctx))

	_, err = pool.Exec(ctx, `create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
		create trigger refuse before delete on twinward_budget_account for each row execute function refuse()`)
	require.NoError(t, err)
	reserve(1000, ledgertest.Claim("x", 10, 0))
	assert.Error(t, ledger.Purge(ctx))
}

// Without the database nothing is reserved.
func TestDatabaseIsAway(t *testing.T) {
	server := pgtest.Start(t)
	pool := connect(t, server)
	require.NoError(t, postgres.Migrate(t.Context(), pool))
	ledger := open(t, pool)
	server.Stop()
	h := ledgertest.Hold(inference.Amount{Tokens: 1}, ledgertest.Claim("x", 10, 0))
	assert.Error(t, ledger.Reserve(t.Context(), h))
	assert.Error(t, ledger.Settle(t.Context(), h.ID, inference.Amount{}))
	_, err := ledger.Used(t.Context(), []string{"x"})
	assert.Error(t, err)
}
