package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

func explainCommand() command {
	fs := flags("explain")
	agent := fs.String("agent", "", "who asks")
	user := fs.String("user", "", "for whom the agent acts")
	session := fs.String("session", "", "the agent's session")
	tool := fs.String("tool", "", "<server>__<tool>")
	action := fs.String("action", "", "another action, such as connect")
	server := fs.String("server", "", "with -action: server or provider")
	name := fs.String("name", "", "with -action: on what")
	args := fs.String("args", "", "arguments of the tool, as JSON")
	var attrs list
	fs.Var(&attrs, "attr", "NAME=VALUE that a door knows (repeatable)")
	toAgent := fs.Bool("to-agent", false, "say only what the agent may be told")
	asJSON := fs.Bool("json", false, "print JSON")
	return command{fs, 1, 1, func(ctx context.Context, dirs []string, _ io.Reader, out io.Writer) error {
		r := governance.Request{
			Actor:    audit.Actor{Agent: *agent, User: *user, Session: *session},
			Action:   *action,
			Server:   *server,
			Name:     *name,
			Enforces: []string{governance.ObligationApproval, governance.ObligationMaxBytes, governance.ObligationRate, governance.ObligationRedact, governance.ObligationRecordPrompt},
		}
		if *args != "" {
			r.Args = []byte(*args)
		}
		switch {
		case *agent == "":
			return fmt.Errorf("%w: -agent is missing", errUsage)
		case *tool != "":
			s, t, ok := strings.Cut(*tool, "__")
			if !ok || *action != "" {
				return fmt.Errorf("%w: -tool is <server>__<tool>, without -action", errUsage)
			}
			r.Action, r.Server, r.Name = "call_tool", s, t
		case *action == "":
			return fmt.Errorf("%w: say -tool, or -action with -server and -name", errUsage)
		}
		for _, a := range attrs {
			k, v, ok := strings.Cut(a, "=")
			if !ok {
				return fmt.Errorf("%w: -attr %q is not NAME=VALUE", errUsage, a)
			}
			if r.Attrs == nil {
				r.Attrs = map[string]any{}
			}
			r.Attrs[k] = attr(v)
		}
		_, s, err := compile(ctx, dirs[0])
		if err != nil {
			return err
		}
		r.History = s.NoHistory()
		to := governance.ForOperator
		if *toAgent {
			to = governance.ForAgent
		}
		x, err := s.Explain(ctx, r, to)
		if err != nil {
			return err
		}
		if *asJSON {
			if err := printJSON(out, x); err != nil {
				return err
			}
		} else {
			fmt.Fprint(out, x)
		}
		return foundIf(!x.Allowed)
	}}
}

// attr reads a value as a door would have it: a number, true or false, a list
// of texts with commas, or text.
func attr(v string) any {
	if n, err := strconv.ParseInt(v, 10, 64); err == nil {
		return n
	}
	switch v {
	case "true", "false":
		return v == "true"
	}
	if items, ok := strings.CutPrefix(v, "["); ok && strings.HasSuffix(items, "]") {
		return strings.Split(strings.TrimSuffix(items, "]"), ",")
	}
	return v
}

func schemaCommand() command {
	return command{flags("schema"), 1, 1, func(ctx context.Context, args []string, _ io.Reader, out io.Writer) error {
		_, s, err := compile(ctx, args[0])
		if err != nil {
			return err
		}
		_, err = io.WriteString(out, s.Schema())
		return err
	}}
}
