package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// newArchive is a closed log with arguments: records 1 and 3 by standup for ana,
// 5 by other for bob, 7 denied, 8 a read.
func newArchive(t *testing.T) (dir, key string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "log")
	log, err := audit.Open(dir, nil)
	require.NoError(t, err)
	for _, who := range []audit.Actor{{Agent: "standup", User: "ana"}, {Agent: "standup", User: "ana"}, {Agent: "other", User: "bob"}} {
		c, err := log.Begin(ctx, audit.Intent{
			Door: "tool", Action: "slack__post", Actor: who, Class: audit.ClassWrite,
			Decision: audit.Decision{ID: "d", Effect: audit.Allow}, Args: json.RawMessage(`{"to":"` + who.User + `\u001b","text":"hello"}`),
		})
		require.NoError(t, err)
		require.NoError(t, c.End(ctx, audit.Outcome{Status: audit.StatusOK}))
	}
	d := audit.Refusal("d2", audit.ReasonNoPermit)
	require.NoError(t, log.Append(ctx, audit.Event{Kind: audit.KindDenial, Door: "tool", Action: "slack__dms", Actor: audit.Actor{Agent: "other"}, Decision: &d, Args: json.RawMessage("no JSON\x1b")}))
	_, err = log.Begin(ctx, audit.Intent{Door: "tool", Action: "slack__list", Actor: audit.Actor{Agent: "other"}, Decision: audit.Decision{Effect: audit.Allow}, Args: json.RawMessage(`{}`)})
	require.NoError(t, err)
	require.NoError(t, log.Append(ctx, audit.Event{Kind: audit.KindIdentity, Action: "register_agent", Resource: "standup", Change: &audit.Change{By: "olga", Reason: "x"}, Detail: map[string]string{"owner": "ana"}}))
	require.NoError(t, log.Close())
	return dir, log.VerifierKey()
}

func TestShowValues(t *testing.T) {
	dir, _ := newArchive(t)
	_, out, _ := cli("show", dir)
	assert.NotContains(t, out, "hello")
	code, out, errs := cli("show", "-kek", dir+".kek", dir)
	require.Equal(t, exitOK, code, errs)
	assert.Equal(t, 3, strings.Count(out, `"text":"hello"`))
	assert.Contains(t, out, `"no JSON\x1b"`)
	assert.Contains(t, out, "arguments: committed")
	assert.NotContains(t, out, "\x1b")
	code, out, errs = cli("show", "-kek", dir+".kek", "-values", dir+".values", "-json", "-agent", "other", dir+"/")
	require.Equal(t, exitOK, code, errs)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	require.Len(t, lines, 4)
	var k known
	require.NoError(t, json.Unmarshal([]byte(lines[0]), &k))
	assert.JSONEq(t, `{"to":"bob\u001b","text":"hello"}`, string(k.Arguments))
	assert.Equal(t, "shown", k.Value)

	for _, args := range [][]string{{"-values", dir + ".values"}, {"-kek", dir + ".key"}} {
		code, out, _ = cli(append(append([]string{"show"}, args...), dir)...)
		assert.NotEqual(t, exitOK, code)
		assert.Empty(t, out)
	}
}

func TestEraseCommand(t *testing.T) {
	dir, key := newArchive(t)
	who := []string{"-by", "dpo", "-reason", "DSR-1"}
	run := func(name string, args ...string) (int, string, string) {
		return cli(append(append([]string{name}, args...), dir)...)
	}
	for _, args := range [][]string{{"-user", "ana"}, {"-user", "ana", "-by", "dpo"}, who, append(who, "-records", "3,x"), append(who, "-records", "0")} {
		code, _, errs := run("erase", args...)
		assert.Equal(t, exitUsage, code, args)
		assert.Contains(t, errs, "Usage:")
	}
	code, _, errs := run("erase", append(who, "-user", "ana", "-values", dir+".nowhere")...)
	assert.Equal(t, exitFailed, code)
	assert.Contains(t, errs, "say where with -values")
	code, _, errs = cli(append(append([]string{"erase"}, append(who, "-user", "ana")...), dir+"x")...)
	assert.Equal(t, exitFailed, code)
	assert.Contains(t, errs, "there is no log")
	assert.NoFileExists(t, dir+"x.key")

	code, out, errs := run("hold", append(who, "-matter", "smith", "-user", "ana")...)
	require.Equal(t, exitOK, code, errs)
	assert.Equal(t, "holds in force: 1\n", out)
	code, _, errs = run("erase", append(who, "-agent", "standup")...)
	assert.Equal(t, exitFailed, code)
	assert.Contains(t, errs, "smith")
	code, _, _ = run("release", append(who, "-matter", "jones")...)
	assert.Equal(t, exitFailed, code)
	code, _, _ = run("release", who...)
	assert.Equal(t, exitUsage, code)
	code, out, _ = run("release", append(who, "-matter", "smith", "-json")...)
	require.Equal(t, exitOK, code)
	assert.Equal(t, "[]\n", out)

	// It needs no key-encryption key.
	kek, err := os.ReadFile(dir + ".kek")
	require.NoError(t, err)
	require.NoError(t, os.Remove(dir+".kek"))
	code, out, errs = run("erase", append(who, "-user", "ana")...)
	require.Equal(t, exitOK, code, errs)
	assert.Equal(t, "destroyed: the arguments of 2 records, 1 data keys\n", out)
	code, out, _ = run("erase", append(who, "-records", "5, 7", "-json")...)
	require.Equal(t, exitOK, code)
	assert.JSONEq(t, `{"values":2,"keys":0,"held":0}`, out)
	assert.NoFileExists(t, dir+".kek")
	require.NoError(t, os.WriteFile(dir+".kek", kek, 0o600))

	code, out, _ = run("values", "-kek", dir+".kek")
	require.Equal(t, exitOK, code)
	assert.Equal(t, "kept:     the arguments of 4 records: 0 readable, 4 erased, 0 pruned\n", out)
	code, out, _ = run("values", "-json")
	require.Equal(t, exitOK, code)
	assert.JSONEq(t, `{"kept":4,"readable":0,"erased":4,"pruned":0}`, out)
	code, _, _ = run("verify", "-key", key)
	assert.Equal(t, exitOK, code)
	_, out, _ = run("show", "-kek", dir+".kek")
	assert.Equal(t, 4, strings.Count(out, "arguments: gone"))
	assert.Contains(t, out, "by dpo: DSR-1")

	code, _, _ = run("prune", append(who, "-keep", "1h")...)
	assert.Equal(t, exitUsage, code)
	code, out, _ = run("prune", append(who, "-keep", "1h", "-short")...)
	require.Equal(t, exitOK, code)
	assert.Equal(t, "destroyed: the arguments of 0 records, 2 data keys\n", out)

	// A running host has the log.
	log, err := audit.Open(dir, nil)
	require.NoError(t, err)
	code, _, errs = run("erase", append(who, "-user", "ana")...)
	assert.Equal(t, exitFailed, code)
	assert.Contains(t, errs, "another writer")
	require.NoError(t, log.Close())
}

// What is missing without an erasure is reported, and proofs stay.
func TestMissingValues(t *testing.T) {
	dir, key := newArchive(t)
	require.NoError(t, os.Remove(filepath.Join(dir+".values", "values.v1.00000001.jsonl")))
	code, out, _ := cli("values", dir)
	assert.Equal(t, exitOK, code)
	assert.Contains(t, out, "kept:     the arguments of 4 records: 0 there, 0 erased, 0 pruned")
	assert.Contains(t, out, "missing: 4 are gone, and no erasure is on record: records 1 3 5 7")
	code, _, _ = cli("verify", "-key", key, dir)
	assert.Equal(t, exitOK, code)
}

func TestDisclose(t *testing.T) {
	dir, key := newArchive(t)
	base := t.TempDir()
	save := func(name string, args ...string) string {
		code, out, errs := cli(append(args, dir)...)
		require.Equal(t, exitOK, code, errs)
		file := filepath.Join(base, name)
		require.NoError(t, os.WriteFile(file, []byte(out), 0o600))
		return file
	}
	proof := save("proof", "prove", "-record", "3")
	field := save("field", "disclose", "-record", "3", "-field", "text", "-kek", dir+".kek")
	all := save("all", "disclose", "-record", "3", "-kek", dir+".kek")
	code, out, errs := cli("check", "-key", key, "-disclosure", field, proof)
	require.Equal(t, exitOK, code, errs)
	assert.Contains(t, out, "the field \"text\" of its arguments was\n\"hello\"\n")
	assert.NotContains(t, out, "ana\\u")
	code, out, _ = cli("check", "-key", key, "-disclosure", all, proof)
	require.Equal(t, exitOK, code)
	assert.Contains(t, out, `its arguments were`+"\n"+`{"to":"ana`)

	code, out, errs = cli("check", "-json", "-key", key, "-disclosure", field, proof)
	require.Equal(t, exitOK, code, errs)
	assert.Contains(t, out, `"disclosed":{"field":"text","value":"hello"}`)

	code, out, errs = cli("check", "-json", "-key", key, "-disclosure", all, save("other", "prove", "-record", "1"))
	assert.Equal(t, exitFailed, code, errs)
	assert.Empty(t, out)
	code, out, errs = cli("check", "-key", key, "-disclosure", all, save("other", "prove", "-record", "1"))
	assert.Equal(t, exitFailed, code)
	assert.Contains(t, errs, "no disclosure of that record")
	assert.NotContains(t, out, "hello")
	for _, args := range []string{"-record 3", "-kek " + dir + ".kek"} {
		code, _, _ = cli(append(append([]string{"disclose"}, strings.Fields(args)...), dir)...)
		assert.Equal(t, exitUsage, code)
	}
	for _, args := range []string{"-record 8", "-record 99", "-record 3 -field nope"} {
		code, out, _ = cli(append(append([]string{"disclose", "-kek", dir + ".kek"}, strings.Fields(args)...), dir)...)
		assert.Equal(t, exitFailed, code)
		assert.Empty(t, out)
	}
}

func TestExportSubject(t *testing.T) {
	dir, key := newArchive(t)
	code, out, errs := cli("export", "-subject", "user=ana", "-kek", dir+".kek", "-key", key, dir)
	require.Equal(t, exitOK, code, errs)
	var seqs []uint64
	for text := range strings.Lines(out) {
		var k known
		require.NoError(t, json.Unmarshal([]byte(text), &k))
		var r audit.Record
		require.NoError(t, json.Unmarshal(k.Record, &r))
		seqs = append(seqs, r.Seq)
		if r.Intent != nil {
			assert.JSONEq(t, `{"to":"ana\u001b","text":"hello"}`, string(k.Arguments))
		}
	}
	assert.Equal(t, []uint64{1, 2, 3, 4, 9}, seqs, "two calls with their outcomes, and the agent that ana owns")
	assert.NotContains(t, out, "bob")

	code, out, _ = cli("export", "-subject", "agent=other", dir)
	require.Equal(t, exitOK, code)
	assert.Equal(t, 4, strings.Count(out, "\n"))
	assert.Equal(t, 2, strings.Count(out, `"value":"kept, and no key was given"`))
	for _, args := range []string{"-subject ana", "-subject user=", "-subject user=ana -format csv", "-kek x -format csv", "-subject user=ana -agent standup"} {
		code, out, _ = cli(append(append([]string{"export"}, strings.Fields(args)...), dir)...)
		assert.Equal(t, exitUsage, code, args)
		assert.Empty(t, out)
	}
}
