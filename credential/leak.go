package credential

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/twinward-dev/twinward/audit"
)

// A LeakPolicy says what happens when a secret is found in something that goes
// back towards the agent. That it is taken out and recorded happens always; the
// zero LeakPolicy does no more than that.
type LeakPolicy struct {
	// Block withholds the whole answer, instead of passing on the rest of it: the
	// agent gets a denial. Of a stream, what was sent before stays sent, and the
	// rest is cut off.
	Block bool
	// Act is called for each secret once its leak is on record, before the
	// answer goes on: to revoke it, to have it rotated, to wake somebody when
	// [Leak.Canary]. It may be called from many calls at once. An error or a panic
	// withholds the answer. Nil does nothing.
	Act func(ctx context.Context, l Leak) error
}

// A Leak is one secret that was found in one answer. It can be logged.
type Leak struct {
	Ref       Ref
	Encodings []string // see [Sight.Encoding]
	Count     int
	// Event is the record. Its actor is who would have got the secret, its
	// resource who sent it, and its Detail "surface" where in the answer it was.
	Event audit.Event
}

// Canary reports whether nobody uses this secret: see [Ref.Canary].
func (l Leak) Canary() bool { return l.Ref.Canary() }

// ErrLeak is returned when an answer is withheld because of a secret in it.
var ErrLeak = errors.New("credential: a secret was in the answer, so the answer is withheld")

// Report is what a door does with what it found: it records each secret, and
// does what p says. The record is made from at, which has Door, Action,
// Resource, Actor and Trace; surface is a word for the part of the answer that
// held the secrets. It goes on when ctx is done.
//
// On an error the answer must be withheld. It matches [ErrLeak] if p is the
// reason, and otherwise is the log's.
func (p LeakPolicy) Report(ctx context.Context, log audit.Recorder, at audit.Event, surface string, found Found) error {
	ctx = context.WithoutCancel(ctx)
	var errs []error
	for _, l := range found.leaks() {
		l.Event = at
		l.Event.Kind = audit.KindLeak
		if l.Canary() {
			l.Event.Kind = audit.KindCanary
		}
		l.Event.Detail = map[string]string{
			"credential": l.Ref.Name, "surface": surface,
			"encoding": strings.Join(l.Encodings, " "), "found": strconv.Itoa(l.Count),
		}
		if l.Ref.Version > 0 {
			l.Event.Detail["version"] = strconv.FormatUint(l.Ref.Version, 10)
		}
		if err := audit.OrRefuse(log).Append(ctx, l.Event); err != nil {
			errs = append(errs, err)
		}
		if p.Act != nil {
			if err := p.act(ctx, l); err != nil {
				errs = append(errs, fmt.Errorf("%w: %s: %w", ErrLeak, l.Ref, err))
			}
		}
	}
	if len(errs) == 0 && p.Block && len(found) > 0 {
		return ErrLeak
	}
	return errors.Join(errs...)
}

// act calls Act. Its panic withholds the answer, as an error does.
func (p LeakPolicy) act(ctx context.Context, l Leak) (err error) {
	defer func() {
		if recover() != nil { // what it says may hold a secret
			err = errors.New("the policy's Act has panicked")
		}
	}()
	return p.Act(ctx, l)
}

// leaks returns what was found of each version, in the order of names and
// versions.
func (f Found) leaks() (all []Leak) {
	for _, s := range f.sorted() {
		if n := len(all); n == 0 || all[n-1].Ref != s.Ref {
			all = append(all, Leak{Ref: s.Ref})
		}
		l := &all[len(all)-1]
		l.Count += f[s]
		if !slices.Contains(l.Encodings, s.Encoding) {
			l.Encodings = append(l.Encodings, s.Encoding)
		}
	}
	return all
}

// Checks returns what is noted in [audit.Outcome.Checks]:
// "scrubbed:<name>:<count>" for each name.
func (f Found) Checks() (checks []string) {
	names := f.Names()
	for _, s := range f.sorted() {
		if n, ok := names[s.Ref.Name]; ok {
			checks = append(checks, "scrubbed:"+s.Ref.Name+":"+strconv.Itoa(n))
			delete(names, s.Ref.Name)
		}
	}
	return checks
}
