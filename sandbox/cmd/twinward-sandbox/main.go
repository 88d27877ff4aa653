// Twinward-sandbox runs a program in a sandbox, and shows what it reaches for.
//
//	twinward-sandbox run     [-policy FILE] [-preset NAME,NAME] [-workspace DIR] [-serve NAME=URL] [-log DIR] [-quiet] -- PROGRAM [ARGUMENT ...]
//	twinward-sandbox check   FILE
//	twinward-sandbox presets [NAME]
//	twinward-sandbox probe
//
// run takes the policy of FILE (see sandbox.LoadPolicy) and of the presets, all
// together; with none of them the program has no network at all. It works in
// /sandbox, which is DIR on this machine, or a new empty folder that is removed at
// the end. Each connection that is made and each attempt that is refused is a line
// on standard error. With -log all is kept in a tamper-evident log, which
// twinward-audit reads. -serve answers a name that the policy says is served, such
// as inference.local, with what is at URL, for instance a model on this machine.
// On a terminal the program has a terminal of its own.
//
// The exit status is the program's, or 128 and the number of the signal that
// ended it; 127 when there is no such program inside, 125 when no sandbox could
// be made or the command line is wrong.
//
// check says what is wrong with a policy. presets lists the policies that come
// with the package, or what one of them opens. probe says which layers of a
// sandbox this system can make.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/sandbox"
)

func main() {
	// On a terminal of its own, Ctrl-C is the program's; else it ends the sandbox.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code, err := command(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "twinward-sandbox:", err)
	}
	os.Exit(code)
}

const failed, notFound = 125, 127

func command(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) (int, error) {
	verb := ""
	if len(args) > 0 {
		verb, args = args[0], args[1:]
	}
	switch {
	case verb == "run":
		return run(ctx, args, in, out, errs)
	case verb == "check" && len(args) == 1:
		_, err := load(args[0])
		return status(err), err
	case verb == "presets" && len(args) == 0:
		for _, name := range sandbox.Presets() {
			fmt.Fprintln(out, name)
		}
		return 0, nil
	case verb == "presets" && len(args) == 1:
		p, err := sandbox.Preset(args[0])
		if err == nil {
			for _, r := range p.Network.Allow {
				fmt.Fprintln(out, describe(r))
			}
		}
		return status(err), err
	case verb == "probe" && len(args) == 0:
		have := sandbox.Probe()
		for _, l := range sandbox.Layers() {
			answer := "yes"
			if why := have.Reasons[l]; why != nil {
				answer = "no: " + why.Error()
			}
			fmt.Fprintf(out, "%-14s %s\n", l, answer)
		}
		if len(have.Missing) > 0 {
			return failed, fmt.Errorf("this system lacks %v", have.Missing)
		}
		return 0, nil
	}
	return failed, errors.New("usage: twinward-sandbox run [flags] -- PROGRAM [ARGUMENT ...] | check FILE | presets [NAME] | probe")
}

func status(err error) int {
	if err != nil {
		return failed
	}
	return 0
}

func load(file string) (*sandbox.Policy, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return sandbox.LoadPolicy(file, text)
}

// describe is a rule in a line.
func describe(r sandbox.Rule) string {
	line := r.Host
	for _, p := range r.Ports {
		line += fmt.Sprintf(" %d", p)
	}
	if r.Served {
		line += " served by the host"
	}
	if r.Access != "" {
		line += " " + string(r.Access)
	}
	for _, h := range r.Rules {
		line += fmt.Sprintf(" %s %s", strings.Join(h.Methods, ","), h.Path)
	}
	return line
}

func run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) (int, error) {
	f := flag.NewFlagSet("run", flag.ContinueOnError)
	f.SetOutput(errs)
	policyFile := f.String("policy", "", "the policy, a YAML `file`")
	presets := f.String("preset", "", "policies that come with the package, `names` with commas")
	workspace := f.String("workspace", "", "the `folder` that is /sandbox inside")
	logDir := f.String("log", "", "keep all in a tamper-evident log in this `folder`")
	quiet := f.Bool("quiet", false, "do not show what the program reaches for")
	serve := make(map[string]*url.URL)
	f.Func("serve", "answer `NAME=URL`: a served name with what is at the address", func(text string) error {
		name, at, ok := strings.Cut(text, "=")
		u, err := url.Parse(at)
		if err != nil || !ok || u.Host == "" {
			return errors.New("write NAME=URL, such as inference.local=http://127.0.0.1:11434")
		}
		serve[name] = u
		return nil
	})
	if err := f.Parse(args); err != nil {
		return failed, nil // it is said already
	}
	if f.NArg() == 0 {
		return failed, errors.New("no program: write it after --")
	}
	policy, err := policyOf(*policyFile, *presets)
	if err != nil {
		return failed, err
	}
	log := &shower{to: errs}
	if *quiet {
		log.to = io.Discard
	}
	if *logDir != "" {
		kept, err := audit.Open(*logDir, nil)
		if err != nil {
			return failed, err
		}
		defer kept.Close()
		log.next = kept
	}
	box, err := sandbox.Start(ctx, policy, audit.Actor{Agent: "program"}, log, &sandbox.Options{Workspace: *workspace})
	if err != nil {
		return failed, err
	}
	defer box.Close()
	for name, at := range serve {
		proxy := &httputil.ReverseProxy{FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(at) }}
		if err := box.Handle(name, proxy); err != nil {
			return failed, err
		}
	}
	fmt.Fprintf(log.to, "sandbox: %d layers, user %d outside, policy %.19s\n", len(box.Report().Layers), box.Report().UID, policy.Hash())
	cmd := box.Command(ctx, f.Arg(0), f.Args()[1:]...)
	code, err := exitOf(execute(cmd, in, out, errs))
	if endErr := box.Close(); err == nil {
		err = endErr
	}
	fmt.Fprintf(log.to, "sandbox: %d connections, %d refusals\n", log.allowed.Load(), log.refused.Load())
	return code, err
}

func policyOf(file, presets string) (*sandbox.Policy, error) {
	var all []*sandbox.Policy
	if file != "" {
		p, err := load(file)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	for _, name := range strings.FieldsFunc(presets, func(r rune) bool { return r == ',' || r == ' ' }) {
		p, err := sandbox.Preset(name)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return sandbox.Join(all...)
}

// exitOf is what the shell calls the end of a program.
func exitOf(err error) (int, error) {
	var exit *sandbox.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() < 0:
		return 128 + int(exit.Signal()), nil
	case errors.As(err, &exit):
		return exit.ExitCode(), nil
	case errors.Is(err, sandbox.ErrNotFound):
		return notFound, err
	}
	return status(err), err
}
