package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// Whoever can write to the folder of a log can put anything into it, also what the
// log itself never writes: raw control characters, marks that reorder text, what is
// not UTF-8. Whatever it is, it does not reach the terminal or the file of somebody
// who looks at it, nor break a line.
func FuzzForgedLog(f *testing.F) {
	base := f.TempDir()
	log, err := audit.Open(filepath.Join(base, "log"), &audit.Options{Origin: "forged"})
	require.NoError(f, err)
	require.NoError(f, log.Close())
	text, err := os.ReadFile(filepath.Join(base, "log", audit.SegmentName(1)))
	require.NoError(f, err)
	header, _, _ := strings.Cut(string(text), "\n")
	dir := filepath.Join(base, "forged")
	require.NoError(f, os.Mkdir(dir, 0o700))

	for _, s := range []string{
		"", "plain", "\x1b[2J\x1b]0;t\x07", "\u009b31m", "a\u2028b\u2029c", "\u202egpj.exe", "\u2066x\u2069", "\ufeff", "\x00", "\x7f", "\xff\xfe", "\xc2", "\U000e0041",
		"=1+1", "+1", "-1", "@SUM(A1)", "\t=1", `=HYPERLINK(\"http://x\")`, `"><script>`, `\u202e`, `\u001b[2J`, `\\`, `","x":"`, `"}}`, "\r", "a\nb",
	} {
		f.Add(s)
	}
	commands := []string{"show", "show -json", "show -agent x", "tail -n 5", "tail -json", "export -format ndjson", "export -format csv", "export -format ocsf", "export -format ocsf-1.9", "export -format cloudevents", "export -format otlp", "export -subject agent=x", "prove -record 1", "values"}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 500 {
			return
		}
		forged := header + "\n"
		for i, body := range []string{
			`"event":{"kind":"denial","door":"` + s + `","action":"` + s + `","resource":"` + s + `","actor":{"agent":"` + s + `","user":"` + s + `"},"decision":{"id":"` + s + `","effect":"deny","reason":"` + s + `"},"detail":{"` + s + `":"` + s + `"}}`,
			`"intent":{"door":"tool","action":"` + s + `","resource":"Tool::\"` + s + `\"","actor":{"agent":"x","session":"` + s + `"},"decision":{"id":"d","effect":"allow"},"trace":"` + s + `"},"of_later":"` + s + `"`,
			`"call":2,"outcome":{"status":"` + s + `","error_code":"` + s + `","bytes":1,"latency_ns":1,"checks":["` + s + `"]}`,
		} {
			forged += `{"seq":` + string(rune('1'+i)) + `,"time":"2026-11-28T09:00:00.000000000Z",` + body + "}\n"
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, audit.SegmentName(1)), []byte(forged), 0o600))
		for _, args := range commands {
			code, out, errs := cli(append(strings.Fields(args), dir)...)
			assert.NotEqual(t, exitUsage, code, "%s: %s", args, errs)
			for _, text := range []string{out, errs} {
				assert.True(t, utf8.ValidString(text), "%s: %q", args, text)
				for _, r := range text {
					if unicode.In(r, unicode.Cf, unicode.Cc, unicode.Zl, unicode.Zp) && r != '\n' && (r != '\r' || !strings.Contains(args, "csv")) {
						require.Fail(t, "a hidden character", "%s: %q in %q", args, r, text)
					}
				}
			}
			if code == exitOK && (args == "show" || strings.Contains(args, "ndjson") || strings.Contains(args, "cloudevents")) {
				assert.Equal(t, 3, strings.Count(out, "\n"), args)
			}
		}
	})
}
