// Incident is a bad night, and then the auditor. Two agents work in sandboxes,
// with tools, a model and a forge, while policies are reloaded and secrets
// rotated. An operator kills one of them with twinward-vault. The power goes, and
// comes back. Root on the host rewrites the log with the log's own key. On another
// machine, an auditor who has nothing but a pinned key, a checkpoint and a backup
// runs twinward-audit.
//
//	go run ./examples/incident             # the story, for people
//	go run ./examples/incident -json       # the same, one JSON object a line
//	go run ./examples/incident -db DSN     # agents in an empty PostgreSQL, which the kill needs as a command
//	go run ./examples/incident -rounds 5   # of reloads and rotations
//
// Without -db the host keeps its agents in memory: it is the host that is told to
// revoke one, and it does not come back. The evidence is taken from outside the
// host's process: the vendors' own journal, /proc, what the agents have noted, and
// the auditor's output. It exits with 0 only if everything came out as it must. It
// needs Linux, git, and the go command, which builds twinward-vault and
// twinward-audit.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	part()
	var opts options
	flag.BoolVar(&opts.json, "json", false, "print one JSON object a line")
	flag.StringVar(&opts.db, "db", "", "how to connect to the PostgreSQL in which the agents are kept")
	flag.IntVar(&opts.rounds, "rounds", 2, "how often all secrets are rotated and the policies reloaded")
	flag.StringVar(&opts.bin, "bin", "", "the `folder` with twinward-vault and twinward-audit (default: they are built)")
	flag.StringVar(&opts.dir, "dir", "", "an empty `folder` for all that is left behind (default: a new temporary one)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if _, err := play(ctx, opts, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "incident:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	json   bool
	db     string
	rounds int
	bin    string
	dir    string
}

// part is the main function of this binary's other parts, the host and the agents.
func part() {
	if len(os.Args) != 3 || os.Args[1] != "host" && os.Args[1] != "agent" {
		return
	}
	run := hostMain
	if os.Args[1] == "agent" {
		run = agentMain
	}
	if err := run(os.Args[2]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
	os.Exit(0)
}
