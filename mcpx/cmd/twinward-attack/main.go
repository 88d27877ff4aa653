// Command twinward-attack plays a corpus of attacks against an MCP endpoint,
// Twinward's or any other, and prints which of them got through.
//
//	twinward-attack -upstream 127.0.0.1:9000 -url http://127.0.0.1:8080/mcp -prefix attack__ -token FILE
//	twinward-attack -url URL -tool NAME -args JSON -key MEMBER -bad VALUE -forbidden NAME
//
// With -upstream, the command is itself an MCP server at that address, which you
// put behind your endpoint; then what reaches an upstream is counted where it
// arrives, and the upstream misbehaves as well. It has four tools, and policy in
// front of it must let the agent
//
//	post   {channel, text}  only with channel "#engineering"
//	pay    {amount}         up to 1000
//	read   {}
//	erase  {id}             never
//
// Write that policy first, then start this command; it waits for Enter, or for
// as long as -wait says, so that the endpoint can be started after it. -tools
// prints the definitions for your gateway's catalogue and ends.
//
// Without -upstream, you name one call that is permitted (-tool, -args), the
// member of its arguments that decides (-key) and a value for which it is
// forbidden (-bad), and a tool that is forbidden (-forbidden). Only the answers
// can be judged then, and what an upstream alone could tell is "unclear".
//
// A token is read from the file -token, or from the environment variable
// ATTACK_TOKEN; one of another agent, which may do the same, from -other or
// ATTACK_OTHER_TOKEN. Header lines besides are given with -header.
//
// Everything may stand in a YAML file instead, given with -config, with the same
// names: {url: …, prefix: …, tool: …}. A flag overrides it.
//
// The exit status is 0 when nothing got through, 1 when something did or the
// endpoint does not work, 2 when the command was not understood.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/twinward-dev/twinward/mcpx/internal/attack"
)

const (
	exitOK    = 0
	exitFound = 1
	exitUsage = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// A config is what flags and the file may say.
type config struct {
	URL       string        `yaml:"url"`
	Token     string        `yaml:"token"` // a file
	Other     string        `yaml:"other"` // a file
	Header    headers       `yaml:"header"`
	Tool      string        `yaml:"tool"`
	Args      string        `yaml:"args"`
	Key       string        `yaml:"key"`
	Bad       string        `yaml:"bad"`
	Forbidden string        `yaml:"forbidden"`
	Prefix    string        `yaml:"prefix"`
	Upstream  string        `yaml:"upstream"`
	Modern    bool          `yaml:"modern"`
	Wait      time.Duration `yaml:"wait"`
	Only      string        `yaml:"only"`

	json, tools bool
}

// headers are lines "Name: value".
type headers []string

func (h *headers) String() string     { return strings.Join(*h, ", ") }
func (h *headers) Set(s string) error { *h = append(*h, s); return nil }

func parse(args []string, stderr io.Writer) (*config, error) {
	var c config
	var file string
	set := flag.NewFlagSet("twinward-attack", flag.ContinueOnError)
	set.SetOutput(stderr)
	set.StringVar(&file, "config", "", "YAML `file` with any of the other flags")
	set.StringVar(&c.URL, "url", "", "the endpoint")
	set.StringVar(&c.Token, "token", "", "`file` with the agent's bearer token (or ATTACK_TOKEN)")
	set.StringVar(&c.Other, "other", "", "`file` with another agent's token (or ATTACK_OTHER_TOKEN)")
	set.Var(&c.Header, "header", "a header `line` that the agent sends; may be repeated")
	set.StringVar(&c.Tool, "tool", "", "a permitted tool")
	set.StringVar(&c.Args, "args", "", "its arguments, a JSON object")
	set.StringVar(&c.Key, "key", "", "the member of the arguments that decides, a string")
	set.StringVar(&c.Bad, "bad", "", "a value of it that is forbidden")
	set.StringVar(&c.Forbidden, "forbidden", "", "a tool that is forbidden")
	set.StringVar(&c.Prefix, "prefix", "", "what the endpoint puts before the upstream's tools")
	set.StringVar(&c.Upstream, "upstream", "", "`address` at which to be the upstream")
	set.BoolVar(&c.Modern, "modern", false, "as the upstream, speak "+attack.Modern)
	set.DurationVar(&c.Wait, "wait", 0, "as the upstream, wait so long before attacking (0 waits for Enter)")
	set.StringVar(&c.Only, "only", "", "rows to play, such as A1,H2")
	set.BoolVar(&c.json, "json", false, "print JSON")
	set.BoolVar(&c.tools, "tools", false, "print the upstream's tools, as a reply to tools/list, and end")
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	if set.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", set.Arg(0))
	}
	if file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if err := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict()).Decode(&c); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if err := set.Parse(args); err != nil { // flags come last
			return nil, err
		}
	}
	return &c, nil
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	c, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintln(stderr, "twinward-attack:", err)
		return exitUsage
	case c.tools:
		fmt.Fprintln(stdout, attack.List(attack.Tools...))
		return exitOK
	case c.URL == "" || c.Tool == "" && c.Upstream == "":
		fmt.Fprintln(stderr, "twinward-attack: -url is needed, and -upstream or -tool")
		return exitUsage
	}
	results, target, err := play(ctx, c, stdin, stderr)
	if err != nil {
		fmt.Fprintln(stderr, "twinward-attack:", err)
		return exitFound
	}
	print := func() error { return attack.Print(stdout, target, results) }
	if c.json {
		print = func() error { return attack.PrintJSON(stdout, results) }
	}
	if err := print(); err != nil {
		fmt.Fprintln(stderr, "twinward-attack:", err)
		return exitFound
	}
	if attack.Sum(results).Fail > 0 {
		return exitFound
	}
	return exitOK
}

func play(ctx context.Context, c *config, stdin io.Reader, stderr io.Writer) ([]attack.Result, attack.Target, error) {
	target := attack.Target{URL: c.URL, Tool: c.Tool, Args: c.Args, Key: c.Key, Bad: c.Bad, Forbidden: c.Forbidden}
	if c.Upstream != "" {
		up := &attack.Upstream{Modern: c.Modern}
		l, err := net.Listen("tcp", c.Upstream)
		if err != nil {
			return nil, target, err
		}
		srv := &http.Server{Handler: up, ReadHeaderTimeout: 10 * time.Second}
		go srv.Serve(l)
		defer srv.Close()
		target = attack.Behind(up, c.URL, c.Prefix)
		if err := c.ready(ctx, l.Addr(), stdin, stderr); err != nil {
			return nil, target, err
		}
	}
	var err error
	if target.Header, err = c.identity(c.Token, "ATTACK_TOKEN"); err != nil {
		return nil, target, err
	}
	if target.Other, err = c.identity(c.Other, "ATTACK_OTHER_TOKEN"); err != nil {
		return nil, target, err
	}
	if target.Other.Get("Authorization") == "" {
		target.Other = nil
	}
	p, err := attack.NewPlayer(ctx, target)
	if err != nil {
		return nil, target, err
	}
	defer p.Close()
	var results []attack.Result
	for _, one := range attack.Corpus() {
		if c.Only != "" && !strings.Contains(","+c.Only+",", ","+one.ID+",") {
			continue
		}
		for _, era := range p.Eras(one) {
			if err := ctx.Err(); err != nil {
				return nil, target, err
			}
			results = append(results, p.Play(ctx, one, era))
		}
	}
	return results, target, nil
}

// ready waits until the endpoint can be attacked.
func (c *config) ready(ctx context.Context, at net.Addr, stdin io.Reader, stderr io.Writer) error {
	if c.Wait > 0 {
		select {
		case <-time.After(c.Wait):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	fmt.Fprintf(stderr, "The upstream is at http://%s. Put the endpoint in front of it, then press Enter.\n", at)
	enter := make(chan error, 1)
	go func() {
		_, err := bufio.NewReader(stdin).ReadString('\n')
		if errors.Is(err, io.EOF) {
			err = nil
		}
		enter <- err
	}()
	select {
	case err := <-enter:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// identity is what an agent presents.
func (c *config) identity(file, env string) (http.Header, error) {
	h := http.Header{}
	for _, line := range c.Header {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("header %q: write Name: value", name)
		}
		h.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	token := os.Getenv(env)
	if file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		token = string(b)
	}
	if token = strings.TrimSpace(token); token != "" {
		h.Set("Authorization", "Bearer "+token)
	}
	return h, nil
}
