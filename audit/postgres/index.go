package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/twinward-dev/twinward/audit"
)

// An Index is a sink that keeps the table twinward_audit_record for queries: one row
// for each record, with what one asks for in columns and the record in "record".
// It is for any log, in files or in the database, that has it among its
// [audit.Options.Sinks], and each record is in it once.
//
//	select agent, action, count(*) from twinward_audit_record where effect = 'deny' group by 1, 2
//
// An answer from it proves nothing. With log and seq the record and its proof are
// found in the log itself. It needs SELECT, INSERT, UPDATE and DELETE on
// twinward_audit_record and twinward_audit_indexed.
type Index struct {
	pool   *pgxpool.Pool
	origin string
	told   atomic.Uint64 // the position that it said last, or sent since
}

var _ audit.PositionSink = (*Index)(nil)

// NewIndex returns the index of the log with this name. It begins with the log's
// first record, or with what is left of those that were pruned.
func NewIndex(pool *pgxpool.Pool, origin string) *Index { return &Index{pool: pool, origin: origin} }

// Position implements [audit.PositionSink].
func (x *Index) Position(ctx context.Context) (uint64, error) {
	var seq int64
	err := x.pool.QueryRow(ctx, `select seq from twinward_audit_indexed where log = $1`, x.origin).Scan(&seq)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return 0, fmt.Errorf("audit/postgres: index: %w", err)
	}
	x.told.Store(uint64(seq))
	return uint64(seq), nil
}

// Rebuild empties the index. The log that feeds it begins anew with its first
// record.
func (x *Index) Rebuild(ctx context.Context) error {
	err := pgx.BeginFunc(ctx, x.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `delete from twinward_audit_indexed where log = $1`, x.origin); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `delete from twinward_audit_record where log = $1`, x.origin)
		return err
	})
	if err != nil {
		return fmt.Errorf("audit/postgres: index: %w", err)
	}
	return nil
}

// columns are those of twinward_audit_record, as row fills them.
var columns = []string{"log", "seq", "time", "kind", "door", "agent", "person", "action", "resource", "decision", "effect", "reason", "call", "status", "record"}

// Send implements [audit.Sink]. Records and position change together. Numbers that
// are left out between records are those of pruned ones.
func (x *Index) Send(ctx context.Context, records []audit.Record) error {
	last := records[len(records)-1].Seq
	err := pgx.BeginFunc(ctx, x.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `insert into twinward_audit_indexed values ($1, 0) on conflict do nothing`, x.origin); err != nil {
			return err
		}
		var have int64
		if err := tx.QueryRow(ctx, `select seq from twinward_audit_indexed where log = $1 for update`, x.origin).Scan(&have); err != nil {
			return err
		}
		if told := x.told.Load(); uint64(have) < told {
			return fmt.Errorf("it has records up to %d, and had %d: it was emptied", have, told) // its position is asked for again
		}
		for len(records) > 0 && records[0].Seq <= uint64(have) {
			records = records[1:]
		}
		if len(records) == 0 {
			return nil
		}
		_, err := tx.CopyFrom(ctx, pgx.Identifier{"twinward_audit_record"}, columns, pgx.CopyFromSlice(len(records), func(i int) ([]any, error) {
			return x.row(records[i])
		}))
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `update twinward_audit_indexed set seq = $2 where log = $1`, x.origin, last)
		return err
	})
	if err != nil {
		return fmt.Errorf("audit/postgres: index: %w", err)
	}
	x.told.Store(last)
	return nil
}

func (x *Index) row(r audit.Record) ([]any, error) {
	line, err := r.Line()
	if err != nil {
		return nil, err
	}
	kind, action, resource, status := "outcome", "", "", ""
	var call any
	switch {
	case r.Intent != nil:
		kind, action, resource = "intent", r.Intent.Action, r.Intent.Resource
	case r.Event != nil:
		kind, action, resource = string(r.Event.Kind), r.Event.Action, r.Event.Resource
	default:
		call, status = int64(r.Call), string(r.Outcome.Status)
	}
	var d audit.Decision
	if p := r.Decision(); p != nil {
		d = *p
	}
	who := r.Actor()
	row := []any{x.origin, int64(r.Seq), r.Time, kind, r.Door(), who.Agent, who.User, action, resource, d.ID, string(d.Effect), d.Reason, call, status, string(line)}
	for i, v := range row {
		if s, ok := v.(string); ok { // PostgreSQL has no such character
			row[i] = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "\ufffd"), "\ufffd")
		}
	}
	return row, nil
}
