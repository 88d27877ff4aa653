package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/credential"
)

// told writes down what was found, values included: for tests only.
func told(t testing.TB, f found) string {
	t.Helper()
	var b strings.Builder
	for _, e := range f.entries {
		require.NoError(t, e.secret.Use(func(v []byte) error {
			_, err := fmt.Fprintf(&b, "%d %s=%q\n", e.line, e.name, v)
			return err
		}))
	}
	for _, s := range f.skipped {
		fmt.Fprintf(&b, "%d %s: %s\n", s.line, s.name, s.why)
	}
	return b.String()
}

func TestDotenv(t *testing.T) {
	for _, c := range []struct{ file, want string }{
		{"", ""},
		{"# only a comment\n\n  \t\r\n", ""},
		{"A=plain-value-1", "1 A=\"plain-value-1\"\n"},
		{"\xef\xbb\xbfA=plain-value-1\r\nB = spaces around it \r\n", "1 A=\"plain-value-1\"\n2 B=\"spaces around it\"\n"},
		{"export A='as it stands $HOME \\n # \"'\n", "1 A=\"as it stands $HOME \\\\n # \\\"\"\n"},
		{"A='-----BEGIN KEY-----\nline two\n-----END KEY-----' # a key\nB=plain-value-2", "1 A=\"-----BEGIN KEY-----\\nline two\\n-----END KEY-----\"\n4 B=\"plain-value-2\"\n"},
		{`A="with \n \t \r \" \\ \$ escapes"`, "1 A=\"with \\n \\t \\r \\\" \\\\ $ escapes\"\n"},
		{"A=\"over\nlines\"", "1 A=\"over\\nlines\"\n"},
		// What readers do not agree about is left out.
		{"A=before # after", "1 A: a # in a value that is not quoted, which some readers take for a comment: put it in single quotes\n"},
		{"A=pa$$word1", "1 A: a $ in a value that is not in single quotes: it may refer to another variable\n"},
		{`A="${OTHER}-more"`, "1 A: a $ in double quotes may refer to something else: put the value in single quotes\n"},
		{"A=\"`whoami`-more\"", "1 A: a ` in double quotes may refer to something else: put the value in single quotes\n"},
		{`A=C:\secret\path`, "1 A: a backslash in a value that is not quoted: put it in single quotes\n"},
		{`A="bad \x escape"`, "1 A: an escape that readers do not agree about: put the value in single quotes\n"},
		{`A='quoted-value'more`, "1 A: something follows the closing quote\n"},
		{`A=half"quoted"`, "1 A: a quote within a value that is not quoted: put all of it in single quotes\n"},
		{"A=first-value-1\nB=other-value-1\nA=second-value\nA=third-value-1", "2 B=\"other-value-1\"\n1 A: it is there twice\n3 A: it is there twice\n4 A: it is there twice\n"},
		{"A=short", "1 A: shorter than 8 bytes: too short to be found in what comes back, and to be a secret\n"},
		{"A=\nB=''", "1 A: it is empty\n2 B: it is empty\n"},
		{"just-some-secret-words", "1 : no NAME=VALUE\n"},
		{"not a name=some-value-1\n9A=some-value-2", "1 : what is before = is no name of a variable\n2 : what is before = is no name of a variable\n"},
		{"A=openshell:resolve:env:GITHUB_TOKEN", "1 A: a placeholder of OpenShell, not the secret\n"},
		{"A=" + strings.Repeat("x", credential.MaxLength+1), "1 A: longer than 65536 bytes\n"},
	} {
		got, err := parseDotenv([]byte(c.file))
		require.NoError(t, err, "%q", c.file)
		require.Equal(t, c.want, told(t, got), "%q", c.file)
	}
	for file, want := range map[string]error{
		"A=fine-value-1\nB='left-open":              errOpenQuote,
		`A="left-open\"`:                            errOpenQuote,
		`A="left-open\`:                             errOpenQuote,
		"A=\xff\xfe\xfd not UTF-8":                  errNotText,
		strings.Repeat("A=x\n", maxImportEntries+1): errTooMany,
	} {
		_, err := parseDotenv([]byte(file))
		require.ErrorIs(t, err, want, "%.40q", file)
		require.NotContains(t, err.Error(), "left-open")
	}
}

func TestNemoClaw(t *testing.T) {
	for _, c := range []struct{ file, want string }{
		{"{}", ""},
		{"{\n  \"NVIDIA_API_KEY\": \"nvapi-not-a-real-key\",\n  \"GITHUB_TOKEN\": \" ghp_not_a_real_token\\r\\n\"\n}\n",
			"2 NVIDIA_API_KEY=\"nvapi-not-a-real-key\"\n3 GITHUB_TOKEN=\"ghp_not_a_real_token\"\n"},
		{`{"A":"\u0061\"\\ escaped"}`, "1 A=\"a\\\"\\\\ escaped\"\n"},
		{`{"A":1,"B":null,"C":{"D":"nested-secret"},"E":["x"]}`, "1 A: not a string\n1 B: not a string\n1 C: not a string\n1 E: not a string\n"},
		{`{"":"a-fine-value","a b":"a-fine-value","../x":"a-fine-value"}`, strings.Repeat("1 : no secret can have that name\n", 3)},
		{`{"A":"short","B":""}`, "1 A: shorter than 8 bytes: too short to be found in what comes back, and to be a secret\n1 B: it is empty\n"},
	} {
		got, err := parseNemoClaw([]byte(c.file))
		require.NoError(t, err, c.file)
		require.Equal(t, c.want, told(t, got), c.file)
	}
	// What NemoClaw itself takes for an empty file, and then overwrites.
	for _, file := range []string{
		"", "   ", "null", "[]", `"text"`, `{"A":"torn-value`, `{"A":"torn-value"`, `{"A":"torn-value",`, `{"A"`, `{"A":"one-value-1","A":"two-value-2"}`,
		`{"A":"fine-value-1"} {"B":"more-value-1"}`, `{"A":"fine-value-1"}x`, "{\"A\":\"bad \xff utf\"}", `{"A":"lone \ud800 half"}`, `{A:"bare-name-1"}`,
		"{" + strings.Repeat(`"A":{`, 100_000),
	} {
		got, err := parseNemoClaw([]byte(file))
		require.Error(t, err, "%.60q", file)
		require.Empty(t, got.entries)
		require.NotContains(t, err.Error(), "value")
	}
}

// FuzzImport feeds files to both parsers: nothing panics, all that is taken
// could be a secret in a vault, and nothing that is said shows a value.
func FuzzImport(f *testing.F) {
	for _, s := range []string{
		"A=plain-value-1\nexport B='quoted'\nC=\"esc\\n\\\"aped $\"\n# c\nA=again-value",
		`{"A":"nvapi-value","B":1,"C":{"D":"x"},"a b":"y"}`,
		"A='\n", "{\"A\":\"\\ud800\"}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		for _, parse := range parsers {
			given := bytes.Clone(file)
			got, err := parse(given)
			require.Equal(t, file, given, "the parser changed its input")
			if err != nil {
				require.Empty(t, got.entries)
				continue
			}
			names := make(map[string]bool)
			for _, e := range got.entries {
				require.False(t, names[e.name])
				names[e.name] = true
				require.NoError(t, credential.CheckName(e.name))
				require.Positive(t, e.line)
				require.NoError(t, e.secret.Use(func(v []byte) error {
					require.GreaterOrEqual(t, len(v), credential.MinLength)
					require.LessOrEqual(t, len(v), credential.MaxLength)
					return nil
				}))
			}
			for _, s := range got.skipped {
				require.False(t, names[s.name], "taken and skipped")
				require.NotEmpty(t, s.why)
				if s.name != "" {
					require.NoError(t, credential.CheckName(s.name))
				}
			}
		}
	})
}
