package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/twinward-dev/twinward/audit"
)

// anchorTime bounds what an anchor does where the context does not.
const anchorTime = 10 * time.Second

// An Anchor keeps all checkpoints of a log in a table in which its host may only
// insert and read. It is worth most in another database than the log's, under
// another administrator.
type Anchor struct {
	pool   *pgxpool.Pool
	origin string
}

var _ audit.AnchorReader = (*Anchor)(nil)

// NewAnchor returns the anchor of the log with this name.
func NewAnchor(pool *pgxpool.Pool, origin string) *Anchor { return &Anchor{pool, origin} }

// Publish implements [audit.Anchor].
func (a *Anchor) Publish(ctx context.Context, checkpoint []byte) error {
	ctx, cancel := context.WithTimeout(ctx, anchorTime)
	defer cancel()
	// What is there stays: the same again adds nothing, another of the same size
	// stands beside it as evidence.
	_, err := a.pool.Exec(ctx, `insert into twinward_audit_anchor (checkpoint) select $1::text
		where not exists (select from twinward_audit_anchor where origin = split_part($1::text, E'\n', 1) and size = split_part($1::text, E'\n', 2)::bigint and checkpoint = $1::text)`,
		string(checkpoint))
	if err != nil {
		return fmt.Errorf("audit/postgres: anchor: %w", err)
	}
	return nil
}

// Latest implements [audit.AnchorReader].
func (a *Anchor) Latest(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, anchorTime)
	defer cancel()
	var text string
	err := a.pool.QueryRow(ctx, `select checkpoint from twinward_audit_anchor where origin = $1 order by size desc, batch desc, id limit 1`, a.origin).Scan(&text)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("audit/postgres: anchor: %w", err)
	}
	return []byte(text), nil
}

// Checkpoints returns all that it keeps, oldest first, for
// [audit.VerifyOptions.Anchors]: with all of them a verifier also finds a log that
// was rewritten and then went on past the checkpoints of its former self.
func (a *Anchor) Checkpoints(ctx context.Context) ([]string, error) {
	rows, err := a.pool.Query(ctx, `select checkpoint from twinward_audit_anchor where origin = $1 order by id`, a.origin)
	if err == nil {
		var list []string
		if list, err = pgx.CollectRows(rows, pgx.RowTo[string]); err == nil {
			return list, nil
		}
	}
	return nil, fmt.Errorf("audit/postgres: anchor: %w", err)
}
