//go:build unix

package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest/pgtest"
	"github.com/twinward-dev/twinward/audit/postgres"
)

const origin = "audit.example/h7"

// A database is one of its own for a test, on the server that all of them share.
type database struct {
	*pgtest.Server
	name string
}

// connect returns a pool of connections as user.
func (d database) connect(t testing.TB, user string) *pgxpool.Pool {
	config, err := pgxpool.ParseConfig(d.DSN())
	require.NoError(t, err)
	config.MaxConns, config.ConnConfig.Database, config.ConnConfig.User = 8, d.name, user
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

func connect(t testing.TB, db database) *pgxpool.Pool { return db.connect(t, "postgres") }

// All tests share a server, which takes seconds to be made, one after the other:
// some of them kill it.
func TestPostgreSQL(t *testing.T) {
	server := pgtest.Start(t)
	for i, test := range []struct {
		name string
		run  func(*testing.T, database, *pgxpool.Pool)
	}{
		{"LogInTheDatabase", testLogInTheDatabase},
		{"ManyHosts", testManyHosts},
		{"OneWriter", testOneWriter},
		{"ServerIsKilledUnderLoad", testServerIsKilledUnderLoad},
		{"AnswerIsLost", testAnswerIsLost},
		{"LostStoreRefuses", testLostStoreRefuses},
		{"LogThatMoved", testLogThatMoved},
		{"RowsStay", testRowsStay},
		{"ChangedRowIsFound", testChangedRowIsFound},
		{"Anchor", testAnchor},
		{"Migrate", testMigrate},
		{"MigrateFromEachVersion", testMigrateFromEachVersion},
		{"Hashes", testHashes},
		{"Index", testIndex},
		{"IndexOfAPrunedLog", testIndexOfAPrunedLog},
	} {
		t.Run(test.name, func(t *testing.T) {
			db := database{server, fmt.Sprint("db", i)}
			_, err := connect(t, database{server, "postgres"}).Exec(t.Context(), "create database "+db.name)
			require.NoError(t, err)
			pool := connect(t, db)
			if !strings.HasPrefix(test.name, "Migrate") {
				require.NoError(t, postgres.Migrate(t.Context(), pool))
			}
			test.run(t, db, pool)
		})
	}
}

func newKey(t testing.TB, origin string) *audit.Key {
	key, err := audit.NewKey(origin)
	require.NoError(t, err)
	return key
}

func open(t testing.TB, pool *pgxpool.Pool, o audit.Options) *audit.Log {
	log, err := postgres.Open(t.Context(), pool, origin, &postgres.Options{Log: o})
	require.NoError(t, err)
	t.Cleanup(func() { _ = log.Close() })
	return log
}

func intent(action string) audit.Intent {
	return audit.Intent{
		Door: audit.DoorTool, Action: action, Resource: `Tool::"x"`, Actor: audit.Actor{Agent: "standup", User: "ann"},
		Decision: audit.Decision{ID: "d", Effect: audit.Allow},
	}
}

func denial(action string) audit.Event {
	d := audit.Refusal("d2", audit.GuardUnknown)
	return audit.Event{Kind: audit.KindDenial, Door: audit.DoorTool, Action: action, Actor: audit.Actor{Agent: "standup"}, Decision: &d}
}

// fill records calls and denials, two records for each.
func fill(t testing.TB, log audit.Recorder, n int) {
	for i := range n {
		call, err := log.Begin(t.Context(), intent(fmt.Sprint("call", i)))
		require.NoError(t, err)
		require.NoError(t, call.End(t.Context(), audit.Outcome{Status: audit.StatusOK}))
	}
}

func verify(t testing.TB, pool *pgxpool.Pool, key *audit.Key, anchors ...string) audit.VerifyReport {
	rep, err := audit.Verify(t.Context(), postgres.FS(t.Context(), pool, origin), &audit.VerifyOptions{Key: key.VerifierKey(), Anchors: anchors})
	require.NoError(t, err)
	return rep
}

// A log in the database is one as in files: written, opened again, verified,
// proved and read by the same code.
func testLogInTheDatabase(t *testing.T, server database, pool *pgxpool.Pool) {
	key := newKey(t, origin)
	for round := range 3 {
		log := open(t, pool, audit.Options{Key: key, SegmentSize: 8 << 10})
		fill(t, log, 50)
		if round == 1 {
			assert.False(t, verify(t, pool, key).Closed, "while it is open")
		}
		require.NoError(t, log.Close())
	}
	rep := verify(t, pool, key)
	assert.Equal(t, uint64(300), rep.Records)
	assert.True(t, rep.Closed)
	assert.Greater(t, rep.Segments, 5)
	assert.Empty(t, rep.Open)

	dir := postgres.FS(t.Context(), pool, origin)
	names := []string{}
	for n := range rep.Segments {
		names = append(names, audit.SegmentName(n+1))
	}
	require.NoError(t, fstest.TestFS(dir, names...))
	for _, seq := range []uint64{1, 150, 300} {
		proof, err := audit.Prove(t.Context(), dir, seq)
		require.NoError(t, err)
		_, err = audit.VerifyProof(proof.Text(), nil, key.VerifierKey())
		require.NoError(t, err)
	}
	n := uint64(0)
	for r, err := range audit.Scan(t.Context(), dir, audit.Filter{}) {
		require.NoError(t, err)
		n++
		require.Equal(t, n, r.Seq)
	}
	assert.Equal(t, uint64(300), n)
	all, err := postgres.Origins(t.Context(), pool)
	require.NoError(t, err)
	assert.Equal(t, []string{origin}, all)
	rows, zeros := 0, 0
	require.NoError(t, pool.QueryRow(t.Context(), `select count(*), count(*) filter (where position('\x00'::bytea in data) > 0) from twinward_audit_batch`).Scan(&rows, &zeros))
	assert.Zero(t, zeros, "nothing is allocated ahead")
	assert.LessOrEqual(t, rows, 300+3*2+rep.Segments)
}

// Each host has a log of its own, and keeps its key in a file.
func testManyHosts(t *testing.T, server database, pool *pgxpool.Pool) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for h := range 4 {
		wg.Go(func() {
			name := fmt.Sprint("host", h)
			log, err := postgres.Open(t.Context(), connect(t, server), name, &postgres.Options{Log: audit.Options{KeyFile: dir + "/" + name}})
			if !assert.NoError(t, err) {
				return
			}
			var writers sync.WaitGroup
			for w := range 4 {
				writers.Go(func() {
					for i := range 25 {
						assert.NoError(t, log.Append(t.Context(), denial(fmt.Sprint(w, " ", i))))
					}
				})
			}
			writers.Wait()
			assert.NoError(t, log.Close())
		})
	}
	wg.Wait()
	for h := range 4 {
		name := fmt.Sprint("host", h)
		key, err := audit.LoadKey(dir + "/" + name)
		require.NoError(t, err)
		assert.Equal(t, name, key.Origin())
		rep, err := audit.Verify(t.Context(), postgres.FS(t.Context(), pool, name), &audit.VerifyOptions{Key: key.VerifierKey()})
		require.NoError(t, err)
		assert.Equal(t, uint64(100), rep.Records)
	}
}

func testOneWriter(t *testing.T, server database, pool *pgxpool.Pool) {
	key := newKey(t, origin)
	log := open(t, pool, audit.Options{Key: key})
	_, err := postgres.Open(t.Context(), connect(t, server), origin, &postgres.Options{Log: audit.Options{Key: key}})
	require.ErrorIs(t, err, audit.ErrLocked)
	fill(t, log, 1)
	require.NoError(t, log.Close())
	again := open(t, connect(t, server), audit.Options{Key: key})
	require.NoError(t, again.Close())

	_, err = postgres.Open(t.Context(), pool, origin, nil)
	require.ErrorIs(t, err, audit.ErrKey)
	_, err = postgres.Open(t.Context(), pool, "other", &postgres.Options{Log: audit.Options{Key: key}})
	require.ErrorIs(t, err, audit.ErrKey)
	_, err = postgres.Open(t.Context(), pool, "", nil)
	require.ErrorIs(t, err, audit.ErrInvalid)
	open(t, pool, audit.Options{Key: key}) // none of them kept the lock
}

// The server is killed again and again while calls are made. Nothing that was
// acknowledged is lost, nothing is there twice, nobody acted without a record, and
// the log goes on each time.
func testServerIsKilledUnderLoad(t *testing.T, server database, pool *pgxpool.Pool) {
	key := newKey(t, origin)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	// A server on a busy machine may take long to come up.
	log, err := postgres.Open(t.Context(), pool, origin, &postgres.Options{Log: audit.Options{Key: key, SegmentSize: 64 << 10}, Patience: 5 * time.Minute})
	require.NoError(t, err)
	t.Cleanup(func() { _ = log.Close() })

	var acts, refused atomic.Int64
	var mu sync.Mutex
	begun, ended := map[uint64]string{}, map[uint64]bool{}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	end := sync.OnceFunc(func() { close(stop); wg.Wait() })
	defer end() // before the test is over, also when it fails
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				name := fmt.Sprintf("call-%d-%d", w, i)
				ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
				call, err := log.Begin(ctx, intent(name))
				cancel()
				if err != nil {
					if !errors.Is(err, audit.ErrBusy) {
						assert.ErrorIs(t, err, context.DeadlineExceeded)
					}
					refused.Add(1)
					continue
				}
				acts.Add(1) // the outside world
				mu.Lock()
				begun[call.Record()] = name
				mu.Unlock()
				if assert.NoError(t, call.End(context.Background(), audit.Outcome{Status: audit.StatusOK, ErrorCode: name})) {
					mu.Lock()
					ended[call.Record()] = true
					mu.Unlock()
				}
			}
		})
	}
	// The others may all be waiting to end a call. This one never does, so that
	// somebody is refused.
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			if log.Append(ctx, denial(fmt.Sprint("denied-", i))) != nil {
				refused.Add(1)
			}
			cancel()
		}
	})
	const kills = 4
	for k := range kills {
		before := acts.Load()
		require.Eventually(t, func() bool { return acts.Load() > before+20 }, 2*time.Minute, time.Millisecond, "after kill %d", k)
		time.Sleep(time.Duration(rnd.IntN(20)) * time.Millisecond)
		was := refused.Load()
		if k%2 == 0 {
			server.Kill()
		} else {
			server.Stop()
		}
		require.Eventually(t, func() bool { return refused.Load() > was+8 }, 2*time.Minute, time.Millisecond, "calls are refused at kill %d", k)
		server.Run()
	}
	before := acts.Load()
	require.Eventually(t, func() bool { return acts.Load() > before+20 }, 2*time.Minute, time.Millisecond)
	end()
	require.NoError(t, log.Close())
	t.Logf("%d calls, %d refused, %d kills", acts.Load(), refused.Load(), kills)

	rep := verify(t, pool, key)
	assert.True(t, rep.Closed)
	intents, outcomes := map[uint64]string{}, map[uint64]string{}
	for r, err := range audit.Scan(t.Context(), postgres.FS(t.Context(), pool, origin), audit.Filter{}) {
		require.NoError(t, err)
		switch {
		case r.Intent != nil:
			intents[r.Seq] = r.Intent.Action
		case r.Outcome != nil:
			require.NotContains(t, outcomes, r.Call, "twice")
			outcomes[r.Call] = r.Outcome.ErrorCode
		default:
			assert.Equal(t, audit.KindDenial, r.Event.Kind, "record %d", r.Seq)
		}
	}
	assert.Equal(t, acts.Load(), int64(len(begun)))
	names := map[string]bool{}
	for _, name := range intents {
		require.NotContains(t, names, name, "twice")
		names[name] = true
	}
	for seq, name := range begun {
		require.Equal(t, name, intents[seq], "the call acted")
		require.True(t, ended[seq])
		require.Equal(t, name, outcomes[seq])
	}
	for seq := range intents {
		if begun[seq] == "" && outcomes[seq] != "" {
			assert.Equal(t, "not-begun", outcomes[seq])
		}
	}
}

// A host that has lost the store refuses within the caller's context, and fails
// after its patience.
func testLostStoreRefuses(t *testing.T, server database, pool *pgxpool.Pool) {
	key := newKey(t, origin)
	log, err := postgres.Open(t.Context(), pool, origin, &postgres.Options{Log: audit.Options{Key: key}, Patience: time.Second})
	require.NoError(t, err)
	call, err := log.Begin(t.Context(), intent("before"))
	require.NoError(t, err)
	server.Stop()
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = log.Begin(short, intent("x"))
	require.ErrorIs(t, err, audit.ErrBusy)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	// An outcome waits for as long as the log has patience.
	require.ErrorIs(t, call.End(t.Context(), audit.Outcome{Status: audit.StatusOK}), audit.ErrFailed)
	_, err = log.Begin(t.Context(), intent("y"))
	require.ErrorIs(t, err, audit.ErrFailed)
	require.Error(t, log.Close())

	server.Run()
	again := open(t, pool, audit.Options{Key: key})
	fill(t, again, 1)
	require.NoError(t, again.Close())
	rep := verify(t, pool, key)
	assert.Equal(t, []uint64{1}, rep.Open, "the call whose outcome did not get there")
}

// A host goes on only where it left off.
func testLogThatMoved(t *testing.T, server database, pool *pgxpool.Pool) {
	for name, move := range map[string]string{
		"rewound":      `delete from twinward_audit_batch where (segment, off) = (select segment, off from twinward_audit_batch order by segment desc, off desc limit 1)`,
		"written to":   `insert into twinward_audit_batch (log, segment, off, data) select log, segment, off + length(data), 'x' from twinward_audit_batch order by segment desc, off desc limit 1`,
		"taken away":   `delete from twinward_audit_batch`,
		"next segment": `insert into twinward_audit_batch (log, segment, off, data) values ('` + origin + `', 2, 0, 'x')`,
	} {
		t.Run(name, func(t *testing.T) {
			log := open(t, pool, audit.Options{Key: newKey(t, origin)})
			fill(t, log, 3)
			server.Stop()
			server.Run()
			owner := connect(t, server)
			t.Cleanup(func() {
				_, err := owner.Exec(context.Background(), `delete from twinward_audit_batch`)
				assert.NoError(t, err)
			})
			_, err := owner.Exec(t.Context(), `alter table twinward_audit_batch disable trigger user`)
			require.NoError(t, err)
			_, err = owner.Exec(t.Context(), move)
			require.NoError(t, err)
			_, err = log.Begin(t.Context(), intent("x"))
			require.ErrorIs(t, err, audit.ErrFailed)
			require.ErrorIs(t, err, postgres.ErrMoved)
		})
	}
}

// Whoever may only insert cannot take back what is stored.
func testRowsStay(t *testing.T, server database, pool *pgxpool.Pool) {
	ctx := t.Context()
	key := newKey(t, origin)
	for _, sql := range []string{
		`create role host login`,
		`grant select, insert on twinward_audit_batch, twinward_audit_hash, twinward_audit_anchor to host`,
		`grant select on twinward_audit_schema to host`,
	} {
		_, err := pool.Exec(ctx, sql)
		require.NoError(t, err)
	}
	host := server.connect(t, "host")
	anchor := postgres.NewAnchor(host, origin)
	log := open(t, host, audit.Options{Key: key, Anchors: []audit.Anchor{anchor}})
	fill(t, log, 3)
	require.NoError(t, log.Close())
	for _, sql := range []string{
		"update twinward_audit_batch set data = 'x'", "delete from twinward_audit_batch", "truncate twinward_audit_batch",
		"update twinward_audit_anchor set checkpoint = 'x'", "delete from twinward_audit_anchor", "truncate twinward_audit_anchor",
		"alter table twinward_audit_batch disable trigger user",
	} {
		_, err := host.Exec(ctx, sql)
		assert.ErrorContains(t, err, "42501", sql) // insufficient privilege
		if _, err = pool.Exec(ctx, sql); !strings.HasPrefix(sql, "alter") {
			assert.ErrorContains(t, err, "what is on record is never changed", sql)
		}
	}
	verify(t, pool, key)
}

// Bytes that somebody changed in the database are found.
func testChangedRowIsFound(t *testing.T, server database, pool *pgxpool.Pool) {
	key := newKey(t, origin)
	log := open(t, pool, audit.Options{Key: key, SegmentSize: 4 << 10})
	fill(t, log, 20)
	require.NoError(t, log.Close())
	_, err := pool.Exec(t.Context(), `alter table twinward_audit_batch disable trigger user`)
	require.NoError(t, err)
	for _, sql := range []string{
		`update twinward_audit_batch set data = set_byte(data, 40, get_byte(data, 40) # 1) where (segment, off) = (select segment, max(off) from twinward_audit_batch where segment = 2 group by 1)`,
		`delete from twinward_audit_batch where (segment, off) = (select segment, max(off) from twinward_audit_batch where segment = 1 and off > 0 group by 1)`,
		`delete from twinward_audit_batch where segment = 2 and off > 0 and off = (select min(off) from twinward_audit_batch where segment = 2 and off > 0)`,
		`delete from twinward_audit_batch where segment = 2`,
	} {
		tx, err := pool.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), `create table kept as select * from twinward_audit_batch`)
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), sql)
		require.NoError(t, err)
		require.NoError(t, tx.Commit(t.Context()))
		_, err = audit.Verify(t.Context(), postgres.FS(t.Context(), pool, origin), &audit.VerifyOptions{Key: key.VerifierKey()})
		assert.ErrorIs(t, err, audit.ErrTampered, sql)
		for _, sql := range []string{`delete from twinward_audit_batch`, `insert into twinward_audit_batch select * from kept`, `drop table kept`} {
			_, err = pool.Exec(t.Context(), sql)
			require.NoError(t, err)
		}
		verify(t, pool, key)
	}
}

func testMigrate(t *testing.T, server database, pool *pgxpool.Pool) {
	_, err := postgres.Open(t.Context(), pool, origin, nil)
	require.ErrorIs(t, err, postgres.ErrSchema)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { assert.NoError(t, postgres.Migrate(t.Context(), connect(t, server))) })
	}
	wg.Wait()
	key := newKey(t, origin)
	log := open(t, pool, audit.Options{Key: key})
	fill(t, log, 1)
	require.NoError(t, log.Close())
	require.NoError(t, postgres.Migrate(t.Context(), pool))
	verify(t, pool, key)
	_, err = pool.Exec(t.Context(), `insert into twinward_audit_schema (version) values (99)`)
	require.NoError(t, err)
	_, err = postgres.Open(t.Context(), pool, origin, nil)
	require.ErrorIs(t, err, postgres.ErrSchema)
	assert.ErrorContains(t, err, "they have version 99")
}
