// Package postgres lets many hosts share budgets, in PostgreSQL.
//
// Think of a bank: each branch may pay out, and all see the same balance,
// because money is set aside in the one book before anything leaves the till. A
// branch that has lost the line to the book pays nothing out.
//
//	if err := postgres.Migrate(ctx, owner); err != nil { … } // once, by a role that owns the tables
//	ledger, err := postgres.Open(ctx, pool)
//	router, err := inference.NewRouter(cfg, engine, log, &inference.Options{Ledger: ledger, …})
//
// # What is stored
//
// A row for each account in each window, with what is used of it, and a row for
// each call under way, with what is held for it. No prompt, no answer, and of
// agents and people the names. A host's role needs USAGE of the schema, SELECT,
// INSERT, UPDATE and DELETE on twinward_budget_account and twinward_budget_hold,
// SELECT on twinward_budget_schema, and EXECUTE on the functions whose names
// begin with twinward_budget. Who can write to the tables can spend.
//
// Reserving and settling are one statement each, and durable when they return.
// Accounts are locked in the order of their names, so that calls do not wait for
// each other in a circle.
//
// # When a host dies
//
// What it held stays used: nothing that happens later gives it back. A day after
// the call began its row is deleted, and the amount is spent like any other.
// Rows of accounts are deleted a day after their window has ended, by the
// server's clock. Both happen beside other work, once in 500 calls, some
// thousands at a time and not for longer than a second; no call is denied because
// of it. [Ledger.Purge] deletes all that is over, and says so if it cannot.
//
// # When the database is away
//
// Calls to which a budget applies are denied. The settlement of a call that was
// under way is then lost, so that it has cost what was reserved for it.
package postgres

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/twinward-dev/twinward/audit/postgres/pgschema"
	"github.com/twinward-dev/twinward/inference"
)

// ErrSchema is returned when the tables are missing or of another version.
var ErrSchema = pgschema.ErrVersion

// migrations make the tables. Each is applied once, in order; none is ever changed.
var migrations = []string{`
create table twinward_budget_account (
	account text primary key, budget text not null, ends timestamptz,
	tokens bigint not null check (tokens >= 0), cost bigint not null check (cost >= 0)
);
create index twinward_budget_account_ends on twinward_budget_account (ends) where ends is not null;
create table twinward_budget_hold (
	id text primary key check (id <> ''), began timestamptz not null, expires timestamptz not null,
	tokens bigint not null check (tokens >= 0), cost bigint not null check (cost >= 0),
	accounts text[] not null
);
create index twinward_budget_hold_expires on twinward_budget_hold (expires);
create function twinward_budget_plus(a bigint, b bigint) returns bigint language sql immutable as $$
	select least(a::numeric + b, 9223372036854775807)::bigint
$$;
create function twinward_budget_durable() returns void language sql as $$
	select set_config('synchronous_commit', 'on', true) where current_setting('synchronous_commit') in ('off', 'local')
$$;
create function twinward_budget_reserve(hold text, began timestamptz, expires timestamptz, more_tokens bigint, more_cost bigint,
	budgets text[], accounts text[], ends timestamptz[], most_tokens bigint[], most_cost bigint[],
	out lacking int, out used_tokens bigint, out used_cost bigint) language plpgsql as $$
begin
	perform twinward_budget_durable();
	for i in 1 .. cardinality(accounts) loop
		insert into twinward_budget_account (account, budget, ends, tokens, cost) values (accounts[i], budgets[i], ends[i], 0, 0)
			on conflict do nothing;
		select a.tokens, a.cost into strict used_tokens, used_cost from twinward_budget_account a where a.account = accounts[i] for update;
		if most_tokens[i] > 0 and twinward_budget_plus(used_tokens, more_tokens) > most_tokens[i]
			or most_cost[i] > 0 and twinward_budget_plus(used_cost, more_cost) > most_cost[i] then
			lacking := i;
			return;
		end if;
	end loop;
	insert into twinward_budget_hold values (hold, began, expires, more_tokens, more_cost, accounts);
	update twinward_budget_account a set tokens = twinward_budget_plus(a.tokens, more_tokens), cost = twinward_budget_plus(a.cost, more_cost)
		where a.account = any (accounts);
	lacking := 0;
end $$;
create function twinward_budget_replace(used bigint, held bigint, spent bigint) returns bigint language sql immutable as $$
	select case when used = 9223372036854775807 then used else twinward_budget_plus(greatest(used - held, 0), greatest(spent, 0)) end
$$;
create function twinward_budget_settle(hold text, spent_tokens bigint, spent_cost bigint) returns boolean language plpgsql as $$
declare
	h twinward_budget_hold;
begin
	perform twinward_budget_durable();
	delete from twinward_budget_hold where id = hold returning * into h;
	if not found then
		return false;
	end if;
	perform 1 from twinward_budget_account a where a.account = any (h.accounts) order by a.account collate "C" for update;
	update twinward_budget_account a set tokens = twinward_budget_replace(a.tokens, h.tokens, spent_tokens), cost = twinward_budget_replace(a.cost, h.cost, spent_cost)
		where a.account = any (h.accounts);
	return true;
end $$;
`}

var tables = pgschema.Schema{Name: "twinward_budget", Migrations: migrations}

// Migrate makes the tables, or brings them up to this version. It is called by a
// role that owns them; calling it again, from many hosts at once, does nothing.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error {
	if err := tables.Migrate(ctx, pool); err != nil {
		return fmt.Errorf("inference/postgres: %w", err)
	}
	return nil
}

// Open returns the ledger in a database, or [ErrSchema]. The caller closes the
// pool. It has to be that of the server which takes the writes.
func Open(ctx context.Context, pool *pgxpool.Pool) (*Ledger, error) {
	if err := tables.Check(ctx, pool); err != nil {
		return nil, fmt.Errorf("inference/postgres: %w", err)
	}
	return &Ledger{pool: pool}, nil
}

// A Ledger is an [inference.Ledger] in a database. It is safe for concurrent use.
type Ledger struct {
	pool     *pgxpool.Pool
	reserved atomic.Uint64
}

var _ inference.Ledger = (*Ledger)(nil)

const (
	// purgeEvery is after how many calls what is over is deleted, and purgeMost how
	// many rows of a table at once: as many as calls with budgets of all windows
	// leave behind in the meantime.
	purgeEvery = 500
	purgeMost  = 20_000
	// purgePatience is how long the call waits for it.
	purgePatience = time.Second
)

// Reserve implements [inference.Ledger].
func (l *Ledger) Reserve(ctx context.Context, h inference.Hold) error {
	if err := l.reserve(ctx, h); err != nil {
		return err
	}
	if l.reserved.Add(1)%purgeEvery == 0 {
		ctx, cancel := context.WithTimeout(ctx, purgePatience)
		defer cancel()
		_ = l.purge(ctx, purgeMost) // the call has its hold; there is a next time
	}
	return nil
}

func (l *Ledger) reserve(ctx context.Context, h inference.Hold) error {
	claims := slices.SortedFunc(slices.Values(h.Claims), func(a, b inference.Claim) int { return strings.Compare(a.Account, b.Account) })
	var (
		budgets, accounts    = make([]string, len(claims)), make([]string, len(claims))
		ends                 = make([]*time.Time, len(claims))
		mostTokens, mostCost = make([]int64, len(claims)), make([]int64, len(claims))
	)
	for i, c := range claims {
		budgets[i], accounts[i], mostTokens[i], mostCost[i] = c.Budget, c.Account, c.Limit.Tokens, int64(c.Limit.Cost)
		if !c.Ends.IsZero() {
			ends[i] = &c.Ends
		}
	}
	var (
		lacking      int
		tokens, cost *int64
	)
	err := l.pool.QueryRow(ctx, `select * from twinward_budget_reserve($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
		h.ID, h.At, h.Expires, h.Amount.Tokens, int64(h.Amount.Cost), budgets, accounts, ends, mostTokens, mostCost).
		Scan(&lacking, &tokens, &cost)
	if err != nil {
		return fmt.Errorf("inference/postgres: reserve: %w", err)
	}
	if lacking > 0 && lacking <= len(claims) && tokens != nil && cost != nil {
		return &inference.BudgetError{Claim: claims[lacking-1], Used: inference.Amount{Tokens: *tokens, Cost: inference.MicroUSD(*cost)}, Asked: h.Amount}
	}
	return nil
}

// Settle implements [inference.Ledger].
func (l *Ledger) Settle(ctx context.Context, id string, spent inference.Amount) error {
	var found bool
	err := l.pool.QueryRow(ctx, `select twinward_budget_settle($1, $2, $3)`, id, spent.Tokens, int64(spent.Cost)).Scan(&found)
	if err != nil {
		return fmt.Errorf("inference/postgres: settle: %w", err)
	}
	if !found {
		return inference.ErrNoHold
	}
	return nil
}

// Used implements [inference.Ledger].
func (l *Ledger) Used(ctx context.Context, accounts []string) ([]inference.Amount, error) {
	rows, err := l.pool.Query(ctx, `select coalesce(a.tokens, 0), coalesce(a.cost, 0)
		from unnest($1::text[]) with ordinality as asked (account, n) left join twinward_budget_account a using (account) order by n`, accounts)
	if err != nil {
		return nil, fmt.Errorf("inference/postgres: read what is used: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (a inference.Amount, err error) {
		err = row.Scan(&a.Tokens, (*int64)(&a.Cost))
		return a, err
	})
	if err != nil {
		return nil, fmt.Errorf("inference/postgres: read what is used: %w", err)
	}
	return out, nil
}

// Purge deletes holds that have expired, which stay spent, and accounts whose
// window ended a day ago.
func (l *Ledger) Purge(ctx context.Context) error { return l.purge(ctx, math.MaxInt32) }

// purge deletes up to most rows of each table. It waits for nobody who is at one
// of them.
func (l *Ledger) purge(ctx context.Context, most int) error {
	_, err := l.pool.Exec(ctx, `with dead as (delete from twinward_budget_hold where id in
			(select id from twinward_budget_hold where expires < now() limit $1 for update skip locked))
		delete from twinward_budget_account where account in
			(select account from twinward_budget_account where ends < now() - interval '1 day' limit $1 for update skip locked)`, most)
	if err != nil {
		return fmt.Errorf("inference/postgres: purge: %w", err)
	}
	return nil
}
