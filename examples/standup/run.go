package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/examples/internal/tell"
	"github.com/twinward-dev/twinward/sandbox"
)

// run plays the story and returns an error unless everything came out as it
// must.
func run(ctx context.Context, opts options, out io.Writer) error {
	rules, err := fs.Sub(files, "bundle")
	if err != nil {
		return err
	}
	walls, err := files.ReadFile("sandbox.yaml")
	if err != nil {
		return err
	}
	return runWith(ctx, opts, rules, walls, out)
}

// runWith is run with rules from elsewhere, for tests that change them.
func runWith(ctx context.Context, opts options, rules fs.FS, walls []byte, out io.Writer) (err error) {
	h, err := newHost(ctx, opts, rules)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close(h.log)) }()
	t := &telling{host: h, show: tell.NewPrinter(out, opts.json), remote: opts.remote, at: 1,
		seen: map[string][]tell.Line{}, ends: map[uint64]audit.Outcome{}}
	var layers []string
	if opts.remote {
		t.show.Say("The agent runs outside any sandbox, with client credentials and a short-lived token.\n")
		err = t.playRemote(ctx)
	} else {
		layers, err = t.playInside(ctx, walls)
	}
	if err != nil {
		return err
	}
	s, err := t.finish(ctx, layers)
	if err != nil {
		return err
	}
	t.show.Close(s)
	if want := len(h.decoys); s.Secrets != want {
		t.wrong("the search found %d secrets within the agent's reach, and there should be %d", s.Secrets, want)
	}
	return errors.Join(t.wrongs...)
}

// A telling is one run of the story, seen from the host.
type telling struct {
	host   *host
	show   *tell.Printer
	remote bool
	at     uint64 // the next record to look at
	seen   map[string][]tell.Line
	ends   map[uint64]audit.Outcome // by the record of the intent
	actor  audit.Actor              // of the session
	wrongs []error
	found  map[string]int // secrets that the agent showed us
}

func (t *telling) wrong(format string, args ...any) {
	t.wrongs = append(t.wrongs, fmt.Errorf(format, args...))
}

// playInside runs the agent in a sandbox session that is the agent.
func (t *telling) playInside(ctx context.Context, walls []byte) ([]string, error) {
	h := t.host
	actor, err := h.registry.Actor(agentName)
	if err != nil {
		return nil, err
	}
	ctx, stop, err := h.registry.Context(ctx, actor) // revoke the agent, and the session dies
	if err != nil {
		return nil, err
	}
	defer stop()
	box, err := h.startSandbox(ctx, actor, walls)
	if err != nil {
		return nil, err
	}
	defer box.Close()
	t.actor = box.Actor()
	var layers []string
	for _, layer := range box.Report().Layers {
		layers = append(layers, string(layer))
	}
	t.show.Say("The agent runs in a sandbox of %d layers and holds no credential.\n", len(layers))

	secret, err := newHostFile(h.dir)
	if err != nil {
		return nil, err
	}
	if err := plantFile(h.decoys, box.Workspace()); err != nil {
		return nil, err
	}
	cfg := agentConfig{Model: h.model, ModelURL: "https://inference.local/v1", ToolsURL: "https://tools.local/mcp",
		Probes: probes(secret)}
	args, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	cmd := box.Command(ctx, sandbox.Self, "agent", string(args))
	cmd.Env = plantedEnv(h.decoys)
	err = t.converse(ctx, pipes{
		stdin: cmd.StdinPipe, stdout: cmd.StdoutPipe, start: cmd.Start, wait: cmd.Wait,
		extra:  func(f *os.File) { cmd.ExtraFiles = append(cmd.ExtraFiles, f) },
		stderr: func(w io.Writer) { cmd.Stderr = w },
	})
	if err != nil {
		return nil, err
	}
	if err := secret.untouched(); err != nil {
		t.wrong("a file of the host: %w", err)
	}
	if _, err := os.Lstat(outsidePath); !errors.Is(err, os.ErrNotExist) {
		t.wrong("%s exists, and the agent was to be unable to make it", outsidePath)
	}
	return layers, box.Close()
}

// playRemote runs the agent as an ordinary process that proves who it is.
func (t *telling) playRemote(ctx context.Context) error {
	h := t.host
	h.serveRemote()
	home, err := os.MkdirTemp(h.dir, "agent-")
	if err != nil {
		return err
	}
	if err := plantFile(h.decoys, home); err != nil {
		return err
	}
	cfg := agentConfig{Model: h.model, ModelURL: h.base + "/v1", ToolsURL: h.base + "/mcp", TokenURL: h.base + "/token", Home: home}
	args, err := json.Marshal(cfg)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, "agent", string(args))
	cmd.Env = append(plantedEnv(h.decoys), "AGENT_CLIENT_ID="+agentName)
	if err := h.clientSecret.Use(func(b []byte) error {
		cmd.Env = append(cmd.Env, "AGENT_CLIENT_SECRET="+string(b))
		return nil
	}); err != nil {
		return err
	}
	return t.converse(ctx, pipes{
		stdin: cmd.StdinPipe, stdout: cmd.StdoutPipe, start: cmd.Start, wait: cmd.Wait,
		extra:  func(f *os.File) { cmd.ExtraFiles = append(cmd.ExtraFiles, f) },
		stderr: func(w io.Writer) { cmd.Stderr = w },
	})
}

// pipes are what this program needs of a command, inside or outside.
type pipes struct {
	stdin       func() (io.WriteCloser, error)
	stdout      func() (io.ReadCloser, error)
	start, wait func() error
	extra       func(*os.File)
	stderr      func(io.Writer)
}

// converse runs the agent and follows what it says it is doing: between "I start
// this step" and "I have done it", whatever goes on record belongs to the step.
func (t *telling) converse(ctx context.Context, p pipes) error {
	acks, err := p.stdin()
	if err != nil {
		return err
	}
	notices, err := p.stdout()
	if err != nil {
		return err
	}
	all, allInside, err := os.Pipe()
	if err != nil {
		return err
	}
	defer all.Close()
	p.extra(allInside)
	var stderr lockedBuffer
	p.stderr(&stderr)
	err = p.start()
	allInside.Close()
	if err != nil {
		return err
	}
	searched := make(chan error, 1)
	go func() {
		var err error
		t.found, err = search(all, t.host.vault, t.host.decoys)
		searched <- err
	}()
	lines := bufio.NewScanner(notices)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var n notice
		if err := json.Unmarshal(lines.Bytes(), &n); err != nil {
			t.wrong("the agent said something odd: %.200q", lines.Text())
			break
		}
		if err := t.hear(ctx, n); err != nil {
			return err
		}
		if _, err := io.WriteString(acks, "\n"); err != nil {
			break // the agent has gone; wait says why
		}
	}
	acks.Close()
	searchErr := <-searched
	if err := p.wait(); err != nil {
		return fmt.Errorf("the agent failed: %w\n%s", err, strings.TrimSpace(string(stderr.Bytes())))
	}
	return errors.Join(lines.Err(), searchErr)
}

// hear takes one notice of the agent: shows what came on record since the last
// one, and at the end of a step compares it with the story.
func (t *telling) hear(ctx context.Context, n notice) error {
	if n.Done && n.Probe != nil && n.Probe.Action != "connect" {
		if err := t.recordProbe(ctx, n); err != nil {
			return err
		}
	}
	return t.catchUp(ctx, n.Step)
}

// recordProbe puts a refused attempt at a file on record. The kernel refused it
// and only the agent saw it, so the agent is its source.
func (t *telling) recordProbe(ctx context.Context, n notice) error {
	if n.Result == "ok" {
		t.wrong("step %s: the agent could %s %s", n.Step, n.Probe.Action, n.Probe.Target)
		return nil
	}
	decision := audit.Refusal(audit.NewID(), "sandbox")
	return t.host.log.Append(ctx, audit.Event{Kind: audit.KindProbe, Door: audit.DoorCompute,
		Action: n.Probe.Action, Resource: fmt.Sprintf("File::%q", n.Probe.Target), Actor: t.actor,
		Decision: &decision, Source: "agent", Detail: map[string]string{"error": n.Result}})
}

// catchUp shows every decision that went on record since the last time.
func (t *telling) catchUp(ctx context.Context, step string) error {
	last := t.host.log.Size()
	if t.at > last {
		return nil
	}
	for rec, err := range t.host.log.Follow(ctx, t.at) {
		if err != nil {
			return err
		}
		if rec.Outcome != nil {
			t.ends[rec.Call] = *rec.Outcome
		}
		if l, ok := tell.LineOf(step, rec); ok {
			t.seen[step] = append(t.seen[step], l)
			t.show.Decision(l, t.says(step, l))
		}
		if t.at = rec.Seq + 1; t.at > last {
			return nil
		}
	}
	return ctx.Err()
}

func (t *telling) says(step string, l tell.Line) string {
	if l.Door == audit.DoorCompute && l.Action == "connect" && l.Decision == "allow" {
		return "reaches " + strings.Trim(strings.TrimPrefix(l.Resource, "Host::"), `"`)
	}
	if l.Action == "exec" {
		return "starts, in the sandbox"
	}
	for _, s := range story() {
		if s.name == step {
			return s.says
		}
	}
	return l.Action + " " + l.Resource
}

// finish compares the run with the story, closes the log and verifies it as an
// auditor would.
func (t *telling) finish(ctx context.Context, layers []string) (tell.Summary, error) {
	if err := t.catchUp(ctx, "end"); err != nil {
		return tell.Summary{}, err
	}
	t.compare()
	h := t.host
	key := h.log.VerifierKey()
	if err := h.Close(h.log); err != nil {
		return tell.Summary{}, err
	}
	s, failure, err := t.show.Audit(ctx, tell.Evidence{Log: filepath.Join(h.dir, "log"), Anchor: h.anchor, Key: key,
		Report: filepath.Join(h.dir, "report.html"), Title: "Standup"})
	if failure != nil {
		t.wrong("the log does not verify: %w", failure)
	}
	s.Layers, s.Secrets = layers, len(t.found)
	return s, err
}

// compare holds what is on record, and what reached the vendors, against the
// story.
func (t *telling) compare() {
	for _, s := range story() {
		if s.walls && t.remote {
			continue
		}
		for _, w := range s.wants {
			if !t.has(s.name, w) {
				t.wrong("step %s (%s): wanted %s of %s because of %q, on record is %v", s.name, s.says, w.decision, w.action, w.cause, t.seen[s.name])
			}
		}
	}
	for _, l := range t.show.Lines() {
		if !expected(l) {
			t.wrong("record %d was not in the story: %s %s %s", l.Record, l.Decision, l.Action, l.Resource)
		}
		end, ok := t.ends[l.Record]
		if l.Action == "connect" && end.Status == audit.StatusCancelled {
			continue // the session ended before the door saw that the agent had hung up
		}
		if ok && end.Status != audit.StatusOK {
			t.wrong("record %d, step %s: allowed, and then %s (%s)", l.Record, l.Step, end.Status, end.ErrorCode)
		}
	}
	for _, wrong := range t.host.vendors.wrong() {
		t.wrong("%s", wrong)
	}
}

func (t *telling) has(step string, w want) bool {
	for _, l := range t.seen[step] {
		if w.matches(l) {
			return true
		}
	}
	return false
}
