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

// Long work tells how far it is, on the standard error and if asked.
func TestProgress(t *testing.T) {
	if os.Getenv("TWINWARD_FULL")+os.Getenv("TWINWARD_SOAK") == "" {
		t.Skip("this test writes a long log: set TWINWARD_FULL=1")
	}
	dir := filepath.Join(t.TempDir(), "log")
	log, err := audit.Open(dir, &audit.Options{Mode: audit.BestEffort, Queue: 200_000})
	require.NoError(t, err)
	for range 100_000 {
		require.NoError(t, log.Append(ctx, audit.Event{Kind: audit.KindProbe, Action: "x"}))
	}
	require.NoError(t, log.Close())
	key, file := log.VerifierKey(), filepath.Join(t.TempDir(), "out")

	const verified, read = "verified 100000 records\n", "read 100000 records\n"
	for args, want := range map[string]string{
		"verify -key " + key:                                verified,
		"anchor -o " + file + ".anchor -key " + key:         verified,
		"report -o " + file + " -key " + key:                verified + read,
		"export -format ndjson -o " + file + " -key " + key: verified + read,
		"export -format csv -agent nobody -o " + file:       "",
		"export -format csv -o " + file:                     read,
	} {
		code, _, errs := cli(append(append(strings.Fields(args), "-progress"), dir)...)
		assert.Equal(t, exitOK, code, errs)
		assert.Equal(t, want, errs, args)
	}
	code, _, errs := cli("verify", "-key", key, dir)
	assert.Equal(t, exitOK, code)
	assert.Empty(t, errs)
}

// Titles of the catalogue name operations, and phrases more so.
func TestCatalogueNamesOperations(t *testing.T) {
	d := workday(t)
	catalogue := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(catalogue, "github.json"), []byte(`{"server": "github", "tools": [{"name": "list_prs", "title": "List pull requests", "inputSchema": {}}, {"name": "x"}]}`), 0o600))
	texts := func(args ...string) string {
		code, out, errs := cli(append(append([]string{"report", "-json", "-key", d.key}, args...), d.dir)...)
		require.Equal(t, exitOK, code, errs)
		var s struct {
			Agents []struct{ Sentences []struct{ Text string } }
		}
		require.NoError(t, json.Unmarshal([]byte(out), &s))
		var all []string
		for _, a := range s.Agents {
			for _, line := range a.Sentences {
				all = append(all, line.Text)
			}
		}
		return strings.Join(all, "; ")
	}
	assert.Contains(t, texts(), "called github__list_prs once")
	assert.Contains(t, texts("-catalogue", catalogue), "called List pull requests once")
	phrases := filepath.Join(t.TempDir(), "phrases.json")
	require.NoError(t, os.WriteFile(phrases, []byte(`{"github__list_prs": {"did": "read", "one": "list of PRs", "many": "lists of PRs"}}`), 0o600))
	assert.Contains(t, texts("-catalogue", catalogue, "-phrases", phrases), "read 1 list of PRs")

	for _, dir := range []string{t.TempDir(), "/no/such"} {
		code, _, errs := cli("report", "-json", "-key", d.key, "-catalogue", dir, d.dir)
		assert.Equal(t, exitUsage, code)
		assert.Contains(t, errs, "-catalogue")
	}
	require.NoError(t, os.WriteFile(filepath.Join(catalogue, "bad.json"), []byte("{"), 0o600))
	code, _, _ := cli("report", "-json", "-key", d.key, "-catalogue", catalogue, d.dir)
	assert.Equal(t, exitUsage, code)
}

// An export for collectors is what package otlp writes.
func TestExportAsOTLP(t *testing.T) {
	d := workday(t)
	code, out, errs := cli("export", "-format", "otlp", "-key", d.key, d.dir)
	require.Equal(t, exitOK, code, errs)
	require.Equal(t, 1, strings.Count(out, "\n"))
	var m struct {
		Resource []struct {
			Scope []struct {
				Records []struct {
					Body struct {
						Text string `json:"stringValue"`
					}
				} `json:"logRecords"`
			} `json:"scopeLogs"`
		} `json:"resourceLogs"`
	}
	require.NoError(t, json.Unmarshal([]byte(out), &m))
	_, stored, _ := cli("show", "-json", d.dir)
	var bodies strings.Builder
	for _, r := range m.Resource[0].Scope[0].Records {
		bodies.WriteString(r.Body.Text + "\n")
	}
	assert.Equal(t, stored, bodies.String())
	assert.Contains(t, out, "host7")
}

// What is proven and anchored is told as JSON, too.
func TestProvenAndAnchoredAsJSON(t *testing.T) {
	s := newStage(t)
	code, proof, errs := cli("prove", "-record", "3", s.dir)
	require.Equal(t, exitOK, code, errs)
	file := filepath.Join(s.base, "proof")
	require.NoError(t, os.WriteFile(file, []byte(proof), 0o600))
	code, out, errs := cli("check", "-json", "-key", s.key, file)
	require.Equal(t, exitOK, code, errs)
	var p proven
	require.NoError(t, json.Unmarshal([]byte(out), &p))
	_, stored, _ := cli("show", "-json", "-seq", "3", s.dir)
	assert.Equal(t, strings.SplitN(stored, "\n", 2)[0], string(p.Record))
	assert.EqualValues(t, 3, p.Seq)
	assert.EqualValues(t, 4, p.Records)
	assert.Nil(t, p.Disclosed)

	anchor := filepath.Join(s.base, "kept")
	code, out, errs = cli("anchor", "-json", "-key", s.key, "-o", anchor, s.dir)
	require.Equal(t, exitOK, code, errs)
	var a struct {
		Log, File, Note string
		Anchored        uint64
		Counts          bool
	}
	require.NoError(t, json.Unmarshal([]byte(out), &a))
	assert.Equal(t, anchor, a.File)
	assert.EqualValues(t, 4, a.Anchored)
	assert.False(t, a.Counts, "the same uid can change it")
	assert.NotEmpty(t, a.Note)
}
