//go:build linux && (amd64 || arm64)

package sandbox

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit/audittest"
)

// The longest path that holds a file decides whether it can be changed, in
// either direction, and what is read-only inside a writable folder stays where
// it is.
func TestTheLongestPathDecides(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"open/locked/open", "open/more"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	for _, f := range []string{"open/file", "open/seed.csv", "open/locked/file", "open/locked/open/file"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, f), []byte("old"), 0o666))
	}
	at := func(p string) string { return filepath.Join(dir, p) }
	p := &Policy{Filesystem: Filesystem{
		ReadOnly:  append(SystemPaths(), at("open/seed.csv"), at("open/locked")),
		ReadWrite: []string{at("open"), at("open/locked/open")},
	}}
	s := box(t, audittest.NewLog(t), p, nil)
	for _, c := range []struct {
		script string
		works  bool
	}{
		{"echo new > open/file", true},
		{"echo new > open/locked/open/file && echo new > open/locked/open/another", true},
		{"mv open/more open/moved", true},
		{"grep -q old open/seed.csv open/locked/file", true},
		{"echo new > open/seed.csv", false},
		{"truncate -s 0 open/seed.csv", false},
		{"rm -f open/seed.csv", false},
		{"mv open/seed.csv open/other.csv", false},
		{"echo new > open/x && mv open/x open/seed.csv", false},
		{"chmod 777 open/seed.csv", false},
		{"ln open/seed.csv open/link", false},
		{"echo new > open/locked/file", false},
		{"touch open/locked/new", false},
		{"mv open/locked open/elsewhere", false},
		{"rm -rf open/locked && test ! -e open/locked", false},
	} {
		out, err := sh(s, "cd "+dir+" && "+c.script).CombinedOutput()
		assert.Equal(t, c.works, err == nil, "%s: %s", c.script, out)
	}
	for f, want := range map[string]string{"open/file": "new", "open/seed.csv": "old", "open/locked/file": "old", "open/locked/open/file": "new"} {
		b, err := os.ReadFile(at(f))
		if f == "open/locked/open/file" && os.IsNotExist(err) {
			continue // rm -rf may take what is writable
		}
		require.NoError(t, err)
		assert.Equal(t, want, strings.TrimSpace(string(b)), f)
	}
}

// What AllowUngoverned lets pass is on record.
func TestUngovernedIsOnRecord(t *testing.T) {
	log := audittest.NewLog(t)
	p := &Policy{Network: Network{Allow: []Rule{{Host: "api.github.com"}}}}
	box(t, log, p, &Options{Governed: []string{"https://api.github.com"}, AllowUngoverned: true})
	records := log.Records()
	require.NotEmpty(t, records)
	assert.Contains(t, records[0].Event.Detail["ungoverned"], `"api.github.com" on port 443 leads to "https://api.github.com"`)
}
