// Package postgres carries policy to many hosts: bundles are published into
// PostgreSQL once, and every host puts the current one into force by itself,
// within a moment of its publication.
//
// Think of an official gazette. What is published in it is never changed, only
// followed by something later; each issue says who published it and why;
// everybody reads the same one. And whoever has not seen the gazette for longer
// than a stated time does not go by an old issue that may have been withdrawn:
// their engine denies everything until they have seen it again.
//
//	store := postgres.New(pool, log)
//	version, err := store.Publish(ctx, os.DirFS("policy"), audit.Change{By: "alice", Reason: "OPS-12"}, opts)
//
// and on each host
//
//	engine := governance.NewEngine(log, opts)
//	go store.Follow(ctx, engine, &postgres.FollowOptions{MaxStale: time.Minute})
//
// The database is trusted for what is current and not for what is right: with
// [governance.Options.Signers] a host takes only bundles that an author and a
// reviewer have signed, whoever can write to the tables. Hosts need SELECT on
// the two tables, and publishers INSERT as well.
package postgres

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// channel is what PostgreSQL notifies of a new current version.
const channel = "twinward_policy"

// Errors of a store.
var (
	// ErrNoPolicy is returned while nothing has been published.
	ErrNoPolicy = errors.New("governance/postgres: no policy has been published")
	// ErrRewound is returned when the store's history is shorter than it was, as
	// after a backup was restored: what it calls current may be an old version.
	// A follower goes on only after a new publication, or when it is started anew.
	ErrRewound = errors.New("governance/postgres: the store has lost publications that were seen before")
)

// A Store holds published bundles. It is safe for concurrent use.
type Store struct {
	pool *pgxpool.Pool
	log  audit.Recorder
}

// New returns the store in a database. Publications go on record in log; with a
// nil log there can be none, but following can. The caller closes the pool; a
// follower takes one connection of it for itself.
func New(pool *pgxpool.Pool, log audit.Recorder) *Store {
	return &Store{pool: pool, log: log}
}

// A Version is one published bundle.
type Version struct {
	// ID counts publications; a bundle that is made current again keeps its own.
	ID int64
	// Digest is that of the bundle's folder, Hash that of the snapshot when it was
	// published.
	Digest, Hash string
	// Author and Reviewer are whose signatures the publisher verified, if any.
	Author, Reviewer string
	// By and Reason are of its publication, and Published is when, by the
	// database's clock.
	By, Reason string
	Published  time.Time
}

// schema makes the tables. Rows are only added: who could change one would
// change what was in force in the past.
const schema = `
create table if not exists twinward_policy_version (
	id bigint generated always as identity primary key,
	digest text not null, hash text not null, author text not null, reviewer text not null,
	changed_by text not null check (changed_by <> ''), reason text not null check (reason <> ''),
	published timestamptz not null default now(),
	folder bytea not null
);
create table if not exists twinward_policy_current (
	seq bigint generated always as identity primary key,
	version bigint not null references twinward_policy_version (id),
	changed_by text not null check (changed_by <> ''), reason text not null check (reason <> ''),
	since timestamptz not null default now()
);
create or replace function twinward_policy_immutable() returns trigger language plpgsql as $$
begin
	raise exception 'the history of policy is never changed';
end $$;
create or replace trigger twinward_policy_immutable before update or delete or truncate on twinward_policy_version
	for each statement execute function twinward_policy_immutable();
create or replace trigger twinward_policy_immutable before update or delete or truncate on twinward_policy_current
	for each statement execute function twinward_policy_immutable();
`

// Migrate makes the tables that are not there yet. It needs to be called once,
// by a role that owns them; calling it again, from many hosts at once, does
// nothing.
func (s *Store) Migrate(ctx context.Context) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtext('twinward_policy'))`); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, schema)
		return err
	})
	if err != nil {
		return fmt.Errorf("governance/postgres: migrate: %w", err)
	}
	return nil
}

// Publish puts the bundle of a folder into the store and makes it current. It
// compiles the bundle first, by opts, and publishes nothing that does not. Who
// publishes and why goes into the store and on record, where the hosts' reloads
// name them as well.
func (s *Store) Publish(ctx context.Context, folder fs.FS, by audit.Change, opts *governance.Options) (Version, governance.Report, error) {
	if err := by.Validate(); err != nil {
		return Version{}, governance.Report{}, fmt.Errorf("governance/postgres: publish: %w", err)
	}
	copied := &copier{FS: folder, files: map[string][]byte{}}
	b, err := governance.LoadBundle(copied)
	if err != nil {
		return Version{}, governance.Report{}, err
	}
	_, rep, err := governance.Compile(ctx, b, opts)
	if err != nil {
		return Version{}, rep, err
	}
	archive, err := pack(copied.files)
	if err != nil {
		return Version{}, rep, fmt.Errorf("governance/postgres: publish: %w", err)
	}
	v := Version{Digest: b.Digest(), Hash: rep.Hash, Author: rep.Author, Reviewer: rep.Reviewer, By: by.By, Reason: by.Reason}
	err = s.change(ctx, "publish", by, func(tx pgx.Tx) (*Version, error) {
		return &v, tx.QueryRow(ctx, `insert into twinward_policy_version (digest, hash, author, reviewer, changed_by, reason, folder)
			values ($1, $2, $3, $4, $5, $6, $7) returning id, published`,
			v.Digest, v.Hash, v.Author, v.Reviewer, v.By, v.Reason, archive).Scan(&v.ID, &v.Published)
	})
	if err != nil {
		return Version{}, rep, err
	}
	return v, rep, nil
}

// Activate makes a version current that was published before, as one does to
// go back. Who does it and why goes into the store and on record.
func (s *Store) Activate(ctx context.Context, id int64, by audit.Change) error {
	if err := by.Validate(); err != nil {
		return fmt.Errorf("governance/postgres: activate: %w", err)
	}
	return s.change(ctx, "activate", by, func(tx pgx.Tx) (*Version, error) {
		v, _, err := read(ctx, tx, id, false)
		return &v, err
	})
}

// change makes the version that do returns the current one, in one transaction
// after another: the order of seq is the order of commits.
func (s *Store) change(ctx context.Context, action string, by audit.Change, do func(pgx.Tx) (*Version, error)) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `lock table twinward_policy_current in share row exclusive mode`); err != nil {
			return err
		}
		v, err := do(tx)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `insert into twinward_policy_current (version, changed_by, reason) values ($1, $2, $3)`, v.ID, by.By, by.Reason); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `select pg_notify($1, $2)`, channel, strconv.FormatInt(v.ID, 10)); err != nil {
			return err
		}
		// On record before it is in force anywhere.
		return audit.OrRefuse(s.log).Append(ctx, audit.Event{
			Kind:     audit.KindPolicy,
			Door:     audit.DoorAdmin,
			Action:   action,
			Resource: "Policy::" + strconv.Quote(v.Hash),
			Change:   &by,
			Detail:   map[string]string{"policy_hash": v.Hash, "bundle": v.Digest, "version": strconv.FormatInt(v.ID, 10)},
		})
	})
	if err != nil {
		return fmt.Errorf("governance/postgres: %s: %w", action, err)
	}
	return nil
}

// Current returns the version that is current, or [ErrNoPolicy].
func (s *Store) Current(ctx context.Context) (Version, error) {
	now, err := latest(ctx, s.pool)
	if err != nil {
		return Version{}, err
	}
	v, _, err := read(ctx, s.pool, now.version, false)
	return v, err
}

// Bundle returns a published bundle as it was published.
func (s *Store) Bundle(ctx context.Context, id int64) (governance.Bundle, Version, error) {
	v, archive, err := read(ctx, s.pool, id, true)
	if err != nil {
		return governance.Bundle{}, v, err
	}
	b, err := unpack(archive, v)
	return b, v, err
}

// A querier is a pool, a connection or a transaction.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// read returns a version, and its folder if it is asked for.
func read(ctx context.Context, q querier, id int64, whole bool) (v Version, archive []byte, err error) {
	err = q.QueryRow(ctx, `select id, digest, hash, author, reviewer, changed_by, reason, published, case when $2 then folder end
		from twinward_policy_version where id = $1`, id, whole).
		Scan(&v.ID, &v.Digest, &v.Hash, &v.Author, &v.Reviewer, &v.By, &v.Reason, &v.Published, &archive)
	if errors.Is(err, pgx.ErrNoRows) {
		return v, nil, fmt.Errorf("%w as version %d", ErrNoPolicy, id)
	}
	if err != nil {
		return v, nil, fmt.Errorf("governance/postgres: read version %d: %w", id, err)
	}
	return v, archive, nil
}

// A pointer is the last row of what was ever current.
type pointer struct {
	seq, version int64
	by           audit.Change
}

func latest(ctx context.Context, q querier) (p pointer, err error) {
	err = q.QueryRow(ctx, `select seq, version, changed_by, reason from twinward_policy_current order by seq desc limit 1`).
		Scan(&p.seq, &p.version, &p.by.By, &p.by.Reason)
	if errors.Is(err, pgx.ErrNoRows) {
		return p, ErrNoPolicy
	}
	if err != nil {
		return p, fmt.Errorf("governance/postgres: read what is current: %w", err)
	}
	return p, nil
}

// A copier keeps what is read from a folder, so that what is published is what
// was compiled.
type copier struct {
	fs.FS
	files map[string][]byte
}

func (c *copier) Open(name string) (fs.File, error) {
	f, err := c.FS.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil || info.IsDir() {
		return f, err
	}
	return &copied{File: f, to: c, name: name}, nil
}

type copied struct {
	fs.File
	to   *copier
	name string
}

func (f *copied) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	f.to.files[f.name] = append(f.to.files[f.name], p[:n]...)
	return n, err
}

func pack(files map[string][]byte) ([]byte, error) {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, text := range files {
		w, err := z.Create(name)
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(text); err != nil {
			return nil, err
		}
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// unpack reads a published folder, which LoadBundle bounds as any other.
func unpack(archive []byte, v Version) (governance.Bundle, error) {
	z, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		return governance.Bundle{}, fmt.Errorf("governance/postgres: version %d: %w", v.ID, err)
	}
	b, err := governance.LoadBundle(z)
	if err != nil {
		return governance.Bundle{}, fmt.Errorf("governance/postgres: version %d: %w", v.ID, err)
	}
	if b.Digest() != v.Digest {
		return governance.Bundle{}, fmt.Errorf("governance/postgres: version %d: its folder has the digest %s and not %s, with which it was published", v.ID, b.Digest(), v.Digest)
	}
	return b, nil
}
