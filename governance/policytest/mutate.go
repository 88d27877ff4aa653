package policytest

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// A Survivor is a change of a policy that no case notices.
type Survivor struct {
	Policy audit.Policy
	// Change says what was changed, such as "without: context.args.n < 5".
	Change string
}

// A Score says how many small changes of policies some case notices.
type Score struct {
	// Mutants counts the changes, Killed those that at least one case noticed.
	Mutants, Killed int
	// Survivors are the others. Some may be no change at all in effect, such as
	// where two policies permit the same thing.
	Survivors []Survivor
	// Left counts changes that were not tried because of MutateOptions.Max.
	Left int
}

// Ratio is Killed of Mutants, from 0 to 1; 1 when there is nothing to change.
func (s Score) Ratio() float64 {
	if s.Mutants == 0 {
		return 1
	}
	return float64(s.Killed) / float64(s.Mutants)
}

// String is the score in one line, and one line for each survivor.
func (s Score) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d changes noticed (%.0f %%)", s.Killed, s.Mutants, 100*s.Ratio())
	if s.Left > 0 {
		fmt.Fprintf(&b, ", %d not tried", s.Left)
	}
	b.WriteString("\n")
	for _, v := range s.Survivors {
		fmt.Fprintf(&b, "%s: nobody notices in policy %q: %s\n", v.Policy.Position, v.Policy.ID, v.Change)
	}
	return b.String()
}

// MutateOptions bounds [Mutate]. nil and the zero value are usable.
type MutateOptions struct {
	// Max is the number of changes to try; 0 is 5,000.
	Max int
}

// ErrCasesFail is returned by [Mutate] when cases fail before anything was
// changed.
var ErrCasesFail = errors.New("policytest: the cases must pass before changes are tried")

// Mutate changes the policies of a snapshot in small ways, one at a time, and
// runs the cases against each: see [governance.Snapshot.Mutants].
func Mutate(ctx context.Context, s *governance.Snapshot, cases []Case, opts *MutateOptions) (Score, error) {
	most := 5000
	if opts != nil && opts.Max > 0 {
		most = opts.Max
	}
	if r := Check(ctx, s, cases); r.Err() != nil {
		return Score{}, fmt.Errorf("%w:\n%w", ErrCasesFail, r.Err())
	}
	var score Score
	for m := range s.Mutants() {
		if err := ctx.Err(); err != nil {
			return score, err
		}
		if score.Mutants == most {
			score.Left++
			continue
		}
		score.Mutants++
		if noticed(ctx, m.Snapshot, cases) {
			score.Killed++
			continue
		}
		score.Survivors = append(score.Survivors, Survivor{m.Policy, m.Change})
	}
	return score, nil
}

func noticed(ctx context.Context, s *governance.Snapshot, cases []Case) bool {
	a := newAsker(s)
	for _, c := range cases {
		if _, problem := a.ask(ctx, c); problem != "" {
			return true
		}
	}
	return false
}
