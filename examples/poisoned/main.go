// Poisoned shows what a pull request can do that gives an agent orders, when the
// agent obeys every word of them: nothing. The agent and the MCP servers of
// GitHub and Slack are those that people use, unmodified, from npm; the vendors'
// APIs stand here and check their tokens. The evidence is taken from outside: the
// vendors' own journal, the packets on the session's network, the memory of every
// process, and the audit log.
//
//	go run ./examples/poisoned -agents DIR -servers DIR        # the story, for people
//	go run ./examples/poisoned … -json                         # the same, one JSON object a line
//	go run ./examples/poisoned … -without egress-list          # one guard removed: what it held happens
//	go run ./examples/poisoned … -table                        # all guards removed in turn
//
// The folders are where npm has installed sandbox/testdata/agents and
// mcpx/mcptest/npmtest/testdata (npm ci --ignore-scripts). It exits with 0 only
// if everything came out as it must.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/twinward-dev/twinward/examples/internal/outside"
)

func main() {
	outside.Main()
	var opts options
	var table bool
	flag.StringVar(&opts.agents, "agents", os.Getenv("TWINWARD_AGENTS"), "the `folder` with the agents")
	flag.StringVar(&opts.servers, "servers", os.Getenv("TWINWARD_NPM"), "the `folder` with the MCP servers and Node")
	flag.StringVar(&opts.agent, "agent", "claude", "which agent: "+strings.Join(agentNames(), ", "))
	flag.BoolVar(&opts.json, "json", false, "print one JSON object a line")
	flag.StringVar(&opts.without, "without", "", "remove one `guard`: "+strings.Join(guardNames(), ", "))
	flag.BoolVar(&table, "table", false, "remove each guard in turn, and print what then happens")
	flag.StringVar(&opts.dir, "dir", "", "where to put log, anchor and report (default: a new temporary directory)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := opts.check()
	switch {
	case err != nil:
	case table:
		err = knockOut(ctx, opts, os.Stdout)
	default:
		_, err = play(ctx, opts, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "poisoned:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	agents, servers string
	agent           string
	json            bool
	without         string
	dir             string
}

func (o options) kind() agentKind { return agentKinds[o.agent] }

// node is the pinned Node among the servers.
func (o options) node() string { return nodeIn(o.servers) }

func (o *options) check() (err error) {
	if _, ok := agentKinds[o.agent]; !ok {
		return fmt.Errorf("the agent %q is not known: use one of %s", o.agent, strings.Join(agentNames(), ", "))
	}
	known := o.without == ""
	for _, name := range guardNames() {
		known = known || name == o.without
	}
	if !known {
		return fmt.Errorf("there is no guard %q: use one of %s", o.without, strings.Join(guardNames(), ", "))
	}
	if o.agents, err = filepath.Abs(o.agents); err != nil {
		return err
	}
	if o.servers, err = filepath.Abs(o.servers); err != nil {
		return err
	}
	for _, path := range []string{o.kind().path(o.agents), o.node()} {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("install the packages with npm first, as -help says: %w", err)
		}
	}
	return nil
}

func agentNames() []string { return slices.Sorted(maps.Keys(agentKinds)) }

func guardNames() (names []string) {
	for _, g := range guards {
		names = append(names, g.name)
	}
	return names
}

// knockOut plays the story without each of the guards, and prints what then
// happens.
func knockOut(ctx context.Context, opts options, out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "REMOVED\tTHAT IS\tWHAT THEN HAPPENS")
	var errs []error
	for _, g := range append([]guard{{}}, guards...) {
		opts.without, opts.dir = g.name, ""
		s, err := play(ctx, opts, io.Discard)
		if err != nil {
			errs = append(errs, fmt.Errorf("without %q: %w", g.name, err))
		}
		orders := map[string]bool{}
		for _, s := range story() {
			orders[s.name] = s.order != ""
		}
		var happened []string
		for _, step := range s.Steps {
			if orders[step.Name] && step.Happened {
				happened = append(happened, step.Says)
			}
		}
		if happened == nil {
			happened = []string{"nothing of what was ordered"}
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", cmp.Or(g.name, "nothing"), g.what, strings.Join(happened, "; "))
	}
	return errors.Join(append(errs, t.Flush())...)
}
