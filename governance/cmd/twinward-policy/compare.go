package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/twinward-dev/twinward/governance"
)

func replayCommand() command {
	fs := flags("replay")
	asJSON := fs.Bool("json", false, "print JSON, with the requests")
	return command{fs, 2, 2, func(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
		_, s, err := compile(ctx, args[0])
		if err != nil {
			return err
		}
		recorded, done, err := tape(args[1], in)
		if err != nil {
			return err
		}
		defer done()
		rep, err := governance.Replay(ctx, s, recorded)
		if err != nil {
			return err
		}
		if *asJSON {
			err = printJSON(out, rep)
		} else {
			_, err = rep.WriteTo(out)
		}
		if err != nil {
			return err
		}
		return foundIf(rep.Flipped())
	}}
}

func diffCommand() command {
	fs := flags("diff")
	asJSON := fs.Bool("json", false, "print JSON")
	tries := fs.Int("tries", 0, "requests to try in all (default 500000)")
	seed := fs.Uint64("seed", 0, "another seed makes another search")
	return command{fs, 2, 2, func(ctx context.Context, args []string, _ io.Reader, out io.Writer) error {
		_, a, err := compile(ctx, args[0])
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		_, b, err := compile(ctx, args[1])
		if err != nil {
			return fmt.Errorf("%s: %w", args[1], err)
		}
		rep, err := governance.Diff(ctx, a, b, &governance.Universe{Max: *tries, Seed: *seed})
		if err != nil {
			return err
		}
		if *asJSON {
			err = printJSON(out, rep)
		} else {
			_, err = rep.WriteTo(out)
		}
		if err != nil {
			return err
		}
		return foundIf(len(rep.Witnesses) > 0)
	}}
}

// suggested is what suggest prints as JSON.
type suggested struct {
	Policies int                   `json:"policies"`
	Observed int                   `json:"observed"`
	Text     string                `json:"text"`
	Unused   []string              `json:"unused"`
	Diff     governance.DiffReport `json:"diff"`
}

func suggestCommand() command {
	fs := flags("suggest")
	asJSON := fs.Bool("json", false, "print JSON")
	values := fs.Int("values", 0, "how many values of an argument are listed one by one (default 8)")
	var free list
	fs.Var(&free, "free", "an argument to leave alone, <server>__<tool>/<argument> (repeatable)")
	return command{fs, 2, 2, func(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
		b, _, err := compile(ctx, args[0])
		if err != nil {
			return err
		}
		recorded, done, err := tape(args[1], in)
		if err != nil {
			return err
		}
		defer done()
		s, err := governance.Suggest(ctx, b, recorded, &governance.SuggestOptions{MaxValues: *values, Free: free})
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(out, suggested{s.Policies, s.Observed, s.Source.Text, s.Unused, s.Diff})
		}
		// The whole output is a policy file: what is to be said stands in comments.
		fmt.Fprint(out, s.Source.Text)
		fmt.Fprintf(out, "\n// All of the %d requests that were allowed still are, by these permits and the forbids of the bundle.\n", s.Observed)
		for _, u := range s.Unused {
			fmt.Fprintf(out, "// not used, and denied now: %s\n", u)
		}
		var text strings.Builder
		if _, err := s.Diff.WriteTo(&text); err != nil {
			return err
		}
		for line := range strings.Lines(text.String()) {
			fmt.Fprintf(out, "// %s", line)
		}
		return nil
	}}
}
