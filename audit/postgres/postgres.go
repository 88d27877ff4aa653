// Package postgres keeps the audit logs of many hosts in one PostgreSQL.
//
// Think of a land registry: each host has a book of its own in it, which nobody
// else writes to, and all books stand in one building. A host's log is an
// [audit.Log] like any other: its own Merkle tree, its own signed checkpoints, the
// same bytes as in files. Only where the bytes lie is different, so
// [audit.Verify], [audit.Prove] and [audit.Scan] run unchanged over [FS].
//
//	if err := postgres.Migrate(ctx, owner); err != nil { … } // once, by a role that owns the tables
//	log, err := postgres.Open(ctx, pool, "audit.example/host7", &postgres.Options{
//		Log: audit.Options{KeyFile: "/var/lib/twinward/audit.key"},
//	})
//
// # What is stored
//
// Each batch of the log's group commit, with its checkpoint, is one row, inserted
// by one statement in a transaction of its own: there is no half of a batch, and
// nothing to repair. One row is also less work for the server than copying each
// record into a row of its own, and leaves no room for a byte of a record to be
// stored differently from what was signed. [Index] keeps a table with a row for
// each record besides, for queries, which can be made anew at any time.
//
// Rows are only added: triggers refuse anything else. Hosts need USAGE of the
// schema and SELECT and INSERT on twinward_audit_batch, twinward_audit_hash and
// twinward_audit_anchor, and SELECT on twinward_audit_schema; who owns the database
// can do anything, which an anchor elsewhere finds.
//
// The hashes of the tree are kept too (twinward_audit_hash, a twentieth of the
// log), so that a proof reads a few rows. They are nothing that one has to trust,
// and are made anew on opening where they are missing.
//
// # When the database is away
//
// A batch that was on its way is stored when the database is back, exactly once:
// whether it had arrived is seen from what is there. Until then every call is
// refused when its context ends ([audit.ErrBusy]); calls whose context never ends,
// and outcomes, wait for up to [Options.Patience], after which the log has failed
// ([audit.ErrFailed]) until it is opened anew.
//
// One process writes to a log. It holds an advisory lock on a connection of its
// own, which must be a connection to the server itself and not to a pooler that
// shares it among transactions. A host that lost its connection goes on only if it
// gets the lock again and the log is where it left it ([ErrMoved]).
//
// Acknowledged is what the server has acknowledged as committed. A server with
// fsync off, or a standby that is promoted without having received all, can lose
// that; the host finds it and refuses. Synchronous_commit is set to on for the
// log's connection where it was off or local.
//
// # BENCHMARKS
//
// BenchmarkDurable, with a server that syncs on the same two cores, while these
// were busy with other work (a load of 12): each append is committed when it
// returns. Beside it, in turns, a transaction for each record, on a connection for
// each writer; the log has one connection.
//
//	writers  appends/s  of plain inserts  p99
//	1        118        0.65              78 ms
//	16       2,815      0.74              37 ms
//	64       6,836      1.4               55 ms
package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/postgres/pgschema"
)

var (
	// ErrSchema is returned when the tables are missing or of another version.
	ErrSchema = pgschema.ErrVersion
	// ErrMoved is returned when the database does not hold what this host has
	// stored there, or holds more: another process wrote to the log, or a backup was
	// put back.
	ErrMoved = errors.New("audit/postgres: the log is not where this host left it")
)

// Options configure a log in a database. nil and the zero value are safe, but for
// Log.Key and Log.KeyFile, of which one is required.
type Options struct {
	// Log is as for [audit.New]. Its Origin is that given to [Open].
	Log audit.Options
	// Patience is how long a batch tries to get to the database before the log
	// fails. Zero means a minute.
	Patience time.Duration
}

// migrations make the tables. Each is applied once, in order; none is ever changed.
var migrations = []string{`
create table twinward_audit_batch (
	log text not null, segment int not null check (segment > 0), off bigint not null check (off >= 0),
	data bytea not null check (data <> ''), stored timestamptz not null default clock_timestamp(),
	primary key (log, segment, off)
);
create index twinward_audit_segment on twinward_audit_batch (log, segment) where off = 0;
create table twinward_audit_anchor (
	id bigint generated always as identity primary key,
	checkpoint text not null,
	origin text not null generated always as (split_part(checkpoint, E'\n', 1)) stored,
	size bigint not null generated always as (split_part(checkpoint, E'\n', 2)::bigint) stored,
	batch bigint not null generated always as (substr(split_part(checkpoint, E'\n', 4), 7)::bigint) stored,
	by name not null default session_user, at timestamptz not null default clock_timestamp()
);
create index twinward_audit_anchor_newest on twinward_audit_anchor (origin, size, batch);
create function twinward_audit_immutable() returns trigger language plpgsql as $$
begin
	raise exception 'what is on record is never changed';
end $$;
create trigger twinward_audit_immutable before update or delete or truncate on twinward_audit_batch
	for each statement execute function twinward_audit_immutable();
create trigger twinward_audit_immutable before update or delete or truncate on twinward_audit_anchor
	for each statement execute function twinward_audit_immutable();
`, `
create table twinward_audit_record (
	log text not null, seq bigint not null, time timestamptz not null,
	kind text not null, door text not null, agent text not null, person text not null,
	action text not null, resource text not null, decision text not null, effect text not null, reason text not null,
	call bigint, status text not null, record json not null,
	primary key (log, seq)
);
create index twinward_audit_record_time on twinward_audit_record (time);
create index twinward_audit_record_agent on twinward_audit_record (agent, time);
create index twinward_audit_record_call on twinward_audit_record (log, call) where call is not null;
create table twinward_audit_indexed (log text primary key, seq bigint not null);
`, `
create table twinward_audit_hash (
	log text not null, level int not null, n bigint not null, root bytea not null, leaves bytea,
	primary key (log, level, n)
);
alter table twinward_audit_hash alter column leaves set storage external;
`}

var tables = pgschema.Schema{Name: "twinward_audit", Migrations: migrations}

// Migrate makes the tables, or brings them up to this version. It is called by a
// role that owns them; calling it again, from many hosts at once, does nothing.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error {
	if err := tables.Migrate(ctx, pool); err != nil {
		return fmt.Errorf("audit/postgres: %w", err)
	}
	return nil
}

// checkSchema returns an error unless the tables are of this version.
func checkSchema(ctx context.Context, q pgschema.Querier) error {
	if err := tables.Check(ctx, q); err != nil {
		return fmt.Errorf("audit/postgres: %w", err)
	}
	return nil
}

// Open opens the log with this name in the database, or starts it. The caller
// closes the pool after the log, which takes one connection of it for itself and
// others to read. It returns what [audit.Open] returns, [audit.ErrLocked] while
// another process writes to the log, and [ErrSchema].
func Open(ctx context.Context, pool *pgxpool.Pool, origin string, opts *Options) (*audit.Log, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	if origin == "" {
		return nil, fmt.Errorf("%w: the log has no name", audit.ErrInvalid)
	}
	if o.Patience < 0 {
		return nil, fmt.Errorf("%w: a negative Patience", audit.ErrInvalid)
	}
	if o.Patience == 0 {
		o.Patience = time.Minute
	}
	if err := checkSchema(ctx, pool); err != nil {
		return nil, err
	}
	o.Log.Origin = origin
	s := &storage{pool: pool, log: origin, patience: o.Patience}
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	return audit.New(s, &o.Log)
}
