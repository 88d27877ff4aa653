// Package postgres lets many hosts share one registry of agents, in PostgreSQL.
//
// Think of the list of stolen passports at every border: each post has its own
// copy, so that nobody waits in line for headquarters; whoever is put on it
// anywhere is refused everywhere within a moment; and a post that has lost the
// line to headquarters closes, after a stated time, until it has it back.
//
//	if err := postgres.Migrate(ctx, owner); err != nil { … } // once, by a role that owns the tables
//	store, err := postgres.Open(ctx, pool)
//	agents, err := agentid.NewRegistry(log, &agentid.Options{Store: store, Issuer: …})
//	go agents.Follow(ctx)
//
// A host is notified of changes (LISTEN/NOTIFY) and asks at every
// [agentid.Options.Poll] besides, so that a notification that is lost costs half
// a second and no more. After [agentid.Options.MaxStale] without an answer it
// denies everything.
//
// # What is stored
//
// Agents with the hash of their client secret, hashes of tokens, public keys,
// and hashes of proofs that were used: nothing that lets anyone in. Who can write
// to the tables can make agents, so the hosts' role is to be theirs alone; it
// needs USAGE of the schema and SELECT, INSERT, UPDATE and DELETE on the tables
// whose names begin with twinward_agent, and SELECT on twinward_agent_schema.
//
// Acknowledged is what the server has committed. All hosts have to ask the server
// that takes the writes: an answer of a standby, which may be behind, is an error.
// A server whose data is older than what a host has seen, as after a backup was
// put back, is [agentid.ErrRewound] there, and is denied until the host starts
// anew.
//
// # BENCHMARKS
//
// From the call of Revoke on one host until what runs on another is cancelled,
// both beside the server on two cores that had ten to twenty times as much to do:
// 1.1 to 1.6 ms in the median, 3 to 66 ms for 99 of 100.
package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/twinward-dev/twinward/audit/postgres/pgschema"
)

var (
	// ErrSchema is returned when the tables are missing or of another version.
	ErrSchema = pgschema.ErrVersion
	// ErrStandby is returned by a server that does not take the writes.
	ErrStandby = errors.New("credential/postgres: the server is a standby, which may not know of the last revocations: connect to the primary")
)

// migrations make the tables. Each is applied once, in order; none is ever changed.
var migrations = []string{`
create table twinward_agent_seq (one boolean primary key default true check (one), seq bigint not null);
insert into twinward_agent_seq (seq) values (0);
create table twinward_agent (
	id text primary key, seq bigint not null,
	version bigint not null check (version > 0), life bigint not null check (life >= 0),
	state text not null check (state in ('active', 'frozen', 'revoked')),
	secret bytea not null check (length(secret) = 32),
	owner text not null check (owner <> ''), profile text not null,
	keys bytea not null, cert_name text not null, issuer text not null, expires timestamptz
);
create index twinward_agent_by_seq on twinward_agent (seq);
create table twinward_agent_grant (
	token bytea primary key, agent text not null references twinward_agent (id), life bigint not null,
	audience text not null, expires timestamptz not null,
	person text not null, chain jsonb not null, key_id text not null, cert text not null
);
create index twinward_agent_grant_expires on twinward_agent_grant (expires);
create table twinward_agent_dropped (token bytea primary key, expires timestamptz not null);
create table twinward_agent_key (id text primary key, jwk bytea not null, expires timestamptz not null);
create table twinward_agent_once (key bytea primary key, until timestamptz not null);
create index twinward_agent_once_until on twinward_agent_once (until);
create function twinward_agent_forward() returns trigger language plpgsql as $$
begin
	if new.version <> old.version + 1 or new.life < old.life or (new.state <> 'active' and new.life = old.life and old.state = 'active') then
		raise exception 'an agent goes forward only: version by one, and a new life with each end';
	end if;
	return new;
end $$;
create trigger twinward_agent_forward before update on twinward_agent for each row execute function twinward_agent_forward();
`, `
alter table twinward_agent add column ended timestamptz;
`}

var tables = pgschema.Schema{Name: "twinward_agent", Migrations: migrations}

// Migrate makes the tables, or brings them up to this version. It is called by a
// role that owns them; calling it again, from many hosts at once, does nothing.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error {
	if err := tables.Migrate(ctx, pool); err != nil {
		return fmt.Errorf("credential/postgres: %w", err)
	}
	return nil
}

// Open returns the store in a database, or [ErrSchema]. The caller closes the
// pool, of which a follower takes one connection for itself.
func Open(ctx context.Context, pool *pgxpool.Pool) (*Store, error) {
	if err := tables.Check(ctx, pool); err != nil {
		return nil, fmt.Errorf("credential/postgres: %w", err)
	}
	return &Store{pool: pool}, nil
}
