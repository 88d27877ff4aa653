package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/twinward-dev/twinward/audit"
)

// parseWho reads the flag -subject: agent=A or user=U.
func parseWho(text string) (audit.Subject, error) {
	kind, name, _ := strings.Cut(text, "=")
	switch {
	case name == "":
	case kind == "agent":
		return audit.Subject{Agent: name}, nil
	case kind == "user":
		return audit.Subject{User: name}, nil
	}
	return audit.Subject{}, fmt.Errorf("%w: -subject is agent=NAME or user=NAME", errUsage)
}

// about reports whether a record says something about one agent or user: their
// acts, and what others did to or with them.
func about(s audit.Subject, r audit.Record) bool {
	if s.Covers(r) {
		return r.Outcome == nil
	}
	name := cmp.Or(s.Agent, s.User)
	if d := r.Decision(); d != nil && d.Approval != nil && d.Approval.By == name {
		return true
	}
	ev := r.Event
	if ev == nil {
		return false
	}
	if ev.Change != nil && ev.Change.By == name || ev.Resource == name || strings.HasSuffix(ev.Resource, `"`+name+`"`) {
		return true
	}
	for _, value := range ev.Detail {
		if value == name {
			return true
		}
	}
	return false
}

// writeSubject writes all that records say about a subject, outcomes with their
// calls, and their arguments if v is not nil.
func writeSubject(ctx context.Context, w io.Writer, s audit.Subject, v *audit.Values, records iter.Seq2[audit.Record, error]) error {
	calls := map[uint64]bool{}
	for r, err := range records {
		if err != nil {
			return err
		}
		if r.Outcome != nil {
			if !calls[r.Call] {
				continue
			}
			delete(calls, r.Call)
		} else if !about(s, r) {
			continue
		} else if r.Intent != nil {
			calls[r.Seq] = true
		}
		if err := printKnown(ctx, w, v, r, true); err != nil {
			return err
		}
	}
	return nil
}

// printKnown prints a record with its arguments, on one line.
func printKnown(ctx context.Context, w io.Writer, v *audit.Values, r audit.Record, asJSON bool) error {
	k, err := reveal(ctx, v, r)
	if err != nil {
		return err
	}
	text := line(r) + k.suffix()
	if asJSON {
		if text, err = k.text(); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintln(w, text)
	return err
}
