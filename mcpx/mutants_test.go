package mcpx_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// mutants are guards, and what leaves each of them out; rows are those of the
// corpus that must notice.
var mutants = []struct{ name, file, old, new, rows string }{
	{"duplicates", "strict.go", "	r.buf = *bytes.NewBuffer(short)\n	r.Reset(&r.buf)", "	r.buf = *bytes.NewBuffer(short)\n	r.Reset(&r.buf, jsontext.AllowDuplicateNames(MUTANT), jsontext.AllowInvalidUTF8(MUTANT))", "A1 A7"},
	{"depth", "strict.go", "	depth := 0\n", "	depth := 0\n	if MUTANT { return nil }\n", "A8"},
	{"one message", "strict.go", "; err != io.EOF {", "; err != io.EOF && !MUTANT {", "A9"},
	{"ids", "strict.go", "func validID(v jsontext.Value) bool {\n", "func validID(v jsontext.Value) bool {\n	if MUTANT { return true }\n", "M3"},
	{"headers once", "http.go", "if len(values) > 1 && slices.Contains(singular, name) {", "if len(values) > 1 && slices.Contains(singular, name) && !MUTANT {", "H2"},
	{"headers agree", "http.go", "func agree(r *http.Request, m message) *httpRefusal {\n", "func agree(r *http.Request, m message) *httpRefusal {\n	if MUTANT { return nil }\n", "H1 H3"},
	{"host", "http.go", "func loopback(host string) bool {\n", "func loopback(host string) bool {\n	if MUTANT { return true }\n", "N2"},
	{"origin", "http.go", "if http.NewCrossOriginProtection().Check(&check) != nil {", "if http.NewCrossOriginProtection().Check(&check) != nil && !MUTANT {", "N2"},
	{"media type", "http.go", "charset := params[\"charset\"]; err != nil", "charset := params[\"charset\"]; !MUTANT && (err != nil", "A9 N3"},
	{"encoding", "http.go", "if r.Header.Get(\"Content-Encoding\") != \"\" {", "if r.Header.Get(\"Content-Encoding\") != \"\" && !MUTANT {", "A8"},
	{"methods", "http.go", "	era, ok := eras[m.method]\n", "	era, ok := eras[m.method]\n	if MUTANT { return nil }\n", "M4"},
	{"owner of a session", "sessions.go", "h != nil && h.owner == owner {", "h != nil && (MUTANT || h.owner == owner) {", "S1"},
	{"pins", "pool.go", "	live := s.tools[tool]\n", "	live := s.tools[tool]\n	if MUTANT { return \"\" }\n", "P4"},
	{"scrubbing", "scrub.go", "	for _, s := range g.scrubbers(c) {\n", "	for _, s := range g.scrubbers(c) {\n		if MUTANT { break }\n", "R1"},
}

// A guard that is left out makes its rows of the corpus fail. The mutated copy is
// built once, with all mutants in it, and each is switched on in a process of its
// own.
func TestCorpusNeedsEachGuard(t *testing.T) {
	if os.Getenv("TWINWARD_FULL") == "" && os.Getenv("TWINWARD_SOAK") == "" {
		t.Skip("this test builds a mutated copy of the package: set TWINWARD_FULL=1")
	}
	if os.Getuid() != 0 {
		t.Skip("once is enough: as root")
	}
	dir := t.TempDir()
	text, replace := map[string]string{}, map[string]string{}
	for _, m := range mutants {
		if _, ok := text[m.file]; !ok {
			b, err := os.ReadFile(m.file)
			require.NoError(t, err)
			text[m.file] = string(b)
		}
		require.Equal(t, 1, strings.Count(text[m.file], m.old), "the guard %q is not in %s as this test knows it: %s", m.name, m.file, m.old)
		on := `(mutant == "` + m.name + `")`
		text[m.file] = strings.Replace(text[m.file], m.old, strings.ReplaceAll(m.new, "MUTANT", on), 1)
	}
	text["http.go"] = strings.Replace(text["http.go"], `!strings.EqualFold(charset, "utf-8")) {`, `!strings.EqualFold(charset, "utf-8"))) {`, 1)
	text["mutant.go"] = "package mcpx\n\nimport \"os\"\n\nvar mutant = os.Getenv(\"TWINWARD_MUTANT\")\n"
	here, err := os.Getwd()
	require.NoError(t, err)
	for name, s := range text {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, []byte(s), 0o600))
		replace[filepath.Join(here, name)] = file
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600))
	bin := filepath.Join(dir, "mutants.test")
	out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-overlay", filepath.Join(dir, "overlay.json"), "-o", bin, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)

	play := func(mutant, rows string) string {
		pattern := "^TestAttackCorpus$/^upstream_modern=true/.*/^(" + strings.ReplaceAll(rows, " ", "|") + ")$"
		cmd := exec.CommandContext(t.Context(), bin, "-test.run", pattern, "-test.v")
		cmd.Env = append(os.Environ(), "TWINWARD_MUTANT="+mutant)
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
	var all []string
	for _, m := range mutants {
		all = append(all, strings.Fields(m.rows)...)
		out := play(m.name, m.rows)
		for _, row := range strings.Fields(m.rows) {
			failed := regexp.MustCompile(`--- FAIL: TestAttackCorpus/\S+/` + row + `/`).MatchString(out)
			assert.True(t, failed, "without the guard %q the row %s passes", m.name, row)
		}
	}
	whole := play("none", strings.Join(all, " "))
	assert.NotContains(t, whole, "--- FAIL")
	assert.Contains(t, whole, "--- PASS: TestAttackCorpus/")
}
