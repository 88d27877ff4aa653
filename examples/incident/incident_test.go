//go:build linux && (amd64 || arm64)

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit/audittest/pgtest"
	"github.com/twinward-dev/twinward/examples/internal/outside"
	"github.com/twinward-dev/twinward/examples/internal/tell"
	"github.com/twinward-dev/twinward/sandbox"
)

// The test binary is the host and the agents, too.
func TestMain(m *testing.M) {
	outside.Main()
	part()
	soakPart()
	code := m.Run()
	if bin != "" {
		os.RemoveAll(bin)
	}
	os.Exit(code)
}

// commands builds twinward-vault and twinward-audit, once.
var (
	bin      string
	commands = sync.OnceValue(func() (err error) {
		if bin, err = os.MkdirTemp("", "twinward-commands-"); err != nil {
			return err
		}
		return os.Chmod(bin, 0o755) // the auditor may be another user
	})
)

// ready returns the options of a run. It skips the test where what that takes is
// not there; in full mode that is a failure.
func ready(t *testing.T) options {
	t.Helper()
	stop := t.Skipf
	if os.Getenv("TWINWARD_FULL") != "" {
		stop = t.Fatalf
	}
	if missing := sandbox.Probe().Missing; len(missing) > 0 {
		stop("no sandbox here: %v", missing)
	}
	for _, program := range []string{"git", "go"} {
		if _, err := exec.LookPath(program); err != nil {
			stop("%v", err)
		}
	}
	require.NoError(t, commands())
	require.NoError(t, buildCommands(t.Context(), bin))
	dir := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o711)) // for the auditor, likewise
	return options{json: true, rounds: 1, bin: bin, dir: dir}
}

// tellIt plays the story and checks that what it prints is as promised.
func tellIt(t *testing.T, opts options) evidence {
	t.Helper()
	var out bytes.Buffer
	s, err := play(t.Context(), opts, &out)
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for _, text := range lines[:len(lines)-1] {
		var l tell.Line
		require.NoError(t, json.Unmarshal([]byte(text), &l))
		assert.NotZero(t, l.Record)
	}
	var last map[string]tell.Summary
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &last))
	assert.Equal(t, len(lines)-1, last["summary"].Allowed+last["summary"].Denied)
	assert.True(t, s.Verified)
	assert.Zero(t, s.Secrets)
	assert.NotEmpty(t, s.Layers)
	assert.FileExists(t, s.Report)
	for _, step := range s.Steps {
		assert.Equal(t, step.Name == "root: late", step.Happened, "%+v", step)
	}
	e := s.Seen.(evidence)
	text, err := json.Marshal(e)
	require.NoError(t, err)
	t.Logf("%s", text)
	for _, vendor := range vendors {
		assert.NotZero(t, e.Requests[vendor])
	}
	assert.NotZero(t, e.Answered)
	assert.NotZero(t, e.Rows)
	assert.Zero(t, e.NoChain)
	assert.Zero(t, e.Kill.After)
	assert.GreaterOrEqual(t, e.Kill.Cut, 3, "a stream, a read and a fetch were under way")
	assert.GreaterOrEqual(t, len(e.Open), 3, "and again when the power went")
	assert.Contains(t, e.Kill.Cause, "revoked")
	return e
}

// The night without a database: it is the host that is told to revoke the agent.
func TestNight(t *testing.T) {
	opts := ready(t)
	e := tellIt(t, opts)
	assert.Equal(t, opts.rounds, e.Reloads)
	assert.Equal(t, opts.rounds*len(vendors), e.Rotated)
}

// The night with the real kill: another process, which has nothing of the host's
// but the database.
func TestNightWithADatabase(t *testing.T) {
	server := pgtest.Start(t)
	opts := ready(t)
	opts.db, opts.rounds = server.DSN(), 2
	tellIt(t, opts)
}
