package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/twinward-dev/twinward/audit/postgres/pgschema"
	"github.com/twinward-dev/twinward/credential/agentid"
)

const (
	// channel is what PostgreSQL notifies of changes.
	channel = "twinward_agent"
	// probe is how often a connection that hears nothing is tried.
	probe = 15 * time.Second
	// purgeEvery is after how many additions what has expired is deleted.
	purgeEvery = 500
)

// A Store is an [agentid.Store] in a database. It is safe for concurrent use.
type Store struct {
	pool  *pgxpool.Pool
	added atomic.Uint64
}

var _ agentid.Store = (*Store)(nil)

// write runs a transaction that is durable on the server when it returns.
func (s *Store) write(ctx context.Context, f func(tx pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select set_config('synchronous_commit', 'on', true) where current_setting('synchronous_commit') in ('off', 'local')`); err != nil {
			return err
		}
		return f(tx)
	})
}

// change is write for what followers have to hear of. The counter's row stays
// locked until the commit, so that numbers become visible in their order.
func (s *Store) change(ctx context.Context, f func(tx pgx.Tx, seq int64) error) error {
	return s.write(ctx, func(tx pgx.Tx) error {
		var seq int64
		if err := tx.QueryRow(ctx, `update twinward_agent_seq set seq = seq + 1 returning seq`).Scan(&seq); err != nil {
			return err
		}
		if err := f(tx, seq); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `select pg_notify($1, '')`, channel)
		return err
	})
}

// Put implements [agentid.Store].
func (s *Store) Put(ctx context.Context, e agentid.Entry) error {
	return s.change(ctx, func(tx pgx.Tx, seq int64) error {
		const insert = `insert into twinward_agent (id, seq, version, life, state, secret, owner, profile, keys, cert_name, issuer, expires, ended)
			values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) on conflict do nothing`
		const update = `update twinward_agent set seq = $2, version = $3, life = $4, state = $5, secret = $6, owner = $7, profile = $8, keys = $9, cert_name = $10, issuer = $11, expires = $12, ended = $13
			where id = $1 and version = $3 - 1`
		do := update
		if e.Version == 1 {
			do = insert
		}
		keys := e.Keys
		if keys == nil {
			keys = []byte{}
		}
		tag, err := tx.Exec(ctx, do, e.ID, seq, int64(e.Version), int64(e.Life), string(e.State), e.Secret[:], e.Owner, e.Profile, keys, e.CertName, e.Issuer, orNull(e.Expires), orNull(e.Ended))
		if err == nil && tag.RowsAffected() != 1 {
			err = agentid.ErrConflict
		}
		return err
	})
}

// Changes implements [agentid.Store].
func (s *Store) Changes(ctx context.Context, after uint64) (agentid.Changes, error) {
	// Mostly there are none, which is one question.
	seq, err := sequence(ctx, s.pool)
	if err != nil || seq <= after { // less is for the registry to see
		return agentid.Changes{Seq: seq}, err
	}
	var c agentid.Changes
	err = pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if c.Seq, err = sequence(ctx, tx); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `select id, version, life, state, secret, owner, profile, keys, cert_name, issuer, expires, ended from twinward_agent where seq > $1`, int64(after))
		if err != nil {
			return err
		}
		if c.Agents, err = pgx.CollectRows(rows, scanEntry); err != nil {
			return err
		}
		rows, err = tx.Query(ctx, `select token, expires from twinward_agent_dropped where expires > now() - interval '5 minutes'`)
		if err != nil {
			return err
		}
		if c.Dropped, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (d agentid.Dropped, err error) {
			var token []byte
			err = row.Scan(&token, &d.Expires)
			copy(d.Token[:], token)
			return d, err
		}); err != nil {
			return err
		}
		rows, err = tx.Query(ctx, `select id, jwk, expires from twinward_agent_key where expires > now() - interval '5 minutes'`)
		if err != nil {
			return err
		}
		c.Keys, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (k agentid.Key, err error) {
			return k, row.Scan(&k.ID, &k.JWK, &k.Expires)
		})
		return err
	})
	return c, err
}

func sequence(ctx context.Context, q pgschema.Querier) (uint64, error) {
	var seq int64
	var standby bool
	if err := q.QueryRow(ctx, `select seq, pg_is_in_recovery() from twinward_agent_seq`).Scan(&seq, &standby); err != nil {
		return 0, err
	}
	if standby {
		return 0, ErrStandby
	}
	return uint64(seq), nil
}

func scanEntry(row pgx.CollectableRow) (e agentid.Entry, err error) {
	var version, life int64
	var state string
	var secret []byte
	var expires, ended *time.Time
	err = row.Scan(&e.ID, &version, &life, &state, &secret, &e.Owner, &e.Profile, &e.Keys, &e.CertName, &e.Issuer, &expires, &ended)
	e.Version, e.Life, e.State = uint64(version), uint64(life), agentid.State(state)
	copy(e.Secret[:], secret)
	if len(e.Keys) == 0 {
		e.Keys = nil
	}
	if expires != nil {
		e.Expires = *expires
	}
	if ended != nil {
		e.Ended = *ended
	}
	return e, err
}

func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// Listen implements [agentid.Store].
func (s *Store) Listen(ctx context.Context, wake func()) error {
	pooled, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	// It listens and may be broken: it does not go back to the pool.
	conn := pooled.Hijack()
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(end) // nothing is lost with it
	}()
	for {
		// Again each time, for it also tries the connection: one that the network
		// has lost says nothing, for hours.
		try, cancel := context.WithTimeout(ctx, probe)
		_, err := conn.Exec(try, "listen "+channel)
		cancel()
		if err != nil {
			return err
		}
		wake() // what came before, or in between
		for {
			wait, cancel := context.WithTimeout(ctx, probe)
			_, err := conn.WaitForNotification(wait)
			cancel()
			if err == nil {
				wake()
				continue
			}
			if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
				return err
			}
			break
		}
	}
}

// AddGrant implements [agentid.Store].
func (s *Store) AddGrant(ctx context.Context, g agentid.Grant) error {
	if err := s.purge(ctx); err != nil {
		return err
	}
	chain, err := json.Marshal(g.Chain)
	if err != nil {
		return err
	}
	return s.write(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `insert into twinward_agent_grant (token, agent, life, audience, expires, person, chain, key_id, cert) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
			g.Token[:], g.Agent, int64(g.Life), g.Audience, g.Expires, g.User, chain, g.KeyID, g.Cert)
		return err
	})
}

// Grant implements [agentid.Store].
func (s *Store) Grant(ctx context.Context, token agentid.Hash) (agentid.Grant, error) {
	g := agentid.Grant{Token: token}
	var life int64
	var chain []byte
	err := s.pool.QueryRow(ctx, `select agent, life, audience, expires, person, chain, key_id, cert from twinward_agent_grant where token = $1`, token[:]).
		Scan(&g.Agent, &life, &g.Audience, &g.Expires, &g.User, &chain, &g.KeyID, &g.Cert)
	if errors.Is(err, pgx.ErrNoRows) {
		return agentid.Grant{}, agentid.ErrToken
	}
	if err == nil {
		err = json.Unmarshal(chain, &g.Chain)
	}
	if err != nil {
		return agentid.Grant{}, err
	}
	g.Life = uint64(life)
	return g, nil
}

// Drop implements [agentid.Store].
func (s *Store) Drop(ctx context.Context, d agentid.Dropped) error {
	return s.change(ctx, func(tx pgx.Tx, _ int64) error {
		_, err := tx.Exec(ctx, `delete from twinward_agent_grant where token = $1`, d.Token[:])
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `insert into twinward_agent_dropped (token, expires) values ($1, $2)
			on conflict (token) do update set expires = greatest(excluded.expires, twinward_agent_dropped.expires)`, d.Token[:], d.Expires)
		return err
	})
}

// AddKey implements [agentid.Store].
func (s *Store) AddKey(ctx context.Context, k agentid.Key) error {
	return s.change(ctx, func(tx pgx.Tx, _ int64) error {
		_, err := tx.Exec(ctx, `insert into twinward_agent_key (id, jwk, expires) values ($1, $2, $3)`, k.ID, k.JWK, k.Expires)
		return err
	})
}

// Once implements [agentid.Store]. A key is forgotten when it is too old by the
// clocks of the database and of this host.
func (s *Store) Once(ctx context.Context, key agentid.Hash, until time.Time) error {
	if err := s.purge(ctx); err != nil {
		return err
	}
	return s.write(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `insert into twinward_agent_once (key, until) values ($1, $2)
			on conflict (key) do update set until = excluded.until where twinward_agent_once.until <= least(now(), $3)`, key[:], until, time.Now())
		if err == nil && tag.RowsAffected() != 1 {
			err = agentid.ErrReplay
		}
		return err
	})
}

// purge deletes what has expired a while ago, by both clocks, once in many calls.
func (s *Store) purge(ctx context.Context) error {
	if s.added.Add(1)%purgeEvery != 1 {
		return nil
	}
	for _, sql := range []string{
		`delete from twinward_agent_grant where expires < least(now(), $1) - interval '5 minutes'`,
		`delete from twinward_agent_once where until < least(now(), $1) - interval '5 minutes'`,
		`delete from twinward_agent_dropped where expires < least(now(), $1) - interval '5 minutes'`,
		`delete from twinward_agent_key where expires < least(now(), $1) - interval '5 minutes'`,
	} {
		if _, err := s.pool.Exec(ctx, sql, time.Now()); err != nil {
			return err
		}
	}
	return nil
}
