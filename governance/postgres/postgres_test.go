//go:build unix

package postgres_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/audit/audittest/pgtest"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/governance/postgres"
)

var by = audit.Change{By: "alice", Reason: "OPS-1"}

// folder permits one agent to look.
func folder(id string) fstest.MapFS {
	return fstest.MapFS{
		"catalog/s.json":    {Data: []byte(`{"server":"s","tools":[{"name":"look","inputSchema":{"type":"object"},"class":"read"}]}`)},
		"policies/p.cedar":  {Data: []byte(fmt.Sprintf(`@id(%q) permit (principal == Agent::"a", action, resource);`, id) + "\n")},
		"tests/a.json":      {Data: []byte("[]")},
		"policies/.swp":     {Data: []byte("not read")},
		"unrelated/big.bin": {Data: []byte("not read")},
	}
}

// decide returns the permit that allowed, or the reason of the denial.
func decide(t testing.TB, e *governance.Engine) string {
	d, _ := e.Decide(t.Context(), governance.Request{Actor: audit.Actor{Agent: "a"}, Action: "call_tool", Server: "s", Name: "look"})
	if d.Allowed() {
		return d.Policies[0].ID
	}
	return d.Reason
}

func connect(t testing.TB, server *pgtest.Server) *pgxpool.Pool {
	pool, err := pgxpool.New(t.Context(), server.DSN())
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// follow runs a follower until the test ends.
func follow(t testing.TB, store *postgres.Store, e *governance.Engine, opts *postgres.FollowOptions) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { assert.ErrorIs(t, store.Follow(ctx, e, opts), context.Canceled) })
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// eventually waits for what the database or another goroutine does.
func eventually(t testing.TB, want string, got func() string) {
	t.Helper()
	require.Eventually(t, func() bool { return got() == want }, time.Minute, 5*time.Millisecond, "want %s", want)
}

// What is published is in force on every host, and goes on record there with
// who published it.
func TestPublishReachesEveryHost(t *testing.T) {
	server := pgtest.Start(t)
	pool := connect(t, server)
	ctx := t.Context()
	log := audittest.NewLog(t)
	store := postgres.New(pool, log)
	for range 2 {
		require.NoError(t, store.Migrate(ctx))
	}
	_, err := store.Current(ctx)
	require.ErrorIs(t, err, postgres.ErrNoPolicy)

	var engines []*governance.Engine
	var logs []*audittest.Log
	for range 3 {
		l := audittest.NewLog(t)
		e := governance.NewEngine(l, nil)
		engines, logs = append(engines, e), append(logs, l)
		// Every host polls once in an hour: what reaches it was notified.
		follow(t, postgres.New(connect(t, server), nil), e, &postgres.FollowOptions{MaxStale: 3 * time.Hour, Poll: time.Hour})
	}
	first, rep, err := store.Publish(ctx, folder("first"), by, nil)
	require.NoError(t, err)
	assert.Equal(t, rep.Hash, first.Hash)
	for _, e := range engines {
		eventually(t, "first", func() string { return decide(t, e) })
		assert.Equal(t, first.Hash, e.Hash())
	}
	second, _, err := store.Publish(ctx, folder("second"), audit.Change{By: "bob", Reason: "OPS-2"}, nil)
	require.NoError(t, err)
	for _, e := range engines {
		eventually(t, "second", func() string { return decide(t, e) })
	}
	require.NoError(t, store.Activate(ctx, first.ID, audit.Change{By: "carol", Reason: "back"}))
	for i, e := range engines {
		eventually(t, "first", func() string { return decide(t, e) })
		var said []string
		for _, r := range logs[i].Records() {
			if r.Event != nil && r.Event.Kind == audit.KindPolicy {
				said = append(said, r.Event.Action+" "+r.Event.Change.By+" "+r.Event.Detail["bundle"])
			}
		}
		assert.Equal(t, []string{"reload alice " + first.Digest, "reload bob " + second.Digest, "reload carol " + first.Digest}, said)
	}
	var said []string
	for _, r := range log.Records() {
		if r.Event != nil && r.Event.Kind == audit.KindPolicy {
			said = append(said, r.Event.Action+" "+r.Event.Change.By+" "+r.Event.Detail["version"])
		}
	}
	assert.Equal(t, []string{"publish alice 1", "publish bob 2", "activate carol 1"}, said)

	current, err := store.Current(ctx)
	require.NoError(t, err)
	assert.Equal(t, first, current)
	b, v, err := store.Bundle(ctx, second.ID)
	require.NoError(t, err)
	assert.Equal(t, second, v)
	assert.Len(t, b.Tests, 1)
	want, err := governance.LoadBundle(folder("second"))
	require.NoError(t, err)
	assert.Equal(t, want.Digest(), b.Digest())
}

// What is wrong is not published, and nothing goes through without a name, a
// reason and a record.
func TestPublishRefuses(t *testing.T) {
	pool := connect(t, pgtest.Start(t))
	ctx := t.Context()
	log := audittest.NewLog(t)
	store := postgres.New(pool, log)
	require.NoError(t, store.Migrate(ctx))
	broken := folder("x")
	broken["policies/p.cedar"] = &fstest.MapFile{Data: []byte(`permit (principal, action, resource);`)}
	_, rep, err := store.Publish(ctx, broken, by, nil)
	require.ErrorIs(t, err, governance.ErrBundle)
	assert.Len(t, rep.Findings, 1)
	_, _, err = store.Publish(ctx, folder("x"), audit.Change{By: "alice"}, nil)
	require.Error(t, err)
	_, _, err = postgres.New(pool, nil).Publish(ctx, folder("x"), by, nil)
	require.Error(t, err, "no log")
	log.Fail(errors.New("disk full"))
	_, _, err = store.Publish(ctx, folder("x"), by, nil)
	require.ErrorContains(t, err, "disk full")
	log.Fail(nil)
	require.ErrorIs(t, store.Activate(ctx, 7, by), postgres.ErrNoPolicy)
	require.Error(t, store.Activate(ctx, 1, audit.Change{Reason: "r"}))
	_, err = store.Current(ctx)
	require.ErrorIs(t, err, postgres.ErrNoPolicy, "nothing of this was published")

	v, _, err := store.Publish(ctx, folder("x"), by, nil)
	require.NoError(t, err)
	// The past stays as it was, for whoever may write.
	for _, sql := range []string{
		"update twinward_policy_version set changed_by = 'mallory'", "delete from twinward_policy_version",
		"update twinward_policy_current set version = 1", "delete from twinward_policy_current", "truncate twinward_policy_current",
		"insert into twinward_policy_current (version, changed_by, reason) values (1, '', 'r')",
		"insert into twinward_policy_current (version, changed_by, reason) values (99, 'a', 'r')",
	} {
		_, err := pool.Exec(ctx, sql)
		assert.Error(t, err, sql)
	}
	again, err := store.Current(ctx)
	require.NoError(t, err)
	assert.Equal(t, v, again)
}

// A clock that a test turns.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) turn(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// said is what a follower logs.
type said struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *said) has(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(s.text.String(), text)
}

// A host that has lost the store goes on for MaxStale and denies then, until it
// has found the store again.
func TestLostStoreDenies(t *testing.T) {
	server := pgtest.Start(t)
	pool := connect(t, server)
	log := audittest.NewLog(t)
	store := postgres.New(pool, log)
	require.NoError(t, store.Migrate(t.Context()))
	_, _, err := store.Publish(t.Context(), folder("p"), by, nil)
	require.NoError(t, err)

	c := &clock{now: time.Now()}
	e := governance.NewEngine(audittest.NewLog(t), &governance.Options{Clock: c.Now})
	follow(t, store, e, &postgres.FollowOptions{MaxStale: time.Minute, Poll: 10 * time.Millisecond, Clock: c.Now})
	eventually(t, "p", func() string { return decide(t, e) })
	for range 5 { // only an answer to a later question can make it decide again
		c.turn(time.Minute)
		eventually(t, "p", func() string { return decide(t, e) })
	}
	server.Stop()
	c.turn(59 * time.Second)
	assert.Equal(t, "p", decide(t, e), "within the bound")
	c.turn(time.Second)
	assert.Equal(t, "stale-policy", decide(t, e))
	server.Run()
	eventually(t, "p", func() string { return decide(t, e) })
	_, _, err = store.Publish(t.Context(), folder("q"), by, nil)
	require.NoError(t, err)
	eventually(t, "q", func() string { return decide(t, e) })
}

// A current version that a host cannot take is not the one that it has: it goes
// on by its own for MaxStale only.
func TestWhatCannotBeAppliedDenies(t *testing.T) {
	pool := connect(t, pgtest.Start(t))
	log := audittest.NewLog(t)
	store := postgres.New(pool, log)
	require.NoError(t, store.Migrate(t.Context()))
	key := func(name string) (note.Signer, note.Verifier) {
		skey, vkey, err := note.GenerateKey(rand.Reader, name)
		require.NoError(t, err)
		s, err := note.NewSigner(skey)
		require.NoError(t, err)
		v, err := note.NewVerifier(vkey)
		require.NoError(t, err)
		return s, v
	}
	alice, aliceKey := key("alice")
	bob, bobKey := key("bob")
	signed := maps.Clone(folder("signed"))
	for _, who := range []note.Signer{alice, bob} {
		b, err := governance.LoadBundle(signed)
		require.NoError(t, err)
		text, err := governance.SignBundle(b, who)
		require.NoError(t, err)
		signed[governance.SignatureFile] = &fstest.MapFile{Data: text}
	}
	signers := &governance.Signers{Authors: []note.Verifier{aliceKey}, Reviewers: []note.Verifier{bobKey}}
	c := &clock{now: time.Now()}
	e := governance.NewEngine(audittest.NewLog(t), &governance.Options{Clock: c.Now, Signers: signers})
	said := &said{}
	follow(t, store, e, &postgres.FollowOptions{MaxStale: time.Minute, Poll: 10 * time.Millisecond, Clock: c.Now, Logger: slog.New(slog.NewTextHandler(said, nil))})

	v, _, err := store.Publish(t.Context(), signed, by, &governance.Options{Signers: signers})
	require.NoError(t, err)
	assert.Equal(t, [2]string{"alice", "bob"}, [2]string{v.Author, v.Reviewer})
	eventually(t, "signed", func() string { return decide(t, e) })

	// Somebody who can write to the database, and whose signature nobody asks for.
	_, _, err = store.Publish(t.Context(), folder("forged"), audit.Change{By: "mallory", Reason: "r"}, nil)
	require.NoError(t, err)
	assert.Equal(t, "signed", decide(t, e))
	c.turn(time.Minute)
	assert.Equal(t, "stale-policy", decide(t, e))
	// And somebody who edits what was signed.
	var folderBytes []byte
	require.NoError(t, pool.QueryRow(t.Context(), "select folder from twinward_policy_version where id = 2").Scan(&folderBytes))
	_, err = pool.Exec(t.Context(), `insert into twinward_policy_version (digest, hash, author, reviewer, changed_by, reason, folder)
		select digest, hash, author, reviewer, changed_by, reason, $1 from twinward_policy_version where id = 1`, folderBytes)
	require.NoError(t, err)
	require.NoError(t, store.Activate(t.Context(), 3, by))
	require.Eventually(t, func() bool { return said.has("version 3: its folder has the digest") }, time.Minute, 5*time.Millisecond)
	assert.Equal(t, "stale-policy", decide(t, e))
	_, _, err = store.Bundle(t.Context(), 3)
	assert.ErrorContains(t, err, "with which it was published")

	require.NoError(t, store.Activate(t.Context(), v.ID, by))
	eventually(t, "signed", func() string { return decide(t, e) })
}

// A store that has forgotten what was seen is not believed.
func TestRewoundStoreDenies(t *testing.T) {
	pool := connect(t, pgtest.Start(t))
	store := postgres.New(pool, audittest.NewLog(t))
	ctx := t.Context()
	require.NoError(t, store.Migrate(ctx))
	for _, id := range []string{"old", "new"} {
		_, _, err := store.Publish(ctx, folder(id), by, nil)
		require.NoError(t, err)
	}
	c := &clock{now: time.Now()}
	e := governance.NewEngine(audittest.NewLog(t), &governance.Options{Clock: c.Now})
	said := &said{}
	follow(t, store, e, &postgres.FollowOptions{MaxStale: time.Minute, Poll: 10 * time.Millisecond, Clock: c.Now, Logger: slog.New(slog.NewTextHandler(said, nil))})
	eventually(t, "new", func() string { return decide(t, e) })

	// As a restored backup would.
	_, err := pool.Exec(ctx, `alter table twinward_policy_current disable trigger user`)
	require.NoError(t, err)
	_, err = pool.Exec(ctx, `delete from twinward_policy_current where seq = 2`)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return said.has("lost publications that were seen before") }, time.Minute, 5*time.Millisecond)
	assert.Equal(t, "new", decide(t, e), "the old one is not taken for the current one")
	c.turn(time.Minute)
	assert.Equal(t, "stale-policy", decide(t, e))
	_, _, err = store.Publish(ctx, folder("newer"), by, nil)
	require.NoError(t, err)
	eventually(t, "newer", func() string { return decide(t, e) })
}

// Publications at once come one after the other, and every host ends at the
// last.
func TestPublishConcurrently(t *testing.T) {
	server := pgtest.Start(t)
	store := postgres.New(connect(t, server), audittest.NewLog(t))
	ctx := t.Context()
	require.NoError(t, store.Migrate(ctx))
	e := governance.NewEngine(audittest.NewLog(t), nil)
	follow(t, postgres.New(connect(t, server), nil), e, nil)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			_, _, err := store.Publish(ctx, folder(fmt.Sprintf("p%d", i)), by, nil)
			assert.NoError(t, err)
		})
	}
	wg.Wait()
	v, err := store.Current(ctx)
	require.NoError(t, err)
	eventually(t, v.Hash, e.Hash)
}

func TestFollowOptions(t *testing.T) {
	store := postgres.New(nil, nil)
	assert.ErrorContains(t, store.Follow(t.Context(), nil, nil), "there is no engine")
	for _, o := range []postgres.FollowOptions{
		{MaxStale: -1}, {Poll: -1}, {MaxStale: time.Minute, Poll: 31 * time.Second}, {MaxStale: 1},
	} {
		assert.ErrorContains(t, store.Follow(t.Context(), governance.NewEngine(nil, nil), &o), "at least twice within MaxStale", "%+v", o)
	}
}
