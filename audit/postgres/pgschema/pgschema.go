// Package pgschema brings the tables of a store to the version that a program
// knows. The stores of this module in PostgreSQL share it; each has tables of its
// own, and they go together in one database.
package pgschema

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ErrVersion is returned by [Schema.Check] when the tables are missing or of
// another version.
var ErrVersion = errors.New("the tables are not those of this version: call Migrate with a role that owns them")

// A Schema is what the tables of a store are made by.
type Schema struct {
	// Name begins the names of the tables: the version is kept in <Name>_schema. It
	// is an identifier of SQL that needs no quotes.
	Name string
	// Migrations make the tables of a version out of those of the version before,
	// from none to the newest. Each is applied once, in order; none is ever changed.
	Migrations []string
}

// Migrate makes the tables, or brings them up to the newest version, in one
// transaction. It is called by a role that owns them; calling it again, from many
// hosts at once, does nothing.
func (s Schema) Migrate(ctx context.Context, pool *pgxpool.Pool) error {
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended($1, 0))`, s.Name); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `create table if not exists `+s.Name+`_schema (version int primary key, applied timestamptz not null default now())`); err != nil {
			return err
		}
		have, err := s.version(ctx, tx)
		if err != nil {
			return err
		}
		for v := have + 1; v <= len(s.Migrations); v++ {
			if _, err := tx.Exec(ctx, s.Migrations[v-1]); err != nil {
				return fmt.Errorf("to version %d: %w", v, err)
			}
			if _, err := tx.Exec(ctx, `insert into `+s.Name+`_schema (version) values ($1)`, v); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

// A Querier is a pool, a connection or a transaction.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Check returns an [ErrVersion] unless the tables are those of the newest version.
func (s Schema) Check(ctx context.Context, q Querier) error {
	v, err := s.version(ctx, q)
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && pg.Code == "42P01": // no such table
		return ErrVersion
	case err != nil:
		return err
	case v != len(s.Migrations):
		return fmt.Errorf("%w: they have version %d, this is %d", ErrVersion, v, len(s.Migrations))
	}
	return nil
}

func (s Schema) version(ctx context.Context, q Querier) (v int, err error) {
	err = q.QueryRow(ctx, `select coalesce(max(version), 0) from `+s.Name+`_schema`).Scan(&v)
	return v, err
}
