//go:build linux && amd64

package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/inference/inferencetest"
)

// agentFolder is where the npm packages of testdata/agents are installed, by
// .ci/lib.sh for both uids; a test installs nothing. What is run of opencode-ai and
// claude-code is the program that their install scripts would link, as no script
// of a package is run.
const agentFolder = "TWINWARD_AGENTS"

const madeByAgent = "printf 'made by the agent' >result.txt"

// agents are programs that people give to a sandbox, and what each must be told
// beside its preset to find its model. Placeholders stand for keys: the host adds
// the real one outside.
var agents = []struct {
	name, program string
	tool          string // that runs a command
	args          []string
	preset        string            // else opencodePolicy
	files         map[string]string // in the workspace
	refused       []string          // what it tries besides, in vain
	slow          bool
}{
	{
		name: "claude", program: "@anthropic-ai/claude-code-linux-x64/claude", tool: "Bash",
		args:   []string{"--bare", "-p", "Write the result.", "--allowedTools", "Bash", "--output-format", "text"},
		preset: "claude-code",
	},
	{
		name: "codex", program: "@openai/codex/bin/codex.js",
		args:    []string{"exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "Write the result."},
		preset:  "codex",
		files:   map[string]string{".codex/config.toml": codexConfig},
		refused: []string{"github.com", "api.github.com", "chatgpt.com", "ab.chatgpt.com"},
	},
	{
		name: "opencode", program: "opencode-linux-x64/bin/opencode", tool: "bash",
		args:    []string{"run", "Write the result."},
		files:   map[string]string{"opencode.json": opencodeConfig},
		refused: []string{"registry.npmjs.org"},
		slow:    true,
	},
}

var opencodePolicy = &Policy{
	Environment: Environment{"OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1"},
	Inference:   &Inference{},
}

const codexConfig = `
model = "scripted"
model_provider = "host"
[model_providers.host]
name = "host"
base_url = "https://inference.local/v1"
env_key = "OPENAI_API_KEY"
wire_api = "responses"
`

const opencodeConfig = `{
	"model": "host/scripted",
	"permission": {"bash": "allow", "edit": "allow"},
	"provider": {"host": {
		"npm": "@ai-sdk/openai-compatible",
		"options": {"baseURL": "https://inference.local/v1", "apiKey": "placeholder"},
		"models": {"scripted": {"name": "scripted", "tool_call": true, "limit": {"context": 100000, "output": 4000}}}
	}}
}`

// The agents that people use run inside, from npm as they are: each asks its
// model at inference.local, runs the command that the model wants, and ends. No
// key is inside, and every connection is on record.
func TestWorkAgents(t *testing.T) {
	folder := os.Getenv(agentFolder)
	switch {
	case folder == "" && full():
		t.Fatalf("TWINWARD_FULL=1, but %s does not name the folder of testdata/agents, installed", agentFolder)
	case folder == "":
		t.Skipf("set %s to a folder where npm has installed testdata/agents", agentFolder)
	}
	for _, a := range agents {
		t.Run(a.name, func(t *testing.T) {
			eachLauncher(t, func(t *testing.T, opts *Options) {
				if a.slow && opts.Launcher != launchers[0] {
					return // it needs nothing that the others do not
				}
				log := audittest.NewLog(t)
				p, err := Preset(a.preset)
				if a.preset == "" {
					p, err = opencodePolicy, nil
				}
				require.NoError(t, err)
				p, err = Join(p, &Policy{Filesystem: Filesystem{ReadOnly: append(SystemPaths(), folder)}})
				require.NoError(t, err)
				s := box(t, log, p, opts)
				m := &model{script: inferencetest.NewScript(
					inferencetest.Turn{Calls: []inferencetest.Call{{Name: a.tool, Args: map[string]string{"command": madeByAgent, "description": "Writes."}}}},
					inferencetest.Turn{Text: "It is written."},
				)}
				require.NoError(t, s.Handle("inference.local", m))
				for name, text := range a.files {
					writeInside(t, s, name, text)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				began := time.Now()
				cmd := s.Command(ctx, filepath.Join(folder, "node_modules", a.program), a.args...)
				var out bytes.Buffer
				cmd.Stdout, cmd.Stderr = &out, &out
				require.NoError(t, cmd.Run(), "%s\n%s", &out, m)
				t.Logf("one turn of %s: %.1f s", a.name, time.Since(began).Seconds())
				assert.Contains(t, out.String(), "It is written.")
				b, err := os.ReadFile(filepath.Join(s.Workspace(), "result.txt"))
				require.NoError(t, err, "%s\n%s", &out, m)
				assert.Equal(t, "made by the agent", string(b))
				assert.Subset(t, []string{"placeholder", ""}, m.keys(), "a key that is not from here")

				require.NoError(t, s.Close())
				allowed, denied := connects(log.Records())
				assert.NotEmpty(t, allowed)
				for _, connect := range allowed {
					assert.True(t, strings.HasSuffix(connect, ` Host::"inference.local"`), connect)
				}
				for _, d := range denied {
					host := strings.TrimSuffix(strings.TrimPrefix(d, CauseName+` Host::"`), `"`)
					assert.Contains(t, a.refused, host, d)
				}
			})
		})
	}
}

// writeInside puts a file of the session's user into the workspace.
func writeInside(t *testing.T, s *Session, name, text string) {
	t.Helper()
	cmd := sh(s, `mkdir -p "$(dirname "$1")" && cat >"$1"`)
	cmd.Args = append(cmd.Args, "sh", name)
	cmd.Stdin = strings.NewReader(text)
	require.NoError(t, cmd.Run())
}

// A model serves a script over the three protocols that agents speak, and keeps
// what it was asked.
type model struct {
	script *inferencetest.Script
	mu     sync.Mutex
	asked  []string
	held   []string
}

func (m *model) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key := r.Header.Get("X-Api-Key") + strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	m.mu.Lock()
	m.asked, m.held = append(m.asked, r.Method+" "+r.URL.RequestURI()), append(m.held, key)
	m.mu.Unlock()
	switch {
	case r.Header.Get("Upgrade") != "":
		w.WriteHeader(http.StatusUpgradeRequired) // agents then ask in the plain way, at once
	case r.Method == http.MethodHead || r.URL.Path == "/":
	case r.URL.Path == "/v1/responses":
		m.responses(w, r)
	default:
		m.script.ServeHTTP(w, r)
	}
}

func (m *model) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(m.asked, ", ")
}

func (m *model) keys() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.held...)
}

// responses answers as OpenAI's Responses do, which the script does not speak:
// the first turn is a call of the tool that runs commands, the next the end.
func (m *model) responses(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Input []struct{ Type string }
		Tools []struct{ Name string }
	}
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	item := map[string]any{"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
		"content": []any{map[string]any{"type": "output_text", "text": "It is written.", "annotations": []any{}}}}
	if !slices.ContainsFunc(req.Input, func(i struct{ Type string }) bool { return i.Type == "function_call_output" }) {
		arguments, err := json.Marshal(map[string]string{"cmd": madeByAgent})
		if err != nil {
			panic(err)
		}
		item = map[string]any{"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "exec_command", "arguments": string(arguments), "status": "completed"}
	}
	response := map[string]any{"id": "resp_1", "object": "response", "created_at": 0, "model": "scripted", "status": "completed", "output": []any{item},
		"usage": map[string]any{"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}}
	w.Header().Set("Content-Type", "text/event-stream")
	for i, e := range []map[string]any{
		{"type": "response.created", "response": map[string]any{"id": "resp_1", "object": "response", "status": "in_progress", "output": []any{}}},
		{"type": "response.output_item.added", "output_index": 0, "item": item},
		{"type": "response.output_item.done", "output_index": 0, "item": item},
		{"type": "response.completed", "response": response},
	} {
		e["sequence_number"] = i
		b, err := json.Marshal(e)
		if err != nil {
			panic(err)
		}
		fmt.Fprintf(w, "event: %s\ndata: %s\n\n", e["type"], b)
		_ = http.NewResponseController(w).Flush()
	}
}
