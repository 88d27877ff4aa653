package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/examples/internal/tell"
)

// This file holds three accounts of the night against each other, which know each
// call by its trace: the vendors' journal, what the agents have noted, and the log.

// A call is an intent on record, and its outcome if there is one.
type call struct {
	seq      uint64
	agent    string
	action   string
	resource string
	trace    string
	outcome  *audit.Outcome
	ended    time.Time
}

// accounts are what is on record.
type accounts struct {
	calls  []*call
	traces map[string][]*call
	lines  []tell.Line
	denied []denial
}

// A denial is on record at a time.
type denial struct {
	tell.Line
	at    time.Time
	trace string
}

// readAccounts reads a log from a record on. Phase names what happened at a time.
func readAccounts(ctx context.Context, log fs.FS, from uint64, phase func(time.Time) string) (accounts, error) {
	a := accounts{traces: map[string][]*call{}}
	open := map[uint64]*call{}
	for rec, err := range audit.Scan(ctx, log, audit.Filter{Seq: from}) {
		if err != nil {
			return a, err
		}
		switch {
		case rec.Intent != nil:
			c := &call{seq: rec.Seq, agent: rec.Intent.Actor.Agent, action: rec.Intent.Action, resource: rec.Intent.Resource, trace: traceID(rec.Intent.Trace)}
			a.calls, open[rec.Seq] = append(a.calls, c), c
			if c.trace != "" {
				a.traces[c.trace] = append(a.traces[c.trace], c)
			}
		case rec.Outcome != nil && open[rec.Call] != nil:
			open[rec.Call].outcome, open[rec.Call].ended = rec.Outcome, rec.Time
		}
		if l, ok := tell.LineOf(phase(rec.Time), rec); ok {
			if a.lines = append(a.lines, l); l.Decision != string(audit.Allow) {
				d := denial{Line: l, at: rec.Time}
				if rec.Event != nil {
					d.trace = traceID(rec.Event.Trace)
				}
				a.denied = append(a.denied, d)
			}
		}
	}
	return a, nil
}

// open are the numbers of the calls without an outcome.
func (a accounts) open() (seqs []uint64) {
	for _, c := range a.calls {
		if c.outcome == nil {
			seqs = append(seqs, c.seq)
		}
	}
	return seqs
}

// A noted call is what an agent has written down of a call when it was over.
type noted struct {
	at   time.Time
	said string // "ok", or what went wrong
}

// compare says what does not agree. Until somebody has ended an agent nothing of
// it may fail or be denied; ends are when that was. The first agent is ended while its host
// lives, so that all its calls have an outcome.
func (a accounts) compare(journal []entry, notes map[string]noted, ends map[string]time.Time) (wrongs []error) {
	wrong := func(format string, args ...any) { wrongs = append(wrongs, fmt.Errorf(format, args...)) }
	reached, posts := map[string]int{}, map[string]int{}
	for _, e := range journal {
		if e.token == 0 {
			continue // it was refused, and came again with another token
		}
		reached[e.trace]++
		if e.text != "" {
			posts[e.text]++
		}
		switch known := len(a.traces[e.trace]); {
		case e.agent == "":
			wrong("a request reached %s that has no trace of an agent", e.vendor)
		case reached[e.trace] > known:
			wrong("request %s reached %s %d times, and %d intents are on record", e.trace, e.vendor, reached[e.trace], known)
		}
	}
	for text, n := range posts {
		if n != 1 {
			wrong("%q was posted %d times", text, n)
		}
	}
	// A person agrees to a call under the policies of then. Where others come into
	// force before the act, that does not count any more.
	overtaken := map[string]bool{}
	for _, d := range a.denied {
		if d.Reason == audit.GuardApproval && d.trace != "" {
			overtaken[d.trace] = true
		}
	}
	for trace, note := range notes {
		if note.said != "ok" {
			if note.at.Before(ends[agentOf(trace)]) && !overtaken[trace] {
				wrong("call %s failed for its agent: %s", trace, note.said)
			}
			continue
		}
		if len(a.traces[trace]) == 0 {
			wrong("call %s was answered, and is not on record", trace)
		}
		for _, c := range a.traces[trace] {
			if c.outcome == nil || c.outcome.Status != audit.StatusOK {
				wrong("call %s was answered, and record %d has the outcome %+v", trace, c.seq, c.outcome)
			}
		}
	}
	for _, c := range a.calls {
		switch {
		case c.outcome == nil && c.agent != agentNames[1]:
			wrong("record %d: a call of %s has no outcome", c.seq, c.agent)
		case c.outcome == nil:
		case c.outcome.Status == audit.StatusOK && c.trace != "" && reached[c.trace] == 0:
			wrong("record %d: %s is said to be done, and no vendor knows of it", c.seq, c.action)
		case c.outcome.Status != audit.StatusOK && c.ended.Before(ends[c.agent]):
			wrong("record %d: %s of %s: %s (%s)", c.seq, c.action, c.agent, c.outcome.Status, c.outcome.ErrorCode)
		}
	}
	for _, d := range a.denied {
		if !overtaken[d.trace] && (d.at.Before(ends[d.Agent]) || ends[d.Agent].IsZero()) {
			wrong("record %d: %s of %s was denied: %s", d.Record, d.Action, d.Agent, d.Reason)
		}
	}
	return wrongs
}

// readNotes reads what an agent has noted.
func readNotes(path string, into map[string]noted) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		words := strings.SplitN(lines.Text(), " ", 3)
		if len(words) != 3 {
			return errors.New("an agent has noted something odd")
		}
		nanos, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil {
			return err
		}
		into[words[0]] = noted{time.Unix(0, nanos), words[2]}
	}
	return lines.Err()
}
