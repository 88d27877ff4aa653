package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/twinward-dev/twinward/examples/internal/outside"
	"github.com/twinward-dev/twinward/examples/internal/tell"
)

// A night is one run of the story.
type night struct {
	opts    options
	dir     string
	world   *world
	closed  bool // the world
	office  *office
	cfg     hostConfig
	machine *machine
	auditor *auditor
	spaces  map[string]string // workspaces, by agent
	show    *tell.Printer
	walls   []string
	journal []entry // of the vendors, when the power went
	phases  []phase
	ends    map[string]time.Time // when somebody ended an agent
	seen    evidence
	steps   []tell.Step
	wrongs  []error
}

// A phase of the night begins at a time.
type phase struct {
	name string
	from time.Time
}

// evidence is what was seen from outside, beside the log.
type evidence struct {
	Requests map[string]int `json:"requests"`       // that reached the vendors
	Refused  int            `json:"refused_tokens"` // of them, with a token that the vendor had withdrawn
	Answered int            `json:"answered"`       // calls that the agents have noted as answered
	Reloads  int            `json:"reloads"`
	Rotated  int            `json:"rotations"`
	Kill     killing        `json:"kill"`
	Torn     int64          `json:"torn_bytes"` // at the end of the log, when the power had gone
	Open     []string       `json:"open"`       // calls that were under way then
	Rows     int            `json:"rows"`
	NoChain  int            `json:"rows_without_chain"`
	Memory   memorySeen     `json:"memory"` // of the agents
}

func (n *night) wrong(format string, args ...any) {
	n.wrongs = append(n.wrongs, fmt.Errorf(format, args...))
}

func (n *night) begin(name, format string, args ...any) {
	n.phases = append(n.phases, phase{name, time.Now()})
	n.show.Say(format, args...)
}

// phaseAt names the phase of a time.
func (n *night) phaseAt(t time.Time) string {
	name := "set-up"
	for _, p := range n.phases {
		if !t.Before(p.from) {
			name = p.name
		}
	}
	return name
}

// play plays the story once. An error means that it did not come out as it must.
func play(ctx context.Context, opts options, out io.Writer) (s tell.Summary, err error) {
	n := &night{opts: opts, dir: opts.dir, ends: map[string]time.Time{}, show: tell.NewPrinter(out, opts.json)}
	if n.dir == "" {
		if n.dir, err = os.MkdirTemp("", "twinward-incident-"); err != nil {
			return s, err
		}
	}
	if err := os.Chmod(n.dir, 0o711); err != nil { // the auditor's folder is in it
		return s, err
	}
	if err := n.setUp(ctx); err != nil {
		return s, errors.Join(err, n.tearDown())
	}
	for _, act := range []func(context.Context) error{n.load, n.kill, n.powerCut, n.comeBack, n.rewriteLog} {
		if err := act(ctx); err != nil {
			return s, errors.Join(errors.Join(n.wrongs...), err, n.tearDown())
		}
	}
	if err := n.tearDown(); err != nil {
		return s, err
	}
	if s, err = n.audit(ctx); err != nil {
		return s, errors.Join(errors.Join(n.wrongs...), err)
	}
	n.show.Close(s)
	return s, errors.Join(n.wrongs...)
}

// setUp makes the world, the office and its vault, the host, and the auditor, who
// pins the keys of both logs.
func (n *night) setUp(ctx context.Context) (err error) {
	bin := n.opts.bin
	if bin == "" {
		bin = filepath.Join(n.dir, "bin")
		if err := buildCommands(ctx, bin); err != nil {
			return err
		}
	}
	host := filepath.Join(n.dir, "host")
	if err := os.Mkdir(host, 0o700); err != nil {
		return err
	}
	if n.world, err = newWorld(filepath.Join(n.dir, "forge")); err != nil {
		return err
	}
	n.office = &office{bin: bin, host: host, log: filepath.Join(n.dir, "office", "log"), db: n.opts.db}
	n.show.Say("The operators make a vault, put each vendor's token into it and register two agents.")
	if err := n.office.furnish(ctx, n.world); err != nil {
		return err
	}
	n.cfg = hostConfig{Dir: host, DB: n.opts.db, Vendors: map[string]string{}}
	for _, vendor := range vendors {
		n.cfg.Vendors[vendor] = n.world.url(vendor)
	}
	var ready word
	if n.machine, ready, err = boot(ctx, "host", n.cfg, n.cfg.Dir); err != nil {
		return err
	}
	n.walls, n.spaces = ready.Wall, ready.Paths
	if n.auditor, err = newAuditor(filepath.Join(n.dir, "auditor"), bin); err != nil {
		return err
	}
	n.auditor.keys["host"] = ready.Key
	n.auditor.keys["office"], err = n.office.key()
	return err
}

// tearDown ends what runs. It may be called at any time, and twice.
func (n *night) tearDown() (err error) {
	if n.machine != nil {
		err = n.machine.cutPower()
		n.machine = nil
	}
	if n.world != nil && !n.closed {
		n.world.close()
		n.closed = true
	}
	return err
}

// work waits until each of the agents has had so many more answers from each
// vendor.
func (n *night) work(ctx context.Context, more int, agents ...string) error {
	answered := func(name, vendor string) int {
		return len(n.world.entries(func(e entry) bool {
			return e.agent == name && e.vendor == vendor && !e.held && e.token > 0 && !e.ended.IsZero()
		}))
	}
	for _, name := range agents {
		for _, vendor := range vendors {
			want := answered(name, vendor) + more
			if err := n.world.await(ctx, fmt.Sprintf("%s works with %s", name, vendor), func() bool { return answered(name, vendor) >= want }); err != nil {
				return errors.Join(err, errors.New(n.machine.stderr.String()))
			}
		}
	}
	return nil
}

// load has both agents work while policies are reloaded and secrets rotated.
func (n *night) load(ctx context.Context) error {
	n.begin("load", "Two agents work in sandboxes of %d layers. Policies are reloaded and secrets rotated meanwhile.", len(n.walls))
	if err := n.work(ctx, 3, agentNames...); err != nil {
		return err
	}
	for round := range n.opts.rounds {
		if _, err := n.machine.ask(ctx, fmt.Sprintf("reload %d", round+1)); err != nil {
			return err
		}
		n.seen.Reloads++
		for _, vendor := range vendors {
			if err := n.office.rotate(ctx, n.world, vendor, round+2); err != nil {
				return err
			}
			n.seen.Rotated++
		}
		if err := n.work(ctx, 3, agentNames...); err != nil {
			return err
		}
	}
	return n.auditor.anchor(ctx, "host", filepath.Join(n.office.host, "log"))
}

// powerCut takes the host's power under load, after the auditor has fetched its
// log once more, and keeps what is on its disk then.
func (n *night) powerCut(ctx context.Context) error {
	if err := n.auditor.anchor(ctx, "host", filepath.Join(n.office.host, "log")); err != nil {
		return err
	}
	if err := n.auditor.anchor(ctx, "office", n.office.log); err != nil {
		return err
	}
	if err := n.work(ctx, 3, agentNames[1]); err != nil {
		return err
	}
	n.begin("power", "The power goes: the host's process is killed, and what its disk had not synced is lost.")
	n.ends[agentNames[1]] = time.Now()
	if err := n.machine.cutPower(); err != nil {
		return err
	}
	n.machine = nil
	if err := n.empty(ctx); err != nil {
		return err
	}
	n.journal = n.world.entries(func(entry) bool { return true })
	return errors.Join(n.auditor.take(filepath.Join(n.office.host, "log"), "backup"), n.auditor.take(n.office.log, "office"))
}

// empty waits until no process of any session is left.
func (n *night) empty(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		rooms, err := outside.Rooms()
		if err != nil || len(rooms) == 0 {
			return err
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("processes have outlived their host: %v", rooms)
		}
	}
}

// rewriteLog is root on the host, who rewrites the log in several ways, each
// signed with the log's own key; the first one stays. The auditor looks at each.
func (n *night) rewriteLog(ctx context.Context) error {
	n.begin("root", "Root on the host rewrites the log, and signs it with the log's own key.")
	log, key := filepath.Join(n.office.host, "log"), filepath.Join(n.office.host, "log.key")
	clean, err := n.auditor.verify(ctx, "host", "backup", true)
	if err != nil {
		return err
	}
	for _, f := range append(forgeries(clean.Anchored), late(clean.Anchored)) {
		made := filepath.Join(n.dir, "forged", f.name)
		if err := errors.Join(forge(log, key, made, f), n.auditor.take(made, "given")); err != nil {
			return err
		}
		without, err := n.auditor.verify(ctx, "host", "given", false)
		if err != nil {
			return err
		}
		with, err := n.auditor.verify(ctx, "host", "given", true)
		if err != nil {
			return err
		}
		if !without.Verified {
			n.wrong("%s: without a checkpoint kept elsewhere it should pass, or the checkpoint proves nothing: %s", f.name, without.Error)
		}
		if with.Verified != (f.name == "late") {
			n.wrong("%s: root %s, and the auditor says %q", f.name, f.says, with.Error)
		}
		n.steps = append(n.steps, tell.Step{Name: "root: " + f.name, Says: f.says, Held: with.Error, Happened: with.Verified})
	}
	// What stands on the host from now on.
	data, err := os.ReadFile(filepath.Join(n.dir, "forged", "word", segment))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(log, segment), data, 0o600)
}

// audit is the second machine: what the host has to show, and what is true.
func (n *night) audit(ctx context.Context) (s tell.Summary, err error) {
	if err := n.auditor.take(filepath.Join(n.office.host, "log"), "given"); err != nil {
		return s, err
	}
	given, err := n.auditor.verify(ctx, "host", "given", true)
	if err != nil {
		return s, err
	}
	if given.Verified {
		n.wrong("the log of the host verifies, and was rewritten")
	}
	n.show.Say("The auditor, of what the host shows: %s", given.Error)
	kept, err := n.auditor.verify(ctx, "host", "backup", true)
	if err != nil {
		return s, err
	}
	if !kept.Verified {
		n.wrong("the log that the power left does not verify: %s", kept.Error)
	}
	n.seen.Torn = kept.Torn
	if err := n.settle(ctx, kept); err != nil {
		return s, err
	}
	q, err := n.auditor.report(ctx, "report.html", time.Now().UTC(), map[string]string{"host": "backup", "office": "office"})
	if err != nil {
		return s, err
	}
	n.quarter(q, kept)
	s = tell.Summary{Records: kept.Records, Verified: kept.Verified, Root: kept.Root, Layers: n.walls,
		Log: n.auditor.path("backup"), Anchor: n.auditor.path("host.anchor"), Key: n.auditor.keys["host"],
		Report: n.auditor.path("report.html"), Secrets: n.seen.Memory.Secrets, Steps: n.steps, Seen: n.seen}
	n.show.Tally(&s)
	return s, nil
}

// settle holds the accounts of the night against each other.
func (n *night) settle(ctx context.Context, v verdict) error {
	a, err := readAccounts(ctx, os.DirFS(n.auditor.path("backup")), 0, n.phaseAt)
	if err != nil {
		return err
	}
	for _, l := range a.lines {
		n.show.Count(l)
	}
	notes := map[string]noted{}
	for _, name := range agentNames {
		if err := readNotes(filepath.Join(n.spaces[name], "notes"), notes); err != nil {
			return err
		}
	}
	for _, note := range notes {
		if note.said == "ok" {
			n.seen.Answered++
		}
	}
	n.seen.Requests = map[string]int{}
	for _, e := range n.journal {
		n.seen.Requests[e.vendor]++
		if e.token == 0 {
			n.seen.Refused++
		}
	}
	n.wrongs = append(n.wrongs, a.compare(n.journal, notes, n.ends)...)
	if open := a.open(); !slices.Equal(open, v.Open) {
		n.wrong("open are the calls %v, and the auditor says %v", open, v.Open)
	}
	for _, e := range n.journal { // what the vendors were holding when the power went
		if e.held && e.agent == agentNames[1] && (len(a.traces[e.trace]) != 1 || a.traces[e.trace][0].outcome != nil) {
			n.wrong("call %s was under way when the power went, and is not open", e.trace)
		}
	}
	return nil
}
