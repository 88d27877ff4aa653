// Standup shows an agent working under governance: an agent process in a
// sandbox, a model behind one door, tools behind the other, every act decided
// by Cedar policy and on record, and not one credential within the agent's
// reach.
//
//	go run ./examples/standup            # the story, for people
//	go run ./examples/standup -json      # the same, one JSON object a line
//	go run ./examples/standup -remote    # the agent outside the sandbox, with a token
//	go run ./examples/standup -split     # tools' host and agents' host are two processes, as root of two users
//	go run ./examples/standup -plant 6   # hide six secrets on purpose: the search must find six
//
// It exits with 0 only if everything came out as it must.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "agent" {
		os.Exit(agentMain(os.Args[2]))
	}
	if len(os.Args) == 4 && os.Args[1] == "part" {
		os.Exit(partMain(os.Args[2], os.Args[3]))
	}
	var opts options
	flag.BoolVar(&opts.json, "json", false, "print one JSON object a line")
	flag.BoolVar(&opts.remote, "remote", false, "run the agent outside the sandbox, with client credentials")
	flag.BoolVar(&opts.split, "split", false, "keep tools and agents in two processes, and search the memory of each for the other's secrets")
	flag.IntVar(&opts.plant, "plant", 0, "hide `N` secrets where the agent can find them")
	flag.StringVar(&opts.provider, "provider", "", "a real model: openai, anthropic, …; its key is read from the environment")
	flag.StringVar(&opts.model, "model", "", "which model of the provider")
	flag.StringVar(&opts.dir, "dir", "", "where to put log, anchor, key and report (default: a new temporary directory)")
	flag.Func("upstream", "`github=URL`: a real MCP server in place of the example's own", opts.addUpstream)
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "standup: no arguments are expected; see -help")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	play := run
	if opts.split {
		play = runSplit
	}
	if err := play(ctx, opts, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "standup:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	json, remote    bool
	plant           int
	provider, model string
	dir             string
	upstreams       map[string]string
	split           bool

	part   string // which half of a split host this process is, or all of it
	joined joining
}

func (o *options) addUpstream(s string) error {
	name, url, ok := strings.Cut(s, "=")
	if !ok || name != "github" && name != "slack" && name != "snowflake" {
		return fmt.Errorf("want github=URL, slack=URL or snowflake=URL")
	}
	if o.upstreams == nil {
		o.upstreams = map[string]string{}
	}
	o.upstreams[name] = url
	return nil
}

// agentMain is the other half of this binary: what runs inside.
func agentMain(config string) int {
	var cfg agentConfig
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		return 2
	}
	all := os.NewFile(3, "all")
	if err := runAgent(context.Background(), cfg, os.Stdout, os.Stdin, all); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		return 1
	}
	return 0
}
