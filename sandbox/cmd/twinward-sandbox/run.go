package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http/httputil"
	"net/url"
	"strings"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/sandbox"
)

// run runs a program in a session, and returns its exit status.
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
	log := &console{to: errs}
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

// policyOf joins the policy of a file with presets.
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
	return exitStatus(err), err
}
