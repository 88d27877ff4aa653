package main

import (
	"path/filepath"
	"runtime"

	"github.com/twinward-dev/twinward/inference"
	"github.com/twinward-dev/twinward/inference/inferencetest"
	"github.com/twinward-dev/twinward/sandbox"
)

// An agentKind is an agent that people use, from npm as it is, and what it must
// be told besides the sandbox's own preset.
type agentKind struct {
	preset   string
	protocol inference.Protocol // of its model
	models   []string           // it asks for these names
	program  string             // below node_modules
	node     bool               // the program is a script for the Node among the agents
	args     []string
	files    map[string]string // in the workspace
	shell    string            // its tool that runs a command
	field    string            // and the argument that holds it
}

const ask = "Review pull request #412 of acme/shop, then post the standup to #engineering."

var agentKinds = map[string]agentKind{
	"claude": {
		preset: "claude-code", protocol: inference.Anthropic, program: "@anthropic-ai/claude-code-linux-x64/claude",
		args: []string{"--bare", "-p", ask, "--mcp-config", "/sandbox/mcp.json", "--strict-mcp-config",
			"--allowedTools", "Bash", "mcp__tools", "--output-format", "text", "--model", "scripted"},
		files: map[string]string{"mcp.json": `{"mcpServers":{"tools":{"type":"http","url":"https://tools.local/mcp"}}}`},
		shell: "Bash", field: "command",
	},
	"codex": {
		preset: "codex", protocol: inference.OpenAIResponses, program: "@openai/codex/bin/codex.js",
		args:  []string{"exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", ask},
		files: map[string]string{".codex/config.toml": codexConfig},
		shell: "exec_command", field: "cmd",
	},
	"openclaw": {
		preset: "openclaw", protocol: inference.OpenAI, program: "openclaw/openclaw.mjs", node: true,
		args:  []string{"agent", "exec", ask, "--config", "/sandbox/openclaw.json", "--cwd", "/sandbox", "--model", "host/scripted", "--code-mode", "direct", "--json"},
		files: map[string]string{"openclaw.json": openclawConfig},
		shell: "exec", field: "command",
	},
}

const openclawConfig = `{
	"models": {"providers": {"host": {
		"baseUrl": "https://inference.local/v1", "apiKey": "placeholder", "api": "openai-completions",
		"models": [{"id": "scripted", "name": "scripted", "contextWindow": 100000, "maxTokens": 4000}]
	}}},
	"mcp": {"servers": {"tools": {"url": "https://tools.local/mcp", "transport": "streamable-http"}}}
}`

const codexConfig = `
model = "scripted"
model_provider = "host"
web_search = "disabled"
[model_providers.host]
name = "host"
base_url = "https://inference.local/v1"
env_key = "OPENAI_API_KEY"
wire_api = "responses"
[mcp_servers.tools]
url = "https://tools.local/mcp"
`

func (a agentKind) run(_ inferencetest.Conversation, command string) inferencetest.Turn {
	return inferencetest.Turn{Calls: []inferencetest.Call{{Name: a.shell, Args: map[string]any{a.field: command, "description": "Does it."}}}}
}

// policy is the agent's walls: its preset, and the folders that hold the program
// and Node.
func (a agentKind) policy(walls *sandbox.Policy, folders ...string) (*sandbox.Policy, error) {
	preset, err := sandbox.Preset(a.preset)
	if err != nil {
		return nil, err
	}
	return sandbox.Join(preset, walls, &sandbox.Policy{Filesystem: sandbox.Filesystem{ReadOnly: append(sandbox.SystemPaths(), folders...)}})
}

func (a agentKind) path(agents string) string {
	return filepath.Join(agents, "node_modules", filepath.FromSlash(a.program))
}

// command is the program and its arguments.
func (a agentKind) command(agents string) []string {
	command := append([]string{a.path(agents)}, a.args...)
	if a.node {
		command = append([]string{nodeIn(agents)}, command...)
	}
	return command
}

// nodeIn is the pinned Node among what npm has installed in a folder.
func nodeIn(folder string) string {
	arch := runtime.GOARCH
	if arch == "amd64" {
		arch = "x64"
	}
	return filepath.Join(folder, "node_modules", "node-"+runtime.GOOS+"-"+arch, "bin", "node")
}
