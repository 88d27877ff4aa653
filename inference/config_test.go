package inference

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/credential"
)

const goodConfig = `
backends:
  - name: claude
    preset: anthropic
    credential: anthropic-key
    models: [claude-sonnet-5, claude-haiku-5]
    aliases: {fast: claude-haiku-5}
  - name: local
    base_url: http://10.0.0.7:8000/v1
    models: [meta/llama-4]
`

func TestParseConfig(t *testing.T) {
	cfg, err := ParseConfig("models.yaml", []byte(goodConfig))
	require.NoError(t, err)
	rs, err := compile(cfg)
	require.NoError(t, err)
	rt := rs.byModel[routeKey{Anthropic, "fast"}]
	require.NotNil(t, rt)
	assert.Equal(t, "claude-haiku-5", rt.model)
	assert.Equal(t, "https://api.anthropic.com/v1/messages", rt.url(opMessages))
	assert.Equal(t, "http://10.0.0.7:8000/v1/chat/completions", rs.byModel[routeKey{OpenAI, "meta/llama-4"}].url(opChat))
	assert.Len(t, rs.listed, 4)
}

func TestConfigErrorsSayWhereAndWhat(t *testing.T) {
	for text, want := range map[string]string{
		"backends:\n  - name: a\n    modles: [x]\n": "models.yaml:3:5: unknown field",
		"backend: []\n":                         "models.yaml:1:1: unknown field",
		"backends:\n  - name: a\n    name: b\n": "models.yaml:3:5: ",
		"backends: {name: a}\n":                 "models.yaml:1:",
		"backends:\n  - name: [a]\n":            "models.yaml:2:",
		"\tbackends: 1":                         "models.yaml:1:",
		"":                                      "empty",
		"backends: []":                          "no backends",
		"backends: [{name: a, base_url: 'https://x', models: [m]}]\n---\nbackends: []\n":             "models.yaml:3:1: a second document",
		"backends: [{name: A, base_url: 'https://x', models: [m]}]":                                  `name "A" must be`,
		"backends: [{name: a, models: [m]}]":                                                         "base_url is missing",
		"backends: [{name: a, base_url: 'https://x'}]":                                               "models is empty",
		"backends: [{name: a, base_url: '//x', models: [m]}]":                                        "absolute http or https",
		"backends: [{name: a, base_url: 'ftp://x', models: [m]}]":                                    "absolute http or https",
		"backends: [{name: a, base_url: 'https://u:p@x', models: [m]}]":                              "into the vault",
		"backends: [{name: a, base_url: 'https://x?key=1', models: [m]}]":                            "query",
		"backends: [{name: a, base_url: 'http://x/v1', models: [m], credential: k}]":                 "use https",
		"backends: [{name: a, base_url: 'https://x', models: [m], protocol: grpc}]":                  "openai-responses, anthropic or gemini",
		"backends: [{name: a, preset: opneai, models: [m]}]":                                         "openai, openrouter",
		"backends: [{name: a, base_url: 'https://x', models: ['a\"b']}]":                             "not allowed",
		"backends: [{name: a, base_url: 'https://x', models: [m, m]}]":                               "already",
		"backends: [{name: a, base_url: 'https://x', models: [m], aliases: {f: g}}]":                 "not in models",
		"backends: [{name: a, base_url: 'https://x', models: [m, n], aliases: {n: m}}]":              "already",
		"backends: [{name: a, preset: openai, models: [m]}, {name: b, preset: nvidia, models: [m]}]": "already",
		"backends: [{name: a, preset: openai, models: [m]}, {name: a, preset: nvidia, models: [n]}]": "twice",
	} {
		_, err := ParseConfig("models.yaml", []byte(text))
		require.ErrorIs(t, err, ErrConfig, text)
		assert.ErrorContains(t, err, want, text)
		assert.NotContains(t, err.Error(), "u:p@x")
	}
}

// What would exhaust the YAML parser is refused before it is parsed.
func TestDeepConfigsAreRefused(t *testing.T) {
	for name, text := range map[string]string{
		"brackets":      strings.Repeat("[", 60_000),
		"braces":        strings.Repeat("{a: ", 60_000),
		"lists":         strings.Repeat("- ", 60_000),
		"keys":          strings.Repeat("? ", 60_000),
		"tagged lists":  strings.Repeat("- !t ", 40_000),
		"named lists":   strings.Repeat("- &a ", 40_000),
		"many lines":    "backends:\n" + strings.Repeat("[\n", 60_000),
		"indentation":   indented(400),
		"in a document": goodConfig + "\n" + strings.Repeat("- ", 1000),
	} {
		_, err := ParseConfig("models.yaml", []byte(text))
		require.ErrorIs(t, err, ErrConfig, name)
		assert.ErrorContains(t, err, "nested too deeply", name)
	}
}

func indented(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%sa:\n", strings.Repeat(" ", i))
	}
	return b.String()
}

func TestBindings(t *testing.T) {
	for b, want := range map[*Backend][2]string{
		{Preset: "anthropic"}: {"https://api.anthropic.com", "X-Api-Key"},
		{Preset: "openai"}:    {"https://api.openai.com", "Authorization"},
		{Preset: "nvidia"}:    {"https://integrate.api.nvidia.com", "Authorization"},
		{Protocol: Anthropic, BaseURL: "https://proxy.example:443/anthropic/v1"}: {"https://proxy.example", "X-Api-Key"},
		{Preset: "openrouter", Protocol: Anthropic}:                              {"https://openrouter.ai", "Authorization"},
	} {
		binding, err := b.Binding()
		require.NoError(t, err)
		assert.Equal(t, want[0], binding.Origin)
		req := &http.Request{Header: http.Header{}}
		require.NoError(t, binding.Scheme.Apply(req, []byte("sk-0123456789")))
		assert.Contains(t, req.Header, want[1])
	}
	_, err := (Backend{BaseURL: "http://example.com"}).Binding()
	assert.ErrorIs(t, err, credential.ErrOrigin)
}

func TestPresetsAreUsable(t *testing.T) {
	for name := range Presets() {
		_, err := compile(Config{Backends: []Backend{{Name: name, Preset: name, Credential: "key", Models: []string{"m"}}}})
		assert.NoError(t, err)
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(goodConfig))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("backends: [{name: a, base_url: 'https://x', models: [m]}]\n---\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := ParseConfig("f", data)
		if err != nil {
			return
		}
		_, err = compile(cfg)
		require.NoError(t, err)
	})
}

func ExampleParseConfig() {
	cfg, err := ParseConfig("models.yaml", []byte(`
backends:
  - name: openai
    preset: openai
    credential: openai-key
    models: [gpt-5-mini]
`))
	fmt.Println(len(cfg.Backends), err)

	_, err = ParseConfig("models.yaml", []byte("backends:\n  - name: openai\n    key: sk-123\n"))
	fmt.Println(err)
	// Output:
	// 1 <nil>
	// inference: configuration: models.yaml:3:5: unknown field "key"
}
