package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

func TestRekeyAndResults(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	log, err := audit.Open(dir, &audit.Options{Result: func(audit.Record) audit.Level { return audit.LevelFull }})
	require.NoError(t, err)
	c, err := log.Begin(ctx, audit.Intent{Door: audit.DoorTool, Action: "slack__post", Actor: audit.Actor{Agent: "standup"}, Class: audit.ClassWrite, Args: json.RawMessage(`{"a":1}`), Decision: audit.Decision{ID: "d", Effect: audit.Allow}})
	require.NoError(t, err)
	require.NoError(t, c.End(ctx, audit.Outcome{Status: audit.StatusOK, Result: []byte(`{"ts":"4711"}`)}))
	require.NoError(t, log.Close())
	old, err := os.ReadFile(dir + ".kek")
	require.NoError(t, err)

	code, out, errs := cli("rekey", "-by", "dpo", "-reason", "yearly", dir+"/")
	require.Equal(t, exitOK, code, errs)
	assert.Contains(t, out, "wrapped anew: 1 data keys")
	code, out, errs = cli("show", "-kek", dir+".kek", dir)
	require.Equal(t, exitOK, code, errs)
	assert.Contains(t, out, `arguments {"a":1}`)
	assert.Contains(t, out, `result {"ts":"4711"}`)
	code, out, errs = cli("show", "-json", "-kek", dir+".kek", dir)
	require.Equal(t, exitOK, code, errs)
	assert.Contains(t, out, `"result":{"ts":"4711"}`)

	t.Chdir(dir)
	code, out, errs = cli("show", "-kek", dir+".kek", ".")
	require.Equal(t, exitOK, code, errs)
	assert.Contains(t, out, `arguments {"a":1}`)

	file := func(name string, args ...string) string {
		code, out, errs := cli(args...)
		require.Equal(t, exitOK, code, errs)
		require.NoError(t, os.WriteFile(dir+name, []byte(out), 0o600))
		return dir + name
	}
	proof := file(".proof", "prove", "-record", "2", dir)
	code, out, errs = cli("check", "-key", log.VerifierKey(), "-disclosure", file(".all", "disclose", "-record", "2", "-kek", dir+".kek", dir), proof)
	require.Equal(t, exitOK, code, errs)
	assert.Contains(t, out, "proven: its result was\n"+`{"ts":"4711"}`)
	code, out, errs = cli("check", "-key", log.VerifierKey(), "-disclosure", file(".one", "disclose", "-record", "2", "-field", "ts", "-kek", dir+".kek", dir), proof)
	require.Equal(t, exitOK, code, errs)
	assert.Contains(t, out, `proven: the field "ts" of its result was`)

	require.NoError(t, os.WriteFile(dir+".old", old, 0o600))
	code, out, errs = cli("values", "-kek", dir+".old", dir)
	require.Equal(t, exitOK, code, errs)
	assert.Contains(t, out, "unopened: 2")
	code, _, errs = cli("rekey", "-kek", dir+".none", "-by", "dpo", "-reason", "yearly", dir)
	assert.Equal(t, exitFailed, code, errs)
}
