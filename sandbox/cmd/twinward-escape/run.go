//go:build linux && (amd64 || arm64)

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/twinward-dev/twinward/sandbox/internal/escape"
)

func probe() error { return escape.Serve(os.Stdout) }

func printRights() error { escape.PrintRights(); return nil }

// A result is what the corpus did in one peer.
type result struct {
	peer    peer
	found   map[string]escape.Finding
	missing error
}

func run(args []string) error {
	flags := flag.NewFlagSet("twinward-escape", flag.ContinueOnError)
	in := flags.String("in", "plain,twinward,twinward-vfork,twinward-strict,bwrap,bwrap-tight,srt", "sandboxes to compare, separated by commas")
	group := flags.String("group", "", "only the probes of one group: "+strings.Join(escape.Groups(), ", "))
	table := flags.Bool("table", false, "print what each probe tries and what stops it in twinward, instead of the comparison")
	verbose := flags.Bool("v", false, "also print the probes that nothing let through, and what each one saw")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var probes []escape.Probe
	var only []string
	for _, p := range escape.Probes() {
		if *group == "" || p.Group == *group {
			probes, only = append(probes, p), append(only, p.Name)
		}
	}
	if len(probes) == 0 {
		return fmt.Errorf("no group %q; there are %s", *group, strings.Join(escape.Groups(), ", "))
	}
	if *table {
		*in = "twinward"
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	t, undo, err := escape.Lay()
	if err != nil {
		return err
	}
	defer undo()
	var results []result
	for _, name := range strings.Split(*in, ",") {
		i := slices.IndexFunc(peers, func(p peer) bool { return p.name == name })
		if i < 0 {
			return fmt.Errorf("no sandbox %q", name)
		}
		r := result{peer: peers[i]}
		r.found, err = attack(ctx, peers[i], t, only)
		if r.missing = err; err != nil && !errors.Is(err, errMissing) {
			return fmt.Errorf("%s: %w", name, err)
		}
		results = append(results, r)
	}
	if *table {
		if results[0].missing != nil {
			return results[0].missing
		}
		fmt.Print(escape.Table(probes, results[0].found))
	} else {
		compare(os.Stdout, probes, results, *verbose)
	}
	for _, r := range results {
		if strings.HasPrefix(r.peer.name, "twinward") && slices.ContainsFunc(probes, func(p escape.Probe) bool { return r.found[p.Name].Open && p.Accepted == "" }) {
			return errOut
		}
	}
	return nil
}

// attack runs the corpus in one peer, with a workspace of its own.
func attack(ctx context.Context, p peer, t escape.Target, only []string) (map[string]escape.Finding, error) {
	work, err := os.MkdirTemp(t.Dir, p.name+"-")
	if err != nil {
		return nil, err
	}
	t.Work, t.WorkHost = work, work
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	done := make(chan error, 1)
	go func() {
		defer w.Close()
		err := p.run(ctx, t, only, w)
		if err != nil {
			_ = r.SetReadDeadline(time.Now()) // something inside may still hold the other end
		}
		done <- err
	}()
	found, readErr := escape.ReadFindings(io.LimitReader(r, 16<<20))
	if err := <-done; err != nil {
		return nil, err
	}
	if readErr != nil {
		return nil, fmt.Errorf("what the probes said: %w", readErr)
	}
	if len(found) != len(only) {
		return nil, fmt.Errorf("%d of %d probes reported", len(found), len(only))
	}
	return found, nil
}

// compare prints who let what through, then how much for each group.
func compare(w io.Writer, probes []escape.Probe, results []result, verbose bool) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	group := ""
	for _, p := range probes {
		open := slices.ContainsFunc(results, func(r result) bool { return r.found[p.Name].Open })
		if !open && !verbose {
			continue
		}
		if p.Group != group {
			group = p.Group
			fmt.Fprintf(tw, "\n%s", strings.ToUpper(group))
			for _, r := range results {
				fmt.Fprintf(tw, "\t%s", r.peer.name)
			}
			fmt.Fprintln(tw)
		}
		fmt.Fprint(tw, p.Name)
		for _, r := range results {
			fmt.Fprintf(tw, "\t%s", cell(r, p, verbose))
		}
		fmt.Fprintln(tw)
	}
	tw.Flush()

	fmt.Fprintf(w, "\nGot through, of all probes, as uid %d:\n", os.Geteuid())
	fmt.Fprint(tw, "group\tprobes")
	for _, r := range results {
		fmt.Fprintf(tw, "\t%s", r.peer.name)
	}
	fmt.Fprintln(tw)
	for _, g := range append(escape.Groups(), "all") {
		n := 0
		open := make([]int, len(results))
		for _, p := range probes {
			if p.Group != g && g != "all" {
				continue
			}
			n++
			for i, r := range results {
				if r.found[p.Name].Open {
					open[i]++
				}
			}
		}
		if n == 0 {
			continue
		}
		fmt.Fprintf(tw, "%s\t%d", g, n)
		for i, r := range results {
			if r.missing != nil {
				fmt.Fprint(tw, "\tmissing")
				continue
			}
			fmt.Fprintf(tw, "\t%d", open[i])
		}
		fmt.Fprintln(tw)
	}
	tw.Flush()
	for _, r := range results {
		switch {
		case r.missing != nil:
			fmt.Fprintf(w, "%s: %v\n", r.peer.name, r.missing)
		case strings.HasPrefix(r.peer.name, "twinward"):
			for _, reason := range accepted(r, probes) {
				fmt.Fprintf(w, "%s lets these through on purpose: %s\n", r.peer.name, reason)
			}
		}
	}
}

// accepted returns why a peer lets probes through, and which.
func accepted(r result, probes []escape.Probe) []string {
	var out []string
	names := map[string][]string{}
	for _, p := range probes {
		if !r.found[p.Name].Open || p.Accepted == "" {
			continue
		}
		if names[p.Accepted] == nil {
			out = append(out, p.Accepted)
		}
		names[p.Accepted] = append(names[p.Accepted], p.Name)
	}
	for i, reason := range out {
		out[i] = reason + " (" + strings.Join(names[reason], "; ") + ")"
	}
	return out
}

func cell(r result, p escape.Probe, verbose bool) string {
	f := r.found[p.Name]
	switch {
	case r.missing != nil:
		return "?"
	case f.Open:
		return "OPEN"
	case verbose:
		return "- " + f.Seen
	}
	return "-"
}
