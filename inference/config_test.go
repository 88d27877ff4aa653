package inference

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
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
	rs, err := compile(cfg, nil)
	require.NoError(t, err)
	rt := rs.byModel[routeKey{Anthropic, "fast"}]
	require.NotNil(t, rt)
	assert.Equal(t, "claude-haiku-5", rt.targets[0].model)
	assert.Equal(t, "https://api.anthropic.com/v1/messages", rt.targets[0].url(opMessages, &envelope{}))
	assert.Equal(t, "http://10.0.0.7:8000/v1/chat/completions", rs.byModel[routeKey{OpenAI, "meta/llama-4"}].targets[0].url(opChat, &envelope{}))
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

// What is wrong with a value says where it stands, too.
func TestConfigErrorsOfValuesSayWhere(t *testing.T) {
	for change, want := range map[[2]string]string{
		{"attempts: 4", "attempts: 40"}:                                    "models.yaml:2:",
		{"name: proxy", "name: Proxy"}:                                     "models.yaml:10:11: ",
		{"name: proxy", "name: claude"}:                                    "models.yaml:10:11: ",
		{"https://proxy.example/v1", "ftp://proxy.example/v1"}:             "models.yaml:10:5: ",
		{"{backend: proxy, model: opus}\n", "{backend: x, model: opus}\n"}: "models.yaml:21:9: ",
		{"model: big", "model: opus"}:                                      "models.yaml:23:12: ",
		{"{attempts: 1}", "{attempts: -1}"}:                                "models.yaml:24:",
	} {
		text := strings.Replace(routedConfig, change[0], change[1], 1)
		require.NotEqual(t, routedConfig, text)
		_, err := ParseConfig("models.yaml", []byte(text))
		require.ErrorIs(t, err, ErrConfig, change[1])
		assert.ErrorContains(t, err, want, change[1])
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(goodConfig))
	f.Add([]byte(routedConfig))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("backends: [{name: a, base_url: 'https://x', models: [m]}]\n---\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := ParseConfig("f", data)
		if err != nil {
			return
		}
		_, err = compile(cfg, nil)
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

const routedConfig = `
retry: {attempts: 4, pause: 200ms, max_wait: 5s}
breaker: {failures: 3, open: 1m}
timeouts: {first_byte: 90s, idle: 2m, total: 30m}
backends:
  - name: claude
    preset: anthropic
    models: [opus, haiku]
    timeouts: {first_byte: 20s, idle: -1s}
  - name: proxy
    protocol: anthropic
    base_url: https://proxy.example/v1
    models: [opus]
  - name: openai
    preset: openai
    models: [gpt]
routes:
  - model: big
    targets:
      - {backend: claude, model: opus, weight: 3}
      - {backend: proxy, model: opus}
      - {backend: openai, model: gpt, priority: 1}
  - model: opus
    retry: {attempts: 1}
    targets: [{backend: proxy, model: opus}]
`

func TestRoutes(t *testing.T) {
	cfg, err := ParseConfig("models.yaml", []byte(routedConfig))
	require.NoError(t, err)
	rs, err := compile(cfg, nil)
	require.NoError(t, err)
	big := rs.byModel[routeKey{Anthropic, "big"}]
	require.Len(t, big.targets, 2, "those that speak the protocol")
	assert.Equal(t, []string{"claude/opus", "proxy/opus"}, []string{big.targets[0].String(), big.targets[1].String()})
	assert.Equal(t, 3, big.targets[0].weight)
	assert.Equal(t, 1, big.targets[1].weight)
	assert.Equal(t, Timeouts{FirstByte: 20 * time.Second, Idle: -time.Second, Total: 30 * time.Minute}, big.targets[0].limits)
	assert.Equal(t, cfg.Timeouts, big.targets[1].limits)
	assert.Equal(t, 4, big.attempts())
	assert.Len(t, rs.byModel[routeKey{OpenAI, "big"}].targets, 1)
	opus := rs.byModel[routeKey{Anthropic, "opus"}]
	assert.Equal(t, "proxy/opus", opus.targets[0].String(), "a route goes before a model of its name")
	assert.Equal(t, 1, opus.attempts())
	assert.Same(t, big.targets[1].breaker, opus.targets[0].breaker)
	assert.Equal(t, "claude/haiku", rs.byModel[routeKey{Anthropic, "haiku"}].targets[0].String())
}

func TestRouteErrors(t *testing.T) {
	const backends = "backends: [{name: a, base_url: 'https://x', models: [m, n], aliases: {al: m}}, {name: b, base_url: 'https://y', models: [m]}]\n"
	for text, want := range map[string]string{
		"":                                  "name both in a route",
		"routes: [{model: m, targets: []}]": "1 to 16 targets",
		"routes: [{model: m, targets: [" + strings.Repeat("{backend: a, model: m},", 17) + "]}]":                  "1 to 16 targets",
		"routes: [{model: m, targets: [{backend: c, model: m}]}]":                                                 `no backend "c"`,
		"routes: [{model: m, targets: [{backend: b, model: n}]}]":                                                 "not in the models",
		"routes: [{model: m, targets: [{backend: a, model: al}]}]":                                                "not in the models",
		"routes: [{model: m, targets: [{backend: a, model: m}, {backend: a, model: m}]}]":                         "appears twice",
		"routes: [{model: m, targets: [{backend: a, model: m, weight: -1}]}]":                                     "weight",
		"routes: [{model: m, targets: [{backend: a, model: m, weight: 1000001}]}]":                                "weight",
		"routes: [{model: m, targets: [{backend: a, model: m, priority: -1}]}]":                                   "priority",
		"routes: [{model: 'a b', targets: [{backend: a, model: m}]}]":                                             "not allowed",
		"routes: [{model: m, targets: [{backend: a, model: m}]}, {model: m, targets: [{backend: b, model: m}]}]":  "appears twice",
		"routes: [{model: m, targets: [{backend: a, model: m}]}, {model: al, targets: [{backend: b, model: m}]}]": "also a route",
		"routes: [{model: m, targets: [{backend: a, model: m}], retry: {attempts: 11}}]":                          "0 to 10",
		"retry: {attempts: -1}\nroutes: [{model: m, targets: [{backend: a, model: m}]}]":                          "0 to 10",
		"retry: {pause: 1x}\nroutes: [{model: m, targets: [{backend: a, model: m}]}]":                             "unknown unit",
		"breaker: {open: -1s}\nroutes: [{model: m, targets: [{backend: a, model: m}]}]":                           "below zero",
		"routes: [{model: m, target: [{backend: a, model: m}]}]":                                                  "models.yaml:2:21: unknown field",
	} {
		_, err := ParseConfig("models.yaml", []byte(backends+text))
		require.ErrorIs(t, err, ErrConfig, text)
		assert.ErrorContains(t, err, want, text)
	}
}

// A hurriedLog has somebody else reload when a first change is on record and not yet in
// force.
type hurriedLog struct {
	audit.Recorder
	asked atomic.Bool
	next  func()
	last  atomic.Value // the backends that were recorded last
}

func (l *hurriedLog) Append(ctx context.Context, ev audit.Event) error {
	l.last.Store(ev.Detail["backends"])
	err := l.Recorder.Append(ctx, ev)
	if l.asked.CompareAndSwap(false, true) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.next()
		}()
		select {
		case <-done: // before the first
		case <-time.After(100 * time.Millisecond): // it waits for it
		}
	}
	return err
}

// What is in force is what was recorded last, also when two reload at once.
func TestReloadsAtOnce(t *testing.T) {
	h := newHouse(t, nil)
	var other sync.WaitGroup
	log := &hurriedLog{Recorder: h.log}
	first, second := h.config(), h.config()
	first.Backends, second.Backends = first.Backends[:1], second.Backends[1:]
	other.Add(1)
	log.next = func() {
		defer other.Done()
		assert.NoError(t, h.router.Reload(t.Context(), second, operator))
	}
	h.router.log = log
	require.NoError(t, h.router.Reload(t.Context(), first, operator))
	other.Wait()
	assert.Equal(t, log.last.Load(), h.router.routes.Load().summary()["backends"])
}
