package governance

import (
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"

	"github.com/twinward-dev/twinward/audit"
)

// A Change says how a request is decided differently than it was.
type Change string

// The changes that [Replay] and [Diff] tell apart, the gravest first.
const (
	// NowAllowed was denied.
	NowAllowed Change = "now-allowed"
	// NowDenied was allowed.
	NowDenied Change = "now-denied"
	// OtherDuties is allowed as before, with other obligations.
	OtherDuties Change = "other-obligations"
	// OtherCause is decided as before, for another cause: other permits, or
	// another reason for the denial.
	OtherCause Change = "other-cause"
	// Same is no change.
	Same Change = ""
)

// A Flip is a recorded request that is decided differently now.
type Flip struct {
	// Index is its place on the tape, counted from 1.
	Index   int
	Change  Change
	Request Request
	Was     audit.Decision
	Now     audit.Decision
}

// A ReplayReport says how a tape is decided by other policies.
type ReplayReport struct {
	// Hash is that of the snapshot that decided.
	Hash string
	// Decided counts requests; Allowed are those that are allowed now.
	Decided, Allowed int
	// Changed counts the requests of each change.
	Changed map[Change]int
	// Flips are the changed requests in the order of the tape, the first
	// MaxFlips of each change.
	Flips []Flip
}

// MaxFlips bounds the flips of each kind that a report holds.
const MaxFlips = 1000

// Flipped reports whether the effect of any request changed.
func (r ReplayReport) Flipped() bool { return r.Changed[NowAllowed]+r.Changed[NowDenied] > 0 }

// Replay decides every request of a tape again, as of the time when it was
// first decided, and reports what changed. It changes nothing and counts
// nothing. It stops at the first error of the tape or the context, and returns
// the report so far with it.
func Replay(ctx context.Context, s *Snapshot, tape iter.Seq2[Recorded, error]) (ReplayReport, error) {
	rep := ReplayReport{Hash: s.Hash(), Changed: map[Change]int{}}
	if s == nil {
		return rep, ErrNoSnapshot
	}
	for r, err := range tape {
		if err != nil {
			return rep, err
		}
		// Rates have room, and approvals count although they were given for other
		// policies: an engine saw to both.
		r.Request.counted, r.Request.beside = true, true
		d, err := s.Decide(ctx, r.Request)
		if ctx.Err() != nil {
			return rep, ctx.Err()
		}
		if err != nil && d.Reason != r.Decision.Reason {
			return rep, fmt.Errorf("governance: replay of request %d: %w", rep.Decided+1, err)
		}
		rep.Decided++
		if d.Allowed() {
			rep.Allowed++
		}
		c := compare(r.Decision, d.Decision)
		if c == Same {
			continue
		}
		if rep.Changed[c]++; rep.Changed[c] <= MaxFlips {
			rep.Flips = append(rep.Flips, Flip{rep.Decided, c, r.Request, r.Decision, d.Decision})
		}
	}
	return rep, nil
}

// compare tells what changed between two decisions on one request.
func compare(was, now audit.Decision) Change {
	switch {
	case now.Allowed() && !was.Allowed():
		return NowAllowed
	case was.Allowed() && !now.Allowed():
		return NowDenied
	case now.Allowed() && !slices.Equal(duties(was), duties(now)):
		return OtherDuties
	case cause(was.Reason) != cause(now.Reason), !slices.Equal(was.PolicyIDs(), now.PolicyIDs()):
		return OtherCause
	}
	return Same
}

// duties are what the obligations demand, whichever permit does.
func duties(d audit.Decision) []string {
	out := make([]string, len(d.Obligations))
	for i, o := range d.Obligations {
		out[i] = o.Kind + "=" + o.Value
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// cause is a reason without the hash of the policy that gave it.
func cause(reason string) string {
	if strings.HasPrefix(reason, audit.ReasonNotInProfile+":") {
		reason, _, _ = strings.Cut(reason, "@")
	}
	return reason
}

// WriteTo writes the report for people: a summary, and one line for each flip,
// without arguments.
func (r ReplayReport) WriteTo(w io.Writer) (int64, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%d requests decided again: %d allowed, %d denied\n", r.Decided, r.Allowed, r.Decided-r.Allowed)
	for _, c := range []Change{NowAllowed, NowDenied, OtherDuties, OtherCause} {
		if n := r.Changed[c]; n > 0 {
			fmt.Fprintf(&b, "%d %s\n", n, c)
		}
	}
	for _, f := range r.Flips {
		action, resource := f.Request.named()
		fmt.Fprintf(&b, "#%d %s: %s %s on %s: %s -> %s\n", f.Index, f.Change, f.Request.Actor.Agent, action, resource, outcome(f.Was), outcome(f.Now))
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

// outcome is a decision in a few words.
func outcome(d audit.Decision) string {
	if d.Allowed() {
		text := "allow (" + strings.Join(d.PolicyIDs(), ", ") + ")"
		if len(d.Obligations) > 0 {
			text += " with " + strings.Join(duties(d), ", ")
		}
		return text
	}
	return "deny (" + cause(d.Reason) + ")"
}
