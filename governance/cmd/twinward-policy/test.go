package main

import (
	"context"
	"fmt"
	"io"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance/policytest"
)

// tested is what test prints as JSON.
type tested struct {
	Cases         int                   `json:"cases"`
	Failures      []string              `json:"failures"`
	NeverDecisive []audit.Policy        `json:"never_decisive"`
	Mutants       int                   `json:"mutants,omitempty"`
	Killed        int                   `json:"killed,omitempty"`
	Survivors     []policytest.Survivor `json:"survivors,omitempty"`
}

func testCommand() command {
	fs := flags("test")
	asJSON := fs.Bool("json", false, "print JSON")
	mutate := fs.Bool("mutate", false, "change policies in small ways, and say which changes no case notices")
	least := fs.Float64("min", 0, "with -mutate: the percentage of changes that must be noticed")
	return command{fs, 1, 1, func(ctx context.Context, args []string, _ io.Reader, out io.Writer) error {
		b, s, err := compile(ctx, args[0])
		if err != nil {
			return err
		}
		cases, err := policytest.Cases(b)
		if err != nil {
			return err
		}
		r := policytest.Check(ctx, s, cases)
		t := tested{Cases: r.Cases, Failures: []string{}, NeverDecisive: r.NeverDecisive}
		for _, f := range r.Failures {
			t.Failures = append(t.Failures, f.String())
		}
		failed := len(t.Failures) > 0
		var score policytest.Score
		if *mutate && !failed {
			if score, err = policytest.Mutate(ctx, s, cases, nil); err != nil {
				return err
			}
			t.Mutants, t.Killed, t.Survivors = score.Mutants, score.Killed, score.Survivors
			failed = 100*score.Ratio() < *least
		}
		if *asJSON {
			if err := printJSON(out, t); err != nil {
				return err
			}
			return foundIf(failed)
		}
		for _, f := range t.Failures {
			fmt.Fprintln(out, f)
		}
		for _, p := range t.NeverDecisive {
			fmt.Fprintf(out, "%s: no case is about policy %q\n", p.Position, p.ID)
		}
		fmt.Fprintf(out, "%d cases, %d failed\n", t.Cases, len(t.Failures))
		if *mutate && len(t.Failures) == 0 {
			fmt.Fprint(out, score)
		}
		return foundIf(failed)
	}}
}
