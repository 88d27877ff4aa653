//go:build unix

package main

import (
	"context"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest/pgtest"
	"github.com/twinward-dev/twinward/audit/postgres"
)

// An auditor reads a log in a real PostgreSQL as one in a folder.
func TestLogInADatabase(t *testing.T) {
	server := pgtest.Start(t)
	pool, err := pgxpool.New(ctx, server.DSN())
	require.NoError(t, err)
	defer pool.Close()
	require.NoError(t, postgres.Migrate(ctx, pool))
	key, err := audit.NewKey("audit.example/host7")
	require.NoError(t, err)
	log, err := postgres.Open(ctx, pool, "audit.example/host7", &postgres.Options{Log: audit.Options{Key: key}})
	require.NoError(t, err)
	record := func(action string) {
		require.NoError(t, log.Append(ctx, audit.Event{Kind: audit.KindProbe, Action: action, Actor: audit.Actor{Agent: "standup"}}))
	}
	record("first")
	record("second")
	host := strings.Fields(strings.TrimPrefix(server.DSN(), "host="))[0]
	name := "postgres://postgres@/postgres?host=" + url.QueryEscape(host) + "#audit.example/host7"

	vkey, file := key.VerifierKey(), filepath.Join(t.TempDir(), "out")
	code, out, errs := cli("verify", "-key", vkey, name)
	require.Equal(t, exitOK, code, errs)
	assert.Contains(t, out, "records:  2 (2 signed, 0 anchored)")
	code, out, errs = cli("show", "-action", "second", name)
	require.Equal(t, exitOK, code, errs)
	assert.Contains(t, out, "second")
	code, _, errs = cli("report", "-key", vkey, "-o", file, name)
	require.Equal(t, exitOK, code, errs)
	code, _, errs = cli("anchor", "-key", vkey, "-o", file+".anchor", name)
	require.Equal(t, exitOK, code, errs)
	code, out, errs = cli("verify", "-key", vkey, "-anchor-copy", file+".anchor", name)
	require.Equal(t, exitOK, code, errs)
	assert.Contains(t, out, "2 anchored")
	code, out, errs = cli("prove", "-record", "2", name)
	require.Equal(t, exitOK, code, errs)
	_, err = audit.VerifyProof([]byte(out), nil, vkey)
	require.NoError(t, err)

	var followed, failed safe
	done := make(chan int)
	follow, stop := context.WithCancel(ctx)
	go func() { done <- run(follow, []string{"tail", "-n", "1", "-f", name}, &followed, &failed) }()
	connections := func() (n int) {
		require.NoError(t, pool.QueryRow(ctx, `select count(*) from pg_stat_activity where backend_type = 'client backend'`).Scan(&n))
		return n
	}
	require.Eventually(t, func() bool { return strings.Contains(followed.String(), "second") }, time.Minute, 10*time.Millisecond)
	before := connections()
	for _, action := range []string{"third", "fourth", "fifth", "sixth"} {
		record(action)
		require.Eventually(t, func() bool { return strings.Contains(followed.String(), action) }, time.Minute, 10*time.Millisecond)
	}
	assert.LessOrEqual(t, connections(), before+2, "it is the same database each time")
	stop()
	assert.Equal(t, exitOK, <-done, failed.String())
	require.NoError(t, log.Close())

	// One report of a log here and a log there.
	d := workday(t)
	code, out, errs = cli("report", "-json", "-key", vkey, "-key", d.key, name, d.dir)
	require.Equal(t, exitOK, code, errs)
	assert.Contains(t, out, `"origin": "audit.example/host7"`)
	assert.Contains(t, out, `"origin": "host7"`)

	base, _, _ := strings.Cut(name, "#")
	for _, bad := range []string{base, base + "#", "postgres://%zz#x"} {
		code, _, _ = cli("verify", "-key", vkey, bad)
		assert.Equal(t, exitUsage, code, bad)
	}
	code, _, errs = cli("verify", "-key", vkey, base+"#another")
	assert.Equal(t, exitFailed, code, errs)
	code, _, errs = cli("show", "postgres://nobody@/postgres?host=/no/such#x")
	assert.Equal(t, exitFailed, code, errs)
}
