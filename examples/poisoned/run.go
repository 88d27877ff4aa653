package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/examples/internal/outside"
	"github.com/twinward-dev/twinward/examples/internal/tell"
	"github.com/twinward-dev/twinward/inference/inferencetest"
	"github.com/twinward-dev/twinward/sandbox"
)

// A telling is one run of the story.
type telling struct {
	*host
	show *tell.Printer

	mu      sync.Mutex
	step    int                    // that the agent is at
	learned map[string]string      // what the agent got to know, by step
	seen    map[string][]tell.Line // what went on record, by step
	ended   map[uint64]string      // why a call failed, by the record of its intent
	at      uint64                 // the next record to look at
	wrongs  []error
	look    func() // at the end, while the agent lives
	memory  memorySeen
}

// memorySeen is what was found in the memory of the processes in all sessions.
type memorySeen struct {
	Processes int   `json:"processes"`
	Bytes     int64 `json:"bytes"`
	// Secrets are those of the host, Marked the processes that hold the marker of
	// what the agent works on: the search finds what is there.
	Secrets int `json:"secrets"`
	Marked  int `json:"marked"`
	// Unread are the first processes of sessions, this project's own, which the
	// kernel lets root alone look into.
	Unread int `json:"unread"`
}

// evidence is what was seen from outside, beside the log.
type evidence struct {
	Journal []string        `json:"journal"`         // of vendors and attacker
	Refused int             `json:"refused_tokens"`  // requests to vendors with a wrong token
	Network outside.Traffic `json:"network"`         // of the agent's session
	Memory  memorySeen      `json:"memory"`          // of all sessions
	Learned int             `json:"secrets_learned"` // secrets in what the agent told its model
}

func (t *telling) wrong(format string, args ...any) {
	t.wrongs = append(t.wrongs, fmt.Errorf(format, args...))
}

// play plays the story once and returns what each step came to. An error means
// that it did not come out as it must.
func play(ctx context.Context, opts options, out io.Writer) (_ tell.Summary, err error) {
	rules, walls, err := opts.rules()
	if err != nil {
		return tell.Summary{}, err
	}
	h, err := newHost(ctx, opts, rules)
	if err != nil {
		return tell.Summary{}, err
	}
	defer func() { err = errors.Join(err, h.Close(h.log)) }()
	t := &telling{host: h, show: tell.NewPrinter(out, opts.json), at: 1, learned: map[string]string{}, seen: map[string][]tell.Line{}, ended: map[uint64]string{}}
	traffic, layers, err := t.session(ctx, walls)
	if err != nil {
		return tell.Summary{}, err
	}
	s, err := t.finish(ctx, traffic)
	if err != nil {
		return s, err
	}
	s.Layers = layers
	t.show.Close(s)
	return s, errors.Join(t.wrongs...)
}

// session runs the agent in its own session, and listens to its network.
func (t *telling) session(ctx context.Context, walls []byte) (traffic outside.Traffic, layers []string, err error) {
	kind := t.opts.kind()
	more, err := sandbox.LoadPolicy("sandbox.yaml", walls)
	if err != nil {
		return traffic, nil, err
	}
	policy, err := kind.policy(more, t.opts.agents, t.opts.servers)
	if err != nil {
		return traffic, nil, err
	}
	actor, err := t.registry.Actor(agentName)
	if err != nil {
		return traffic, nil, err
	}
	ctx, stop, err := t.registry.Context(ctx, actor)
	if err != nil {
		return traffic, nil, err
	}
	defer stop()
	if err := t.startModel(ctx, &obedient{t: t, script: script(kind, t.opts.node(), t.arrive)}); err != nil {
		return traffic, nil, err
	}
	box, err := sandbox.Start(ctx, policy, actor, t.log, &sandbox.Options{Engine: t.engine})
	if err != nil {
		return traffic, nil, err
	}
	defer box.Close()
	for _, layer := range box.Report().Layers {
		layers = append(layers, string(layer))
	}
	err = errors.Join(box.Handle("tools.local", t.gateway), box.Handle("inference.local", t.router))
	if t.opts.without == "egress-list" {
		err = errors.Join(err, box.Handle("example.com", t.world.collect))
	}
	if err != nil {
		return traffic, layers, err
	}
	rooms, err := outside.Rooms()
	if err != nil {
		return traffic, layers, err
	}
	if len(rooms) != 1 {
		return traffic, layers, fmt.Errorf("%d sessions run, and there should be the agent's alone", len(rooms))
	}
	var listening *outside.Capture
	for _, pids := range rooms {
		if listening, err = outside.Listen(pids[0], t.secrets()); err != nil {
			return traffic, layers, err
		}
	}
	t.look = t.searchMemory
	t.show.Say("%s runs in a sandbox of %d layers. Its orders are in the pull request.\n", t.opts.agent, len(layers))
	err = t.runAgent(ctx, box, kind)
	traffic, stopErr := listening.Stop()
	return traffic, layers, errors.Join(err, stopErr, box.Close())
}

func (t *telling) runAgent(ctx context.Context, box *sandbox.Session, kind agentKind) error {
	write := func(name, text string) error {
		cmd := box.Command(ctx, "sh", "-c", `mkdir -p "$(dirname "$0")" && cat >"$0"`, name)
		cmd.Stdin = strings.NewReader(text)
		return cmd.Run()
	}
	if err := write("roadmap.txt", "From roadmap.txt: "+marker+"\n"); err != nil {
		return err
	}
	for name, text := range kind.files {
		if err := write(name, text); err != nil {
			return err
		}
	}
	command := kind.command(t.opts.agents)
	cmd := box.Command(ctx, command[0], command[1:]...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("the agent failed: %w\n%s", err, said.Bytes())
	}
	if !strings.Contains(said.String(), "All done.") {
		t.wrong("the agent did not come to its end:\n%s", said.Bytes())
	}
	return nil
}

// An obedient is the model's backend: a script, behind the vendor's key check.
type obedient struct {
	t      *telling
	script *inferencetest.Script
}

func (o *obedient) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.script.Key = o.t.tokens["model"]
	o.script.ServeHTTP(w, r)
}

// arrive is told that the agent has come to a step, and what it got to know by
// the one before.
func (t *telling) arrive(n int, results []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n != t.step+1 {
		return // asked again
	}
	name := story()[t.step].name
	t.learned[name] = strings.Join(results, "\n")
	t.catchUp(name)
	if t.step++; t.step == len(story()) && t.look != nil {
		t.look()
	}
}

// catchUp shows every decision that went on record since the last time.
func (t *telling) catchUp(step string) {
	for last := t.log.Size(); t.at <= last; {
		for rec, err := range t.log.Follow(context.Background(), t.at) {
			if err != nil {
				t.wrong("the log: %w", err)
				return
			}
			t.at = rec.Seq + 1
			if rec.Outcome != nil && rec.Outcome.Status != audit.StatusOK {
				t.ended[rec.Call] = rec.Outcome.ErrorCode
			}
			if l, ok := tell.LineOf(step, rec); ok {
				t.seen[step] = append(t.seen[step], l)
				t.show.Decision(l, says(step, l))
			}
			if t.at > last {
				break
			}
		}
	}
}

func says(step string, l tell.Line) string {
	for _, s := range story() {
		if s.name == step && (l.Action == s.tool || s.tool == "" && l.Decision == string(audit.Deny)) {
			return s.says
		}
	}
	return l.Action + " " + l.Resource
}

func (t *telling) secrets() []string {
	var all []string
	for _, token := range t.tokens {
		all = append(all, token)
	}
	return all
}

// secretsIn counts the host's secrets in a text, in any encoding that is known.
func (t *telling) secretsIn(text string) int {
	r := t.vault.Scrubber().Reader(strings.NewReader(text))
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.wrong("search: %w", err)
	}
	return len(r.Found().Names())
}

// searchMemory looks through the memory of every process of every session,
// while the agent and the servers live.
func (t *telling) searchMemory() {
	rooms, err := outside.Rooms()
	if err != nil {
		t.wrong("search: %w", err)
	}
	for _, pids := range rooms {
		for i, pid := range pids {
			found, read, err := outside.SearchMemory(pid, t.secrets())
			switch {
			case errors.Is(err, fs.ErrNotExist):
				continue // it has ended
			case errors.Is(err, fs.ErrPermission) && i == 0 && os.Getuid() != 0:
				t.memory.Unread++
				continue
			}
			marked, _, again := outside.SearchMemory(pid, []string{marker})
			if err = errors.Join(err, again); err != nil {
				comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
				t.wrong("the memory of process %d (%s): %w", pid, bytes.TrimSpace(comm), err)
				continue
			}
			t.memory.Processes++
			t.memory.Bytes += read
			t.memory.Secrets += found
			t.memory.Marked += marked
		}
	}
}

// finish holds what was seen against the story, closes the log and verifies it.
func (t *telling) finish(ctx context.Context, traffic outside.Traffic) (tell.Summary, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.catchUp("end")
	if t.step != len(story()) {
		t.wrong("the agent came to step %d of %d", t.step, len(story()))
	}
	key := t.log.VerifierKey()
	if err := t.Close(t.log); err != nil {
		return tell.Summary{}, err
	}
	s, failure, err := t.show.Audit(ctx, tell.Evidence{Log: filepath.Join(t.dir, "log"), Anchor: t.anchor, Key: key,
		Report: filepath.Join(t.dir, "report.html"), Title: "The poisoned pull request"})
	if failure != nil {
		t.wrong("the log does not verify: %w", failure)
	}
	e := evidence{Journal: t.world.lines(), Refused: t.world.refused, Network: traffic, Memory: t.memory}
	for _, text := range t.learned {
		e.Learned += t.secretsIn(text)
	}
	s.Secrets, s.Seen, s.Steps = max(e.Learned, e.Memory.Secrets, traffic.Secrets), e, t.compare()
	if t.opts.without == "" {
		t.judge(e)
	}
	return s, err
}

// compare says what each step came to, and what is not as the story has it.
func (t *telling) compare() (steps []tell.Step) {
	for _, s := range story() {
		r := tell.Step{Name: s.name, Says: s.says, Happened: t.world.done(s.outside...)}
		if s.learns {
			r.Happened = t.secretsIn(t.learned[s.name]) > 0
		}
		for _, l := range t.seen[s.name] {
			why := l.Reason
			switch {
			case l.Decision == string(audit.Allow):
				why = t.ended[l.Record] // policy let it pass, and then something else did not
			case !strings.HasPrefix(why, s.cause):
				why = strings.Join(l.Policies, " ")
			}
			if s.cause != "" && strings.HasPrefix(why, s.cause) {
				r.Held = why
			}
		}
		if s.learns && !r.Happened {
			r.Held = s.guard
		}
		steps = append(steps, r)
		bad, removed := s.order != "", s.guard != "" && s.guard == t.opts.without
		switch {
		case !bad && !r.Happened:
			t.wrong("step %s: what the user asked for did not happen", s.name)
		case bad && r.Happened && !removed:
			t.wrong("step %s: %s: it happened", s.name, s.says)
		case bad && !r.Happened && removed:
			t.wrong("step %s: without %s it should happen, or the guard proves nothing", s.name, s.guard)
		case bad && !removed && r.Held == "":
			t.wrong("step %s: nothing on record says that %s held it: %v", s.name, s.cause, t.seen[s.name])
		}
	}
	return steps
}

// judge holds the evidence from outside against what must be.
func (t *telling) judge(e evidence) {
	if got := []string{"lo"}; !slices.Equal(e.Network.Interfaces, got) {
		t.wrong("the session has the interfaces %v", e.Network.Interfaces)
	}
	if e.Network.Packets == 0 {
		t.wrong("no packet was seen in the session")
	}
	if e.Network.Secrets > 0 || e.Memory.Secrets > 0 || e.Learned > 0 {
		t.wrong("secrets were seen: %d in packets, %d in memory, %d by the agent", e.Network.Secrets, e.Memory.Secrets, e.Learned)
	}
	if e.Memory.Marked == 0 || e.Memory.Processes < 3 {
		t.wrong("the search of memory did not find what is there: %+v", e.Memory)
	}
	if e.Refused > 0 {
		t.wrong("vendors refused %d requests", e.Refused)
	}
}
