//go:build linux && (amd64 || arm64)

package main

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// The parts of the soak: each would notice what it is there to notice.

// soakTrace is the trace of call n in the first life of an agent.
func soakTrace(agent, n int) string { return fmt.Sprintf("%08x%024x", agent, 1<<32+n) }

func TestSoakTraces(t *testing.T) {
	assert.Equal(t, 7, numberOf(soakTrace(7, 3)))
	assert.Equal(t, 1, lifeOf(soakTrace(7, 3)))
	for _, s := range []string{"", "00", "zz"} {
		assert.Zero(t, numberOf(s))
		assert.Zero(t, lifeOf(s))
	}
}

// An age whose accounts agree is fine, and each way in which they may not is found.
func TestSoakBooks(t *testing.T) {
	now := time.Now()
	ok, broke := &audit.Outcome{Status: audit.StatusOK}, &audit.Outcome{Status: audit.StatusFailed, ErrorCode: "upstream-down"}
	// Call 1 is read, 2 is posted, 3 fails with the model, 4 is of the web, 5 is a
	// command, 6 is held until the agent stops, and 7 is under way when the age ends.
	honest := func() *books {
		s := &soak{
			killed: map[life]bool{{1, 1}: true}, knocked: map[string]bool{},
			answered: map[string]int{}, failed: map[string]int{}, sayings: map[string]int{},
			faults: []*fault{{name: "death of model", kinds: of(true, "model"), from: now.Add(-time.Minute), to: now, said: down, codes: broken}},
		}
		b := &books{s: s, accounts: accounts{traces: map[string][]*call{}}}
		for n, c := range []struct {
			kind, said, vendor, text, action, resource string
			outcome                                    *audit.Outcome
		}{
			{"read", "ok", "github", "", "github__get_pull_request", "", ok},
			{"post", "ok", "slack", "post", "slack__post_message", "", ok},
			{"talk", `"502 Bad Gateway"`, "", "", "invoke_model", "", broke},
			{"web", "ok", "web", "", "connect", `Host::"example.com"`, ok},
			{"command", "ok", "", "", "exec", "", ok},
			{"file-held", "stopped", "files", "", "files__follow", "", &audit.Outcome{Status: audit.StatusCancelled, ErrorCode: "cancelled"}},
			{"", "", "github", "", "github__get_pull_request", "", nil},
		} {
			trace := soakTrace(1, n+1)
			if c.kind != "" {
				b.remarks = append(b.remarks, remark{trace, c.kind, now.Add(-time.Second), now.Add(-time.Second), c.said})
			}
			if c.vendor != "" {
				b.journal = append(b.journal, entry{vendor: c.vendor, trace: trace, token: 1, text: c.text})
			}
			rec := &call{seq: uint64(n), agent: soakName(1), action: c.action, resource: c.resource, trace: trace, outcome: c.outcome}
			if b.calls = append(b.calls, rec); c.action == "connect" || c.action == "exec" {
				rec.trace = ""
				continue
			}
			b.traces[trace] = []*call{rec}
		}
		return b
	}
	again := func(b *books, e entry) { // while the first vendor dies
		e.vendor, e.trace, e.token = b.journal[0].vendor, b.journal[0].trace, 1
		b.journal = append(b.journal, e)
		b.s.faults = append(b.s.faults, &fault{name: "death of " + e.vendor, from: now.Add(-time.Minute), to: now})
	}
	for name, c := range map[string]struct {
		change func(*books)
		want   string
	}{
		"honest":                   {func(*books) {}, ""},
		"a request without intent": {func(b *books) { delete(b.traces, soakTrace(1, 7)) }, "reached github 1 times, and 0 intents"},
		"a request too many":       {func(b *books) { b.journal = append(b.journal, b.journal[0]) }, "2 times, and 1 intents"},
		"a GET that comes again as its vendor dies": {func(b *books) { again(b, entry{get: true, started: now.Add(-time.Second)}) }, ""},
		"a GET that comes again":                    {func(b *books) { again(b, entry{get: true, started: now.Add(time.Second)}) }, "2 times, and 1 intents"},
		"a POST that comes again as its vendor dies": {func(b *books) {
			again(b, entry{started: now.Add(-time.Second)})
		}, "2 times, and 1 intents"},
		"a post that came twice":    {func(b *books) { b.journal[0].text = "post" }, "posted 2 times"},
		"a page without connection": {func(b *books) { b.calls[3].resource = "" }, "0 connections are on record"},
		"a page that was not asked for": {func(b *books) {
			b.journal[2].trace = soakTrace(1, 9)
		}, "0 requests with the trace"},
		"an answer without a request": {func(b *books) { b.journal = b.journal[1:] }, "has 1 intents and 0 requests"},
		"an answer without an outcome": {func(b *books) {
			b.calls[0].outcome = nil
		}, "has the outcome <nil>"},
		"a failure for no reason":         {func(b *books) { b.remarks[2].kind = "read" }, "for no reason"},
		"a failure before there was one":  {func(b *books) { b.s.faults[0].from = now }, "for no reason"},
		"a failure after it":              {func(b *books) { b.s.faults[0].to = now.Add(-time.Hour) }, "for no reason"},
		"a failure of somebody else":      {func(b *books) { b.s.faults[0].agents = []int{2} }, "for no reason"},
		"a failure that says another one": {func(b *books) { b.remarks[2].said = `"revoked"` }, "for no reason"},
		"a failure with another outcome": {func(b *books) {
			b.calls[2].outcome = &audit.Outcome{Status: audit.StatusFailed, ErrorCode: "policy"}
		}, "on record [policy]"},
		"a command without a record":     {func(b *books) { b.calls[4].action = "connect" }, "0 are on record as done"},
		"an invention":                   {func(b *books) { b.calls[6].outcome, b.journal = ok, b.journal[:4] }, "no vendor knows of it"},
		"a call that was not noted":      {func(b *books) { b.remarks = b.remarks[1:]; b.s.killed = nil }, "has not noted them"},
		"an open call of an orderly end": {func(b *books) { b.orderly = true }, "has no outcome"},
	} {
		b := honest()
		c.change(b)
		b.reached()
		b.noted()
		b.recorded()
		err := errors.Join(b.wrongs...)
		if c.want == "" {
			assert.NoError(t, err, name)
		} else if assert.Error(t, err, name) {
			assert.Contains(t, err.Error(), c.want, name)
		}
	}
}

// What is above what it was is found, each for itself.
func TestSoakFigures(t *testing.T) {
	was := figures{Heap: 8 << 20, Goroutines: 50, Descriptors: 50, Processes: 6, Mounts: 20}
	require.Empty(t, was.above(was))
	for _, more := range []figures{
		{Heap: 15 << 20}, {Goroutines: 75}, {Descriptors: 63}, {Processes: 7}, {Mounts: 21}, {Temporary: 1},
	} {
		assert.Len(t, more.above(was), 1, "%+v", more)
	}
}
