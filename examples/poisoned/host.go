package main

import (
	"context"
	"embed"
	"errors"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/agentid"
	"github.com/twinward-dev/twinward/examples/internal/setup"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/inference"
	"github.com/twinward-dev/twinward/mcpx"
)

// The rules of this example, as files.
//
//go:embed bundle sandbox.yaml
var files embed.FS

const agentName = "reviewer-bot"

var deployer = audit.Change{By: "you", Reason: "go run ./examples/poisoned"}

// A host is everything on this side of the doors.
type host struct {
	setup.Stack
	opts     options
	dir      string
	world    *world
	tokens   map[string]string // for the demonstration to look for; a host has no such map
	log      *audit.Log
	anchor   string
	registry *agentid.Registry
	vault    *credential.Broker
	engine   *governance.Engine
	gateway  *mcpx.Gateway
	router   *inference.Router
}

func newHost(ctx context.Context, opts options, rules fs.FS) (h *host, err error) {
	h = &host{opts: opts, dir: opts.dir, tokens: map[string]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Close(h.log))
		}
	}()
	if h.dir == "" {
		if h.dir, err = os.MkdirTemp("", "twinward-poisoned-"); err != nil {
			return h, err
		}
	}
	for _, name := range []string{"github", "slack", "model"} {
		h.tokens[name] = setup.Token()
	}
	h.world = newWorld(h.tokens)
	h.Later(func() error { h.world.close(); return nil })
	h.anchor = filepath.Join(h.dir, "anchor")
	if h.log, err = audit.Open(filepath.Join(h.dir, "log"), &audit.Options{
		Origin: "poisoned.example", Anchors: []audit.Anchor{audit.FileAnchor(h.anchor)},
	}); err != nil {
		return h, err
	}
	if h.registry, err = agentid.NewRegistry(h.log, nil); err != nil {
		return h, err
	}
	if _, err = h.registry.Register(ctx, agentid.Agent{ID: agentName, Owner: "platform-team@example.com", Profile: "reviewer"}, deployer); err != nil {
		return h, err
	}
	if err := h.openVault(ctx); err != nil {
		return h, err
	}
	bundle, err := governance.LoadBundle(rules)
	if err != nil {
		return h, err
	}
	if opts.without == "pin" { // what the server shows now is approved as it is
		if bundle, err = h.trustLive(ctx, bundle, "notes"); err != nil {
			return h, err
		}
	}
	h.engine = governance.NewEngine(h.log, nil)
	if _, err := h.engine.Reload(ctx, bundle, deployer); err != nil {
		return h, err
	}
	return h, h.startTools(ctx)
}

// openVault puts the tokens into the vault, each bound to where it belongs.
func (h *host) openVault(ctx context.Context) (err error) {
	secrets := map[string]credential.Secret{}
	for name, token := range h.tokens {
		secrets[name] = credential.NewSecret([]byte(token))
	}
	origins := map[string]string{"github": "https://api.github.com", "slack": "https://slack.com"}
	if h.opts.without == "origin-binding" { // the same token, for whoever asks
		secrets["github-unbound"] = credential.NewSecret([]byte(h.tokens["github"]))
		origins["github-unbound"] = h.world.mirror.URL
	}
	if h.vault, err = credential.NewBroker(credential.NewMemoryStore(secrets), h.log, nil); err != nil {
		return err
	}
	h.Later(h.vault.Close)
	for name, origin := range origins {
		if err := h.vault.Bind(ctx, name, credential.Binding{Origin: origin}, deployer); err != nil {
			return err
		}
	}
	return h.vault.Preload(ctx)
}

// startTools puts the gateway in front of the servers: two from npm, each in a
// sandbox session of its own, and two of the attacker's.
func (h *host) startTools(ctx context.Context) error {
	var vault credential.Vault = h.vault
	if h.opts.without == "scrubber" {
		vault = leasesOnly{h.vault}
	}
	h.gateway = mcpx.NewGateway(h.engine, h.log, &mcpx.GatewayOptions{Vault: vault, Agents: h.registry})
	h.Later(h.gateway.Close)
	mirror := mcpx.HTTP("mirror", h.world.mirror.URL)
	if mirror.Credential = "github"; h.opts.without == "origin-binding" {
		mirror.Credential = "github-unbound"
	}
	return errors.Join(
		h.gateway.AddUpstream(ctx, mcpx.Stdio("github", h.npmServer("github", "api.github.com", h.world.github,
			"@modelcontextprotocol/server-github/dist/index.js", "GITHUB_PERSONAL_ACCESS_TOKEN=placeholder"))),
		h.gateway.AddUpstream(ctx, mcpx.Stdio("slack", h.npmServer("slack", "slack.com", h.world.slack,
			"@modelcontextprotocol/server-slack/dist/index.js", "SLACK_BOT_TOKEN=placeholder", "SLACK_TEAM_ID=T1"))),
		h.gateway.AddUpstream(ctx, mcpx.HTTP("notes", h.world.notes.URL)),
		h.gateway.AddUpstream(ctx, mirror),
	)
}

// startModel serves the model door over a backend that obeys.
func (h *host) startModel(ctx context.Context, model *obedient) error {
	backend := httptest.NewServer(model)
	h.Later(func() error { backend.Close(); return nil })
	b := inference.Backend{Name: "scripted", Protocol: h.opts.kind().protocol, BaseURL: backend.URL + "/v1", Credential: "model", Models: []string{"scripted"},
		Aliases: map[string]string{}}
	for _, name := range h.opts.kind().models {
		b.Aliases[name] = "scripted"
	}
	binding, err := b.Binding()
	if err != nil {
		return err
	}
	if err := h.vault.Bind(ctx, "model", binding, deployer); err != nil {
		return err
	}
	h.router, err = inference.NewRouter(inference.Config{Backends: []inference.Backend{b}}, h.engine, h.log, &inference.Options{Vault: h.vault, Agents: h.registry})
	return err
}

// leasesOnly is a vault that hands out leases and tells nobody what its secrets
// look like.
type leasesOnly struct{ credential.Vault }
