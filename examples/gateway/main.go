// Gateway is a governed MCP endpoint that can be deployed anywhere, also where
// there are no user namespaces: agents come with short-lived bearer tokens, and
// find one endpoint in front of all servers of gateway.yaml.
//
//	go run ./examples/gateway -dir /etc/twinward -by alice
//
// The folder holds:
//
//	gateway.yaml    where it listens, whose tokens count, which servers there are
//	bundle/         policies, profiles and the catalogue of approved tools
//	vault, vault.key    the secrets, and the key that opens them: see twinward-vault
//	log/, anchor    what happened; made if need be
//
// SIGHUP loads the bundle again; a bundle that does not compile changes nothing.
// Servers are at a URL, or child processes in sandbox sessions of their own.
package main

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/agentid"
	"github.com/twinward-dev/twinward/credential/filevault"
	"github.com/twinward-dev/twinward/credential/oauth"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/sandbox"
)

func main() {
	dir := flag.String("dir", ".", "the `folder` with gateway.yaml")
	by := audit.Change{Reason: "start of the gateway"}
	flag.StringVar(&by.By, "by", "", "`who` answers for what is deployed; goes on record")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	g, err := open(ctx, *dir, by, logger)
	if err == nil {
		err = errors.Join(g.serve(ctx, by), g.close())
	}
	if err != nil {
		logger.Error("gateway: " + err.Error())
		os.Exit(1)
	}
}

// A gateway is all that stands behind the endpoint.
type gateway struct {
	config
	dir     string
	logger  *slog.Logger
	closes  []func() error
	furnish func(server string, box *sandbox.Session) error // each new session; may be nil

	log    *audit.Log
	vault  *credential.Broker
	agents *agentid.Registry
	engine *governance.Engine
	mcp    *mcpx.Gateway
}

// open wires the gateway up from a folder.
func open(ctx context.Context, dir string, by audit.Change, logger *slog.Logger) (g *gateway, err error) {
	g = &gateway{dir: dir, logger: logger}
	defer func() {
		if err != nil {
			g, err = nil, errors.Join(err, g.close())
		}
	}()
	if g.config, err = readConfig(g.path("gateway.yaml")); err != nil {
		return g, err
	}
	if g.log, err = audit.Open(g.path("log"), &audit.Options{
		Origin: g.Resource, Anchors: []audit.Anchor{audit.FileAnchor(g.path("anchor"))}, Logger: logger,
	}); err != nil {
		return g, err
	}
	g.closes = append(g.closes, g.log.Close)
	if err := g.openVault(ctx); err != nil {
		return g, err
	}
	if g.agents, err = g.registry(ctx, g.log, by); err != nil {
		return g, err
	}
	g.engine = governance.NewEngine(g.log, nil)
	if err := g.load(ctx, by); err != nil {
		return g, err
	}
	g.mcp = mcpx.NewGateway(g.engine, g.log, &mcpx.GatewayOptions{
		Vault: g.vault, Agents: g.agents, Resource: g.Resource, AuthorizationServers: g.issuers(), Logger: logger,
	})
	g.closes = append(g.closes, g.mcp.Close)
	for _, s := range g.Servers {
		if err := g.mcp.AddUpstream(ctx, s.upstream(g)); err != nil {
			return g, err
		}
	}
	return g, nil
}

// openVault opens the vault. From then on every secret in it is known, and taken
// out of whatever a server answers.
func (g *gateway) openVault(ctx context.Context) error {
	kek, err := filevault.LoadIdentity(g.path("vault.key"))
	if err != nil {
		return err
	}
	store, err := filevault.Open(ctx, g.path("vault"), kek, &filevault.Options{Witness: filevault.LogWitness(g.log)})
	if err != nil {
		return err
	}
	g.vault, err = credential.NewBroker(store, g.log, &credential.BrokerOptions{Logger: g.logger,
		Binding: func(s credential.BindingSpec) (credential.Binding, error) { return oauth.Binding(s, &oauth.Tokens{}) },
	})
	if err != nil {
		return err
	}
	g.closes = append(g.closes, g.vault.Close)
	return g.vault.Preload(ctx)
}

// load puts the rules of the bundle folder into force.
func (g *gateway) load(ctx context.Context, by audit.Change) error {
	bundle, err := governance.LoadBundle(os.DirFS(g.path("bundle")))
	if err == nil {
		_, err = g.engine.Reload(ctx, bundle, by)
	}
	return err
}

func (g *gateway) path(name string) string { return filepath.Join(g.dir, name) }

// close ends everything, the log last.
func (g *gateway) close() error {
	var errs []error
	for _, end := range slices.Backward(g.closes) {
		errs = append(errs, end())
	}
	g.closes = nil
	return errors.Join(errs...)
}
