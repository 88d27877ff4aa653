//go:build linux && (amd64 || arm64)

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// This file is the soak's agent, which has all doors in use at once until its
// standard input ends, and the server of files that a gateway has as its child.

// A task is what an agent does again and again.
type task struct {
	kind string
	held bool // gets no answer: it ends when the agent stops, or when something breaks
	do   func(ctx context.Context, trace string) error
}

// kinds are those of all tasks, and of the commands that the host runs beside the
// agent, by the vendor that they need.
var kinds = map[string]string{
	"read": "github", "read-held": "github", "post": "slack", "file": "files", "file-held": "files",
	"talk": "model", "talk-held": "model", "answer": "model", "push": "forge", "fetch-held": "forge",
	"web": "web", "tls": "web", "command": "",
}

func soakName(n int) string { return fmt.Sprintf("soak-%d", n) }

// A soakLife is what one run of an agent is told.
type soakLife struct {
	Number int // of the agent
	Life   int // how often it has been started
	Port   int // of the web
	Mark   string
}

// soakAgentMain is the main function inside.
func soakAgentMain(config string) error {
	var life soakLife
	if err := json.Unmarshal([]byte(config), &life); err != nil {
		return err
	}
	notes, err := os.OpenFile("/sandbox/notes", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	a := &agent{name: soakName(life.Number), number: life.Number, notes: notes}
	a.calls.Store(uint64(life.Life) << 32) // no trace is ever used again
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	repo := fmt.Sprintf("/sandbox/repo-%d", life.Life)
	if err := a.git(ctx, "", "init", "-q", "-b", "main", repo); err != nil {
		return err
	}
	var all sync.WaitGroup
	for _, t := range soakTasks(a, life, repo) {
		all.Go(func() { repeat(ctx, notes, t, a.trace) })
	}
	all.Wait()
	return nil
}

func soakTasks(a *agent, life soakLife, repo string) []task {
	number := func(n int) func(string) map[string]any {
		return func(string) map[string]any { return map[string]any{"number": n} }
	}
	text := func(trace string) map[string]any {
		return map[string]any{"channel": "#engineering", "text": "post " + traceID(trace)}
	}
	name := func(string) map[string]any { return map[string]any{"name": "notes.txt"} }
	branch := fmt.Sprintf("+HEAD:refs/heads/%s-%d", a.name, life.Life)
	forge := "https://" + gitHost + "/team/" + agentNames[0] + ".git"
	return []task{
		{"read", false, tool(a, "github__get_pull_request", number(412))},
		{"read-held", true, tool(a, "github__get_pull_request", number(0))},
		{"post", false, tool(a, "slack__post_message", text)},
		{"file", false, tool(a, "files__read", name)},
		{"file-held", true, tool(a, "files__follow", name)},
		{"talk", false, a.talk},
		{"talk-held", true, a.talkForEver},
		{"answer", false, a.answer},
		{"web", false, browse(fmt.Sprintf("https://example.com:%d/t/", life.Port), false)},
		{"tls", false, browse(fmt.Sprintf("https://www.example.com:%d/t/", life.Port), true)},
		{"fetch-held", true, a.fetchForEver},
		{"push", false, func(ctx context.Context, trace string) error {
			if err := a.git(ctx, "", "-C", repo, "commit", "-q", "--allow-empty", "-m", "work"); err != nil {
				return err
			}
			return a.git(ctx, trace, "-C", repo, "push", "-q", forge, branch)
		}},
	}
}

// repeat does a task until the context ends, and notes what came of each time. What
// is under way then comes to its end, unless it is held.
func repeat(ctx context.Context, notes io.Writer, t task, trace func() string) {
	for ctx.Err() == nil {
		id, began, with := trace(), time.Now(), ctx
		if !t.held {
			with = context.WithoutCancel(ctx)
		}
		err := t.do(with, id)
		said, pause := "ok", 20+rand.IntN(60)
		switch {
		case err == nil:
		case t.held && ctx.Err() != nil:
			said = "stopped"
		default:
			said, pause = fmt.Sprintf("%.400q", err), 200
		}
		// One write: a line is there or is not.
		_, _ = fmt.Fprintf(notes, "%s %s %d %d %s\n", traceID(id), t.kind, began.UnixNano(), time.Now().UnixNano(), said)
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(pause) * time.Millisecond):
		}
	}
}

// tool calls a tool in a session of its own, which is opened anew when it broke.
func tool(a *agent, name string, args func(trace string) map[string]any) func(context.Context, string) error {
	mine := &agent{name: a.name}
	return func(ctx context.Context, trace string) (err error) {
		if mine.tools == nil {
			client := mcp.NewClient(&mcp.Implementation{Name: a.name, Version: "1.0.0"}, nil)
			transport := &mcp.StreamableClientTransport{Endpoint: "https://tools.local/mcp", DisableStandaloneSSE: true, MaxRetries: -1}
			if mine.tools, err = client.Connect(context.WithoutCancel(ctx), transport, nil); err != nil {
				return err
			}
		}
		err = mine.call(ctx, trace, name, args(trace))
		if said := (*toolError)(nil); err != nil && !errors.As(err, &said) {
			_ = mine.tools.Close() // it is of no use any more
			mine.tools = nil
		}
		return err
	}
}

// answer has the model answer in one piece.
func (a *agent) answer(ctx context.Context, trace string) error {
	text, err := fetch(ctx, http.DefaultClient, http.MethodPost, "https://inference.local/v1/chat/completions", trace,
		`{"model":"night","max_tokens":64,"messages":[{"role":"user","content":"go on"}]}`)
	if err == nil && !bytes.Contains(text, []byte(`"total_tokens"`)) {
		err = fmt.Errorf("half an answer: %.100q", text)
	}
	return err
}

// browse gets a page of the web whose address is the trace, on a connection of its
// own: either one whose requests the host looks into, or one that it passes on,
// where the agent knows no better than to trust whoever answers.
func browse(base string, blindly bool) func(context.Context, string) error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: blindly}}}
	return func(ctx context.Context, trace string) error {
		text, err := fetch(ctx, client, http.MethodGet, base+traceID(trace), trace, "")
		if err == nil && string(text) != traceID(trace) {
			err = fmt.Errorf("another page: %.100q", text)
		}
		return err
	}
}

func fetch(ctx context.Context, client *http.Client, method, url, trace, body string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewBufferString(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Traceparent", trace)
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %.300s", res.Status, text)
	}
	return text, err
}

// soakFilesMain is the main function of the server of files. It writes each call
// that reaches it into a journal beside the files.
func soakFilesMain(string) error {
	journal, err := os.OpenFile("/sandbox/journal", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		return err
	}
	type file struct {
		Name string `json:"name" jsonschema:"the file's name"`
	}
	note := func(r *mcp.CallToolRequest) error {
		trace, _ := r.Params.Meta["traceparent"].(string)
		_, err := fmt.Fprintln(journal, traceID(trace), strconv.FormatInt(time.Now().UnixNano(), 10))
		return err
	}
	s := mcp.NewServer(&mcp.Implementation{Name: "files", Version: "1.0.0"}, nil)
	mcp.AddTool(s, &mcp.Tool{Name: "read", Description: "Read a file."},
		func(ctx context.Context, r *mcp.CallToolRequest, in file) (*mcp.CallToolResult, any, error) {
			if err := note(r); err != nil {
				return nil, nil, err
			}
			return answer(ctx, r, in)
		})
	mcp.AddTool(s, &mcp.Tool{Name: "follow", Description: "Read a file, and what is written to it from now on."},
		func(ctx context.Context, r *mcp.CallToolRequest, _ file) (*mcp.CallToolResult, any, error) {
			if err := note(r); err != nil {
				return nil, nil, err
			}
			<-ctx.Done()
			return nil, nil, ctx.Err()
		})
	return s.Run(context.Background(), &mcp.StdioTransport{})
}
