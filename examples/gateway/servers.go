package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/sandbox"
)

// A server is one MCP server behind the gateway: at a URL, or a command that
// speaks MCP on its standard streams.
type server struct {
	Name       string `yaml:"name"`
	Credential string `yaml:"credential"` // in the vault; which also says how the server gets it

	URL string `yaml:"url"`

	Command []string          `yaml:"command"`
	Env     map[string]string `yaml:"env"` // no secrets: those are in the vault
	// Sandbox is the file with the policy of the sandbox sessions that the command
	// runs in, one for each agent.
	Sandbox string `yaml:"sandbox"`
	// Unconfined runs the command without, where there are no user namespaces. It
	// is then trusted like this process.
	Unconfined bool `yaml:"unconfined"`
}

func (s server) upstream(g *gateway) *mcpx.Upstream {
	switch {
	case s.URL != "":
		u := mcpx.HTTP(s.Name, s.URL)
		u.Credential = s.Credential
		return u
	case s.Credential != "":
		return mcpx.StdioWith(s.Name, s.Credential, func(ctx context.Context, h *credential.Handover) mcpx.Command {
			return s.command(ctx, g, h)
		})
	}
	return mcpx.Stdio(s.Name, func(ctx context.Context) mcpx.Command { return s.command(ctx, g, &credential.Handover{}) })
}

// command makes the command for one agent. Its environment is what the file says
// and the secret, and nothing of this process's.
func (s server) command(ctx context.Context, g *gateway, h *credential.Handover) mcpx.Command {
	env := slices.Clone(h.Env)
	for name, value := range s.Env {
		env = append(env, name+"="+value)
	}
	if s.Unconfined {
		cmd := exec.CommandContext(ctx, s.Command[0], s.Command[1:]...)
		cmd.Env, cmd.ExtraFiles = append([]string{}, env...), h.Files
		return cmd
	}
	box, err := s.box(ctx, g)
	if err != nil {
		return mcpx.NoCommand(err)
	}
	cmd := box.Command(ctx, s.Command[0], s.Command[1:]...)
	cmd.Env, cmd.ExtraFiles, cmd.EndsSession = env, h.Files, true
	return cmd
}

// box starts the session of one child, which is an actor of its own on record.
func (s server) box(ctx context.Context, g *gateway) (*sandbox.Session, error) {
	text, err := os.ReadFile(g.path(s.Sandbox))
	if err != nil {
		return nil, err
	}
	policy, err := sandbox.LoadPolicy(s.Sandbox, text)
	if err != nil {
		return nil, err
	}
	box, err := sandbox.Start(ctx, policy, audit.Actor{Agent: "server:" + s.Name}, g.log, &sandbox.Options{Logger: g.logger})
	if err != nil {
		return nil, err
	}
	if g.furnish != nil {
		err = g.furnish(s.Name, box)
	}
	if err != nil {
		return nil, errors.Join(err, box.Close())
	}
	return box, nil
}
