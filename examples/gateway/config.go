package main

import (
	"context"
	"fmt"
	"net/url"
	"os"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential/agentid"
	"github.com/twinward-dev/twinward/governance/strictyaml"
)

// A config is gateway.yaml:
//
//	listen: ":8443"
//	resource: https://tools.example.com/mcp    # what agents call it, and ask tokens for
//	certificate: tls.crt
//	key: tls.key
//	issuer: https://login.example.com          # who issues the agents' tokens; empty: this gateway
//	agents:
//	  - {id: standup-bot, owner: platform-team@example.com, profile: standup, keys: standup.jwks}
//	servers:
//	  - {name: tickets, url: "https://tickets.example.com/mcp", credential: tickets}
//	  - {name: github, command: [mcp-server-github], credential: github, sandbox: github.yaml}
//
// Paths are relative to its folder. Of an agent whose tokens this gateway
// issues, keys is the file with its public keys (private_key_jwt).
type config struct {
	Listen      string   `yaml:"listen"`
	Resource    string   `yaml:"resource"`
	Certificate string   `yaml:"certificate"`
	Key         string   `yaml:"key"`
	Issuer      string   `yaml:"issuer"`
	Agents      []agent  `yaml:"agents"`
	Servers     []server `yaml:"servers"`
}

type agent struct {
	ID      string `yaml:"id"`
	Owner   string `yaml:"owner"`
	Profile string `yaml:"profile"`
	Keys    string `yaml:"keys"`
}

func readConfig(file string) (c config, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return c, err
	}
	if err := strictyaml.Unmarshal(file, text, 1<<20, &c); err != nil {
		return c, err
	}
	if u := c.endpoint(); u.Scheme != "https" || u.Host == "" || len(u.Path) < 2 {
		return c, fmt.Errorf("%s: resource must be the endpoint's https URL, with a path such as /mcp", file)
	}
	for _, s := range c.Servers {
		if (s.URL == "") == (len(s.Command) == 0) {
			return c, fmt.Errorf("%s: server %q needs a url or a command", file, s.Name)
		}
		if s.URL == "" && (s.Sandbox == "") != s.Unconfined {
			return c, fmt.Errorf("%s: server %q needs the policy of its sandbox, or the word unconfined", file, s.Name)
		}
	}
	return c, nil
}

func (c config) endpoint() *url.URL {
	u, err := url.Parse(c.Resource)
	if err != nil {
		return new(url.URL)
	}
	return u
}

// issuers are who issues the tokens that count.
func (c config) issuers() []string {
	if c.Issuer != "" {
		return []string{c.Issuer}
	}
	return []string{(&url.URL{Scheme: "https", Host: c.endpoint().Host}).String()}
}

// registry holds the agents of the file, for as long as the gateway runs.
func (g *gateway) registry(ctx context.Context, log audit.Recorder, by audit.Change) (*agentid.Registry, error) {
	opts := agentid.Options{Resource: g.Resource, Logger: g.logger}
	if g.Issuer == "" {
		opts.Issuer = g.issuers()[0]
	} else {
		opts.Issuers = []agentid.Issuer{{URL: g.Issuer}}
	}
	agents, err := agentid.NewRegistry(log, &opts)
	if err != nil {
		return nil, err
	}
	for _, a := range g.Agents {
		entry := agentid.Agent{ID: a.ID, Owner: a.Owner, Profile: a.Profile, Issuer: g.Issuer}
		if a.Keys != "" {
			if entry.Keys, err = os.ReadFile(g.path(a.Keys)); err != nil {
				return nil, err
			}
		}
		if _, err := agents.Register(ctx, entry, by); err != nil {
			return nil, fmt.Errorf("agent %q: %w", a.ID, err)
		}
	}
	return agents, nil
}
