//go:build unix

package main

import (
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/audit/audittest/pgtest"
	"github.com/twinward-dev/twinward/credential/agentid"
	"github.com/twinward-dev/twinward/credential/postgres"
)

// The command and a running host share the agents of a database.
func TestAgents(t *testing.T) {
	server := pgtest.Start(t)
	ctx := t.Context()
	pool, err := pgxpool.New(ctx, server.DSN())
	require.NoError(t, err)
	defer pool.Close()
	require.NoError(t, postgres.Migrate(ctx, pool))
	store, err := postgres.Open(ctx, pool)
	require.NoError(t, err)
	host, err := agentid.NewRegistry(audittest.NewLog(t), &agentid.Options{Store: store})
	require.NoError(t, err)
	look := func() (agentid.Agent, error) {
		require.NoError(t, host.Sync(ctx))
		return host.Lookup("release-bot")
	}

	d := newDesk(t)
	t.Setenv("PGHOST", pool.Config().ConnConfig.Host)
	t.Setenv("PGUSER", "postgres")
	t.Setenv("PGDATABASE", "postgres")

	out, _ := d.run(exitOK, "agents register -owner ann -profile reader -expires 24h -secret-file @secret OFFICE release-bot")
	require.Contains(t, out, d.path("secret"))
	st, err := os.Stat(d.path("secret"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode().Perm())
	secret, err := os.ReadFile(d.path("secret"))
	require.NoError(t, err)
	require.Regexp(t, `^ags_[\w-]{43}$`, string(secret))
	a, err := look()
	require.NoError(t, err)
	require.Equal(t, "ann", a.Owner)
	require.WithinDuration(t, time.Now().Add(24*time.Hour), a.Expires, time.Hour)
	d.run(exitFailed, "agents register -owner ann OFFICE release-bot")
	d.run(exitFailed, "agents register -owner ann -secret-file @secret OFFICE other-bot") // the file is there
	d.run(exitFailed, "agents register OFFICE no-owner")

	d.run(exitUsage, "agents assign OFFICE release-bot")
	d.run(exitOK, "agents assign -profile writer OFFICE release-bot")
	a, err = look()
	require.NoError(t, err)
	require.Equal(t, "writer", a.Profile)

	d.run(exitOK, "agents freeze OFFICE release-bot")
	_, err = look()
	require.ErrorIs(t, err, agentid.ErrFrozen)
	d.run(exitOK, "agents reinstate OFFICE release-bot")
	_, err = look()
	require.NoError(t, err)
	d.run(exitOK, "agents secret -secret-file @secret2 OFFICE release-bot")
	d.run(exitFailed, "agents kill OFFICE nobody")

	out, _ = d.run(exitOK, "agents list -json")
	var rows []agentRow
	require.NoError(t, json.Unmarshal([]byte(out), &rows))
	require.Len(t, rows, 1)
	require.Equal(t, "active", rows[0].State)
	out, _ = d.run(exitOK, "agents list")
	require.Regexp(t, `(?m)^release-bot +ann +writer +active +20`, out)
	require.Equal(t, []string{
		`register_agent Agent::"release-bot" ann`, `assign_profile Agent::"release-bot" ann`, `freeze_agent Agent::"release-bot" ann`,
		`reinstate_agent Agent::"release-bot" ann`, `new_secret Agent::"release-bot" ann`,
	}, d.acts())

	// An emergency does not wait for the log: it happens, and fails.
	require.NoError(t, os.Rename(d.path("log"), d.path("old")))
	d.write("log", "a file where the folder was")
	d.run(exitFailed, "agents assign -profile reader OFFICE release-bot")
	a, err = look()
	require.NoError(t, err)
	require.Equal(t, "writer", a.Profile)
	_, errs := d.run(exitFailed, "agents kill OFFICE release-bot")
	require.Contains(t, errs, "done, but not on record")
	_, err = look()
	require.ErrorIs(t, err, agentid.ErrRevoked)

	server.Stop()
	d.run(exitFailed, "agents list")
	require.NotContains(t, d.all.String(), string(secret))
}

func TestUsed(t *testing.T) {
	d := newDesk(t)
	log, err := audit.Open(d.path("log"), nil)
	require.NoError(t, err)
	call := func(agent, name string, end bool) {
		c, err := log.Begin(t.Context(), audit.Intent{
			Door: audit.DoorTool, Action: "github__create_issue", Resource: `Tool::"github__create_issue"`,
			Actor: audit.Actor{Agent: agent, Issuer: "session"}, Decision: audit.Decision{ID: "d1", Effect: audit.Allow, Policies: []audit.Policy{{ID: "p1"}}},
			Credential: &audit.CredentialUse{Name: name},
		})
		require.NoError(t, err)
		if end {
			require.NoError(t, c.End(t.Context(), audit.Outcome{Status: audit.StatusOK, CredentialVersion: 7}))
		}
	}
	call("release-bot", "github", true)
	call("release-bot", "github", false)
	call("release-bot", "slack", true)
	call("other-bot", "stripe", true)
	require.NoError(t, log.Close())
	out, _ := d.run(exitOK, "agents used -log @log -json release-bot")
	var rows []useRow
	require.NoError(t, json.Unmarshal([]byte(out), &rows))
	require.Len(t, rows, 2)
	require.Equal(t, "github", rows[0].Credential)
	require.Equal(t, 2, rows[0].Calls)
	require.Equal(t, 1, rows[0].Open)
	require.EqualValues(t, 7, rows[0].Version)
	require.Equal(t, "slack", rows[1].Credential)
	out, _ = d.run(exitOK, "agents used -log @log release-bot")
	require.Regexp(t, `(?m)^github +7 +2 +1 +20`, out)
	out, _ = d.run(exitOK, "agents used -log @log -since 2200-01-01 -json release-bot")
	require.JSONEq(t, "[]", out)
}
