//go:build linux && (amd64 || arm64)

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// This file holds the accounts of one age of the host against each other, from a
// start to the power cut that ended it.

// settle reads the log from where the age began, and says what does not agree.
func (s *soak) settle(ctx context.Context) (wrongs []error, err error) {
	dir := filepath.Join(s.cfg.Dir, "log")
	a, err := readAccounts(ctx, os.DirFS(dir), s.first, func(time.Time) string { return "" })
	if err != nil {
		return nil, err
	}
	v, err := audit.Verify(ctx, os.DirFS(dir), &audit.VerifyOptions{Key: s.key, Anchors: s.anchors})
	if err != nil {
		return nil, fmt.Errorf("the log does not verify: %w", err)
	}
	journal, err := s.world.take(s.journal())
	if err != nil {
		return nil, err
	}
	b := &books{s: s, accounts: a, journal: journal, remarks: s.notes.take(), orderly: s.faults[len(s.faults)-1].name == "shutdowns"}
	b.reached()
	b.noted()
	b.recorded()
	if len(b.wrongs) > 0 {
		for _, f := range s.faults {
			b.wrongs = append(b.wrongs, fmt.Errorf("%s to %s: %s of %v", f.from.Format(time.StampMicro), f.to.Format(time.StampMicro), f.name, f.agents))
		}
		for _, d := range a.denied {
			b.wrongs = append(b.wrongs, fmt.Errorf("%s: record %d: %s %s of %s was denied: %s", d.at.Local().Format(time.StampMicro), d.Record, d.Action, d.Resource, d.Agent, d.Reason))
		}
	}
	s.records, s.requests, s.denials = int(v.Records), s.requests+len(journal), s.denials+len(a.denied)
	s.faults = nil
	return b.wrongs, nil
}

var named = regexp.MustCompile(`[0-9a-f]{32}|decision [0-9a-z]+|198\.18\.[0-9.:]+|soak-[0-9]+`)

type books struct {
	s       *soak
	journal []entry
	remarks []remark
	accounts
	orderly bool           // the age has ended in good order
	at      map[string]int // requests of a trace that reached a vendor
	wrongs  []error
}

func (b *books) wrong(format string, args ...any) {
	if len(b.wrongs) < 20 {
		b.wrongs = append(b.wrongs, fmt.Errorf(format, args...))
	}
}

// reached checks that each request that reached a vendor was announced, once for
// each time.
func (b *books) reached() {
	b.at = map[string]int{}
	posts, web, connects := map[string]int{}, map[string]int{}, map[string]int{}
	for _, c := range b.calls {
		if c.action == "connect" && strings.Contains(c.resource, "example.com") && !strings.Contains(c.resource, gitHost) {
			connects[c.agent]++
		}
	}
	for _, e := range b.journal {
		if e.token == 0 {
			b.s.unauthorised++ // it was refused, and came again with another token
			continue
		}
		if e.get && b.at[e.trace] > 0 && b.dying(e) {
			continue
		}
		name := soakName(numberOf(e.trace))
		b.at[e.trace]++
		if e.text != "" {
			posts[e.text]++
		}
		if e.vendor == "web" { // whose traces are not the host's to know
			web[name]++
			continue
		}
		if known := len(b.traces[e.trace]); b.at[e.trace] > known {
			b.wrong("request %s reached %s %d times, and %d intents are on record", e.trace, e.vendor, b.at[e.trace], known)
		}
	}
	for name, n := range web {
		if n > connects[name] {
			b.wrong("%d requests of %s reached the web, and %d connections are on record", n, name, connects[name])
		}
	}
	for text, n := range posts {
		if n != 1 {
			b.wrong("%q was posted %d times", text, n)
		}
	}
}

// dying reports whether a request came while its vendor died. A GET may then come
// twice for one intent: net/http asks again when a connection that was used before
// breaks without an answer, as it may for methods that change nothing (RFC 9110,
// section 9.2.2).
func (b *books) dying(e entry) bool {
	return slices.ContainsFunc(b.s.faults, func(f *fault) bool {
		return f.name == "death of "+e.vendor && !e.started.Before(f.from) && (f.to.IsZero() || !e.started.After(f.to))
	})
}

// noted checks that what was answered is on record as done, and that what failed
// had a reason to.
func (b *books) noted() {
	commands := map[string]int{}
	for _, r := range b.remarks {
		if r.kind == "command" && r.said == "ok" {
			commands[soakName(r.agent())]++
		}
		switch {
		case r.said == "ok":
			b.s.answered[r.kind]++
			b.answered(r)
		case r.said == "stopped":
		default:
			b.failed(r)
		}
	}
	done := map[string]int{}
	for _, c := range b.calls {
		if c.action == "exec" && c.outcome != nil && c.outcome.Status == audit.StatusOK {
			done[c.agent]++
		}
	}
	for name, n := range commands {
		if n > done[name] {
			b.wrong("%d commands of %s were done, and %d are on record as done", n, name, done[name])
		}
	}
}

func (b *books) answered(r remark) {
	switch kinds[r.kind] {
	case "":
		return
	case "web":
		if b.at[r.trace] != 1 {
			b.wrong("a page was had, and %d requests with the trace %s have reached the web", b.at[r.trace], r.trace)
		}
		return
	}
	if len(b.traces[r.trace]) == 0 || b.at[r.trace] == 0 {
		b.wrong("%s %s was answered, and has %d intents and %d requests", r.kind, r.trace, len(b.traces[r.trace]), b.at[r.trace])
	}
	for _, c := range b.traces[r.trace] {
		if c.outcome == nil || c.outcome.Status != audit.StatusOK {
			b.wrong("%s %s was answered, and record %d has the outcome %+v", r.kind, r.trace, c.seq, c.outcome)
		}
	}
}

func (b *books) failed(r remark) {
	var codes []string
	for _, c := range b.traces[r.trace] {
		if c.outcome != nil && c.outcome.Status != audit.StatusOK {
			codes = append(codes, c.outcome.ErrorCode)
		}
	}
	for _, f := range slices.Backward(b.s.faults) {
		if f.excuses(r, codes) {
			b.s.failed[f.name]++
			b.s.sayings[fmt.Sprintf("%s: %s: %v: %s", f.name, r.kind, codes, short(r.said))]++
			return
		}
	}
	b.wrong("%s %s of %s failed from %s to %s for no reason: %s, on record %v", r.kind, r.trace, soakName(r.agent()),
		r.began.Format(time.StampMicro), r.ended.Format(time.StampMicro), r.said, codes)
}

// recorded checks that each call on record has an outcome, but for what was under
// way when the power went, and that somebody knows of it.
func (b *books) recorded() {
	known := map[string]string{}
	for _, r := range b.remarks {
		known[r.trace] = r.kind + " " + r.said
	}
	open, unknown := map[string]int{}, map[life]map[string]bool{}
	for _, c := range b.calls {
		if c.outcome == nil {
			if open[c.agent+" "+c.action]++; b.orderly {
				b.wrong("record %d: %s of %s has no outcome; its trace is %q, %d requests reached a vendor, and it has noted %q", c.seq, c.action, c.agent, c.trace, b.at[c.trace], known[c.trace])
			}
		}
		if c.outcome != nil && c.outcome.Status == audit.StatusOK && c.trace != "" && b.at[c.trace] == 0 {
			b.wrong("record %d: %s is said to be done, and no vendor knows of it", c.seq, c.action)
		}
		if c.trace == "" || known[c.trace] != "" || b.s.knocked[c.trace] {
			continue
		}
		l := life{numberOf(c.trace), lifeOf(c.trace)}
		if unknown[l] == nil {
			unknown[l] = map[string]bool{}
		}
		unknown[l][c.trace] = true
	}
	for l, traces := range unknown {
		if most := len(kinds); !b.s.killed[l] || len(traces) > most {
			b.wrong("%d calls of %s, life %d, are on record, and it has not noted them", len(traces), soakName(l.agent), l.number)
		}
	}
	for what, n := range open {
		b.s.open += n
		if most := 2 * len(kinds); n > most {
			b.wrong("%d calls of one kind have no outcome: %s", n, what)
		}
	}
}

// short is what is the same in all sayings of a kind.
func short(s string) string {
	s = named.ReplaceAllString(s, "…")
	if len(s) > 160 {
		s = s[:160]
	}
	return s
}
