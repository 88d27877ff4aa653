package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// This file is the agent: an ordinary program that talks to a model and to an
// MCP endpoint, then tries what it should not. It is this same binary, run again
// inside the sandbox. It knows nothing of Twinward: to it, the model and the
// tools are two web addresses.

// An agentConfig is what the agent is told, in its arguments.
type agentConfig struct {
	Model    string // model name to ask for
	ModelURL string // OpenAI-compatible base URL
	ToolsURL string // MCP endpoint
	Probes   []probe
	// TokenURL is set when the agent runs outside the sandbox and must prove who
	// it is; client id and secret are then in its environment, and Home is its
	// own folder.
	TokenURL, Home string
}

// A probe is an attempt at something outside the agent's walls.
type probe struct {
	Step   string
	Action string // read_file, write_file, connect, escape
	Target string
}

// A notice is one line from agent to host. After each one the agent waits for a
// newline, so that the host can attribute what it sees on record to a step.
type notice struct {
	Step string
	Done bool
	// Result is what the agent got: "ok", or the error it saw.
	Result string
	Probe  *probe `json:",omitempty"`
}

type agent struct {
	cfg   agentConfig
	out   *json.Encoder
	acks  io.Reader
	seen  *recorder // every byte that any response brought
	http  *http.Client
	tools *mcp.ClientSession
}

// runAgent is the agent's main. all is the pipe on which it finally shows the
// host everything that it can read.
func runAgent(ctx context.Context, cfg agentConfig, out io.Writer, acks io.Reader, all io.WriteCloser) error {
	a := &agent{cfg: cfg, out: json.NewEncoder(out), acks: acks, seen: &recorder{}}
	a.http = &http.Client{Transport: a.seen, Timeout: 30 * time.Second}
	if cfg.TokenURL != "" {
		token := &http.Client{Transport: a.seen} // the token's own request needs no token
		a.http.Transport = (&clientcredentials.Config{
			ClientID:       os.Getenv("AGENT_CLIENT_ID"),
			ClientSecret:   os.Getenv("AGENT_CLIENT_SECRET"),
			TokenURL:       cfg.TokenURL,
			EndpointParams: map[string][]string{"resource": {cfg.ToolsURL}},
		}).Client(context.WithValue(ctx, oauth2.HTTPClient, token)).Transport
	}
	if err := a.work(ctx); err != nil {
		return err
	}
	for _, p := range cfg.Probes {
		if err := a.step(p.Step, &p, func() error { return a.try(ctx, p) }); err != nil {
			return err
		}
	}
	defer all.Close()
	return a.showEverything(all)
}

// step tells the host what comes, does it, and tells the host how it went. The
// error of do is a result and not a failure: being refused is what the agent is
// here for.
func (a *agent) step(name string, p *probe, do func() error) error {
	if err := a.tell(notice{Step: name, Probe: p}); err != nil {
		return err
	}
	result := "ok"
	if err := do(); err != nil {
		result = err.Error()
		if file := (*os.PathError)(nil); errors.As(err, &file) {
			result = file.Err.Error() // the path is the probe's target
		}
	}
	return a.tell(notice{Step: name, Done: true, Result: result, Probe: p})
}

func (a *agent) tell(n notice) error {
	if err := a.out.Encode(n); err != nil {
		return err
	}
	_, err := io.ReadFull(a.acks, make([]byte, 1))
	return err
}

// work connects to the tools, then does what the model says.
func (a *agent) work(ctx context.Context) error {
	var connectErr error
	err := a.step("connect", nil, func() error {
		client := mcp.NewClient(&mcp.Implementation{Name: "standup-agent", Version: "1.0.0"}, nil)
		a.tools, connectErr = client.Connect(ctx, &mcp.StreamableClientTransport{
			Endpoint: a.cfg.ToolsURL, HTTPClient: a.http, DisableStandaloneSSE: true}, nil)
		return connectErr
	})
	if err := errors.Join(err, connectErr); err != nil {
		return fmt.Errorf("connecting to %s: %w", a.cfg.ToolsURL, err)
	}
	defer a.tools.Close()

	var list *mcp.ListToolsResult
	var listErr error
	err = a.step("list", nil, func() error {
		list, listErr = a.tools.ListTools(ctx, nil)
		return listErr
	})
	if err := errors.Join(err, listErr); err != nil {
		return fmt.Errorf("listing the tools: %w", err)
	}

	done := map[string]bool{}
	chat := newChat(a.cfg.Model, list.Tools)
	for range maxTurns {
		var calls []toolCall
		var askErr error
		err := a.step("model", nil, func() error {
			calls, askErr = chat.ask(ctx, a.http, a.cfg.ModelURL)
			return askErr
		})
		if err := errors.Join(err, askErr); err != nil {
			return fmt.Errorf("asking the model: %w", err)
		}
		if len(calls) == 0 {
			break
		}
		for _, c := range calls {
			done[stepOf(c)] = true
			if err := a.call(ctx, chat, c); err != nil {
				return err
			}
		}
	}
	// A model with better manners than the scripted one leaves some attempts
	// out; the agent then makes them on its own.
	for _, c := range misdeeds() {
		if !done[stepOf(c)] {
			if err := a.call(ctx, chat, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// call makes one tool call and puts the answer into the conversation.
func (a *agent) call(ctx context.Context, chat *chat, c toolCall) error {
	var answer string
	err := a.step(stepOf(c), nil, func() error {
		res, err := a.tools.CallTool(ctx, &mcp.CallToolParams{Name: c.Name, Arguments: c.Args})
		if err != nil {
			answer = err.Error()
			return err
		}
		for _, content := range res.Content {
			if text, ok := content.(*mcp.TextContent); ok {
				answer += text.Text
			}
		}
		if res.IsError {
			return errors.New(answer)
		}
		return nil
	})
	chat.answer(c, answer)
	return err
}

// try attempts what a confined program must not be able to do.
func (a *agent) try(ctx context.Context, p probe) error {
	switch p.Action {
	case "read_file", "escape":
		data, err := os.ReadFile(p.Target)
		if err == nil {
			a.seen.add(data)
		}
		return err
	case "write_file":
		return os.WriteFile(p.Target, []byte("the agent was here\n"), 0o644)
	case "connect":
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.Target, nil)
		if err != nil {
			return err
		}
		client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
			DialContext: (&net.Dialer{}).DialContext}}
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		return res.Body.Close()
	}
	return fmt.Errorf("no such probe: %q", p.Action)
}

// showEverything writes all that the agent can read: its environment, the
// processes it sees, its files, and every response it ever got.
func (a *agent) showEverything(w io.Writer) error {
	for _, kv := range os.Environ() {
		fmt.Fprintln(w, kv)
	}
	procs, _ := filepath.Glob("/proc/[0-9]*")
	if a.cfg.Home != "" {
		procs = []string{"/proc/self"}
	}
	for _, dir := range procs {
		for _, name := range []string{"environ", "cmdline", "status", "maps", "mountinfo"} {
			copyFile(w, filepath.Join(dir, name))
		}
	}
	roots := []string{"/sandbox", "/tmp", "/etc", "/run"}
	if a.cfg.Home != "" {
		roots = []string{a.cfg.Home} // outside the sandbox the rest is the machine's, not the agent's
	}
	for _, root := range roots {
		_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				copyFile(w, path)
			}
			return nil
		})
	}
	_, err := w.Write(a.seen.bytes())
	return err
}

// copyFile appends what can be read of a file. What cannot be read is the point.
func copyFile(w io.Writer, path string) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = io.Copy(w, io.LimitReader(f, 8<<20))
	_, _ = io.WriteString(w, "\n")
}

// A recorder is a RoundTripper that keeps a copy of every response.
type recorder struct {
	buf lockedBuffer
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		r.add([]byte(err.Error()))
		return nil, err
	}
	var head bytes.Buffer
	_ = res.Header.Write(&head)
	r.add(head.Bytes())
	res.Body = struct {
		io.Reader
		io.Closer
	}{io.TeeReader(res.Body, &r.buf), res.Body}
	return res, nil
}

func (r *recorder) add(b []byte)  { _, _ = r.buf.Write(b) }
func (r *recorder) bytes() []byte { return r.buf.Bytes() }
