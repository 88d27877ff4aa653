package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// This file is the agent: this same binary, run again inside the sandbox. It
// works until it is killed. It knows nothing of Twinward: to it, the model, the
// tools and the forge are three web addresses.

// agentNames are the agents of the night: the first is killed by its operator, the
// second works on until the power goes.
var agentNames = []string{"night-bot", "watch-bot"}

// holdWord asks the model for an answer without end.
const holdWord = "hold the line"

// An agent marks each call with a trace of its own, and writes down which of them
// were answered: in a file of its workspace, which it never reads again.
type agent struct {
	name   string
	number int // that its traces begin with
	calls  atomic.Uint64
	notes  *os.File
	tools  *mcp.ClientSession
}

// trace returns the W3C trace context of the next call.
func (a *agent) trace() string {
	n := a.calls.Add(1)
	return fmt.Sprintf("00-%08x%024x-%016x-01", a.number, n, n)
}

// traceID is the part of a trace context that is the same for all that a call
// leads to, and agentOf whose call it was; both may be empty.
func traceID(traceparent string) string {
	if parts := strings.Split(traceparent, "-"); len(parts) == 4 {
		return parts[1]
	}
	return ""
}

func agentOf(trace string) string {
	if len(trace) == 32 {
		if n, err := strconv.ParseUint(trace[:8], 16, 32); err == nil && n >= 1 && n <= uint64(len(agentNames)) {
			return agentNames[n-1]
		}
	}
	return ""
}

// agentMain is the main function inside.
func agentMain(name string) error {
	ctx := context.Background()
	notes, err := os.OpenFile("/sandbox/notes", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	a := &agent{name: name, number: slices.Index(agentNames, name) + 1, notes: notes}
	client := mcp.NewClient(&mcp.Implementation{Name: name, Version: "1.0.0"}, nil)
	if a.tools, err = client.Connect(ctx, &mcp.StreamableClientTransport{Endpoint: "https://tools.local/mcp", DisableStandaloneSSE: true}, nil); err != nil {
		return err
	}
	if err := a.git(ctx, "", "init", "-q", "-b", "main", "/sandbox/repo"); err != nil {
		return err
	}
	for _, held := range []func(context.Context, string) error{a.readForEver, a.talkForEver, a.fetchForEver} {
		go a.work(ctx, held)
	}
	for _, work := range []func(context.Context, string) error{a.read, a.post, a.announce, a.talk} {
		go a.work(ctx, work)
	}
	a.work(ctx, a.push)
	return nil
}

// work does one thing again and again, and notes what came of each time.
func (a *agent) work(ctx context.Context, do func(context.Context, string) error) {
	for {
		trace := a.trace()
		said := "ok"
		if err := do(ctx, trace); err != nil {
			said = fmt.Sprintf("%.200q", err)
		}
		// One write: a line is there or is not.
		_, _ = fmt.Fprintf(a.notes, "%s %d %s\n", traceID(trace), time.Now().UnixNano(), said)
		time.Sleep(5 * time.Millisecond)
	}
}

func (a *agent) call(ctx context.Context, trace, tool string, args map[string]any) error {
	res, err := a.tools.CallTool(ctx, &mcp.CallToolParams{Meta: mcp.Meta{"traceparent": trace}, Name: tool, Arguments: args})
	if err == nil && res.IsError {
		err = &toolError{res.Content[0].(*mcp.TextContent).Text}
	}
	return err
}

// A toolError is an answer that says why there is none.
type toolError struct{ text string }

func (e *toolError) Error() string { return e.text }

func (a *agent) read(ctx context.Context, trace string) error {
	return a.call(ctx, trace, "github__get_pull_request", map[string]any{"number": 412})
}

// readForEver asks for what the vendor never answers.
func (a *agent) readForEver(ctx context.Context, trace string) error {
	return a.call(ctx, trace, "github__get_pull_request", map[string]any{"number": 0})
}

func (a *agent) post(ctx context.Context, trace string) error {
	return a.call(ctx, trace, "slack__post_message", map[string]any{"channel": "#engineering", "text": "post " + traceID(trace)})
}

func (a *agent) announce(ctx context.Context, trace string) error {
	return a.call(ctx, trace, "slack__announce", map[string]any{"text": "announcement " + traceID(trace)})
}

func (a *agent) talk(ctx context.Context, trace string) error { return a.ask(ctx, trace, "go on") }
func (a *agent) talkForEver(ctx context.Context, trace string) error {
	return a.ask(ctx, trace, holdWord)
}

func (a *agent) ask(ctx context.Context, trace, what string) error {
	body := fmt.Sprintf(`{"model":"night","stream":true,"max_tokens":64,"messages":[{"role":"user","content":%q}]}`, what)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://inference.local/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Traceparent", trace)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
		return fmt.Errorf("%s: %s", res.Status, text)
	}
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if lines.Text() == "data: [DONE]" {
			return nil
		}
	}
	return io.ErrUnexpectedEOF
}

func (a *agent) push(ctx context.Context, trace string) error {
	if err := a.git(ctx, "", "-C", "/sandbox/repo", "commit", "-q", "--allow-empty", "-m", "work of the night"); err != nil {
		return err
	}
	return a.git(ctx, trace, "-C", "/sandbox/repo", "push", "-q", "https://"+gitHost+"/team/"+a.name+".git", "HEAD:main")
}

func (a *agent) fetchForEver(ctx context.Context, trace string) error {
	return a.git(ctx, trace, "ls-remote", "https://"+gitHost+"/hold.git")
}

func (a *agent) git(ctx context.Context, trace string, args ...string) error {
	with := []string{"-c", "user.name=" + a.name, "-c", "user.email=" + a.name + "@example.com", "-c", "gc.auto=0"}
	if trace != "" {
		with = append(with, "-c", "http.extraHeader=Traceparent: "+trace)
	}
	cmd := exec.CommandContext(ctx, "git", append(with, args...)...)
	cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0", "HOME=/sandbox")
	withChildren(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("git: %w: %.300s", err, out)
	}
	return nil
}
