package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/agentid"
	"github.com/twinward-dev/twinward/examples/internal/setup"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/inference"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/sandbox"
)

// The rules of this example, as files: change one and see which step flips.
//
//go:embed bundle sandbox.yaml
var files embed.FS

// agentName is how the agent is registered.
const agentName = "standup-bot"

// deployer is who answers for what this program sets up.
var deployer = audit.Change{By: "you", Reason: "go run ./examples/standup"}

// A host is everything on this side of the two doors.
type host struct {
	setup.Stack
	dir      string
	log      *audit.Log
	anchor   string
	vault    *credential.Broker
	registry *agentid.Registry
	engine   *governance.Engine
	gateway  *mcpx.Gateway
	tools    http.Handler // the gateway, or the door to it
	router   *inference.Router
	model    string // which model the agent asks for
	modelKey string // what the scripted model wants to see

	// For an agent outside the sandbox: what it proves itself with, and where.
	clientSecret credential.Secret
	listener     net.Listener
	base         string

	vendors *vendors
	decoys  []decoy // secrets hidden on purpose, by -plant
}

// newHost wires the host up to the point where an agent can start.
func newHost(ctx context.Context, opts options, rules fs.FS) (_ *host, err error) {
	h := &host{dir: opts.dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Close(h.log))
		}
	}()
	if h.dir == "" {
		if h.dir, err = os.MkdirTemp("", "twinward-standup-"); err != nil {
			return nil, err
		}
	}
	h.anchor = filepath.Join(h.dir, "anchor")
	if h.log, err = audit.Open(filepath.Join(h.dir, "log"), &audit.Options{
		Origin:  "standup.example",
		Anchors: []audit.Anchor{audit.FileAnchor(h.anchor)},
	}); err != nil {
		return nil, err
	}
	ids := agentid.Options{}
	if opts.remote || opts.part == partGateway {
		if h.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return nil, err
		}
		h.Later(func() error { h.listener.Close(); return nil })
		h.base = "http://" + h.listener.Addr().String()
		ids.Issuer, ids.Resource = h.base, h.base+"/mcp"
	}
	if h.registry, err = agentid.NewRegistry(h.log, &ids); err != nil {
		return nil, err
	}
	if h.clientSecret, err = h.registry.Register(ctx, agentid.Agent{ID: agentName, Owner: "platform-team@example.com", Profile: "standup"}, deployer); err != nil {
		return nil, err
	}
	if err := h.startVendors(opts); err != nil {
		return nil, err
	}
	bundle, err := h.bundle(ctx, opts, rules)
	if err != nil {
		return nil, err
	}
	h.engine = governance.NewEngine(h.log, nil)
	if _, err := h.engine.Reload(ctx, bundle, deployer); err != nil {
		return nil, err
	}
	switch opts.part {
	case partGateway:
		return h, h.startTools(ctx, opts)
	case partCompute:
		err = h.joinGateway(ctx, opts.joined)
	default:
		err = h.startTools(ctx, opts)
	}
	if err != nil {
		return nil, err
	}
	return h, h.startModel(ctx, opts)
}

// startVendors makes this run's tokens, puts them into the vault and starts the
// vendors that will ask for them.
func (h *host) startVendors(opts options) error {
	tokens := map[string]string{}
	for _, name := range []string{"github", "slack", "snowflake"} {
		if opts.part != partCompute {
			tokens[name] = setup.Token()
		}
	}
	h.decoys = newDecoys(opts.plant)
	h.vendors = newVendors(tokens, decoysIn(h.decoys, inResponse))
	h.Later(func() error { h.vendors.Close(); return nil })

	secrets := map[string]credential.Secret{}
	if opts.part == partCompute {
		secrets["gateway"] = credential.NewSecret([]byte(opts.joined.Secret))
	}
	for name, token := range tokens {
		if key := strings.ToUpper(name) + "_TOKEN"; opts.upstreams[name] != "" && os.Getenv(key) != "" {
			token = takeEnv(key)
		}
		secrets[name] = credential.NewSecret([]byte(token))
	}
	key := setup.Token()
	if opts.provider != "" {
		name := strings.ToUpper(opts.provider) + "_API_KEY"
		if key = takeEnv(name); key == "" {
			return fmt.Errorf("-provider %s needs its key in the environment variable %s", opts.provider, name)
		}
	}
	if opts.part != partGateway {
		h.modelKey = key
		secrets["model"] = credential.NewSecret([]byte(key))
	}
	vault, err := credential.NewBroker(credential.NewMemoryStore(secrets), h.log, nil)
	if err != nil {
		return err
	}
	h.vault = vault
	h.Later(vault.Close)
	return vault.Preload(context.Background())
}

// takeEnv reads a variable and removes it, so that no child inherits it.
func takeEnv(name string) string {
	defer os.Unsetenv(name)
	return os.Getenv(name)
}

// bundle loads the rules. The catalogue of a real upstream is read from it now,
// as an operator would do once, before review; tools that this example's own
// catalogue knows keep the class that was reviewed for them.
func (h *host) bundle(ctx context.Context, opts options, rules fs.FS) (governance.Bundle, error) {
	bundle, err := governance.LoadBundle(rules)
	if err != nil {
		return bundle, err
	}
	for i, reviewed := range bundle.Catalog {
		url := opts.upstreams[reviewed.Name]
		if url == "" {
			continue
		}
		fmt.Fprintf(os.Stderr, "standup: trusting the tools that %s shows now; review its catalogue before you rely on it\n", url)
		live, err := h.readCatalog(ctx, reviewed.Name, url)
		if err != nil {
			return bundle, fmt.Errorf("reading the catalogue of %s: %w", url, err)
		}
		for j := range live.Tools {
			for _, tool := range reviewed.Tools {
				if tool.Name == live.Tools[j].Name {
					live.Tools[j].Class = tool.Class
				}
			}
		}
		bundle.Catalog[i] = live
	}
	return bundle, nil
}

// startTools puts the gateway in front of the MCP servers.
func (h *host) startTools(ctx context.Context, opts options) error {
	h.gateway = mcpx.NewGateway(h.engine, h.log, &mcpx.GatewayOptions{Vault: h.vault, Agents: h.registry, Resource: h.base + "/mcp"})
	h.Later(h.gateway.Close)
	h.tools = h.gateway
	for name, server := range servers(h.vendors.URL) {
		url := opts.upstreams[name]
		if url == "" {
			s := serveMCP(server)
			h.Later(func() error { s.Close(); return nil })
			url = s.URL
		}
		if _, err := h.bind(ctx, name, url); err != nil {
			return err
		}
		upstream := mcpx.HTTP(name, url)
		upstream.Credential = name
		if err := h.gateway.AddUpstream(ctx, upstream); err != nil {
			return err
		}
	}
	return nil
}

// bind says that a vendor's token may be sent to the server at url, and nowhere
// else.
func (h *host) bind(ctx context.Context, name, url string) (origin string, err error) {
	if origin, err = credential.Origin(url); err != nil {
		return "", err
	}
	return origin, h.vault.Bind(ctx, name, credential.Binding{Origin: origin}, deployer)
}

// startModel sets up the model door, over the scripted model or a real one.
func (h *host) startModel(ctx context.Context, opts options) error {
	backend := inference.Backend{Name: opts.provider, Protocol: inference.OpenAI, Credential: "model", Models: []string{opts.model}}
	switch preset, known := inference.Presets()[opts.provider]; {
	case opts.provider == "":
		s := httptest.NewServer(script(h.modelKey))
		h.Later(func() error { s.Close(); return nil })
		backend.Name, backend.BaseURL, backend.Models = "scripted", s.URL+"/v1", []string{"standup-1"}
	case !known:
		return fmt.Errorf("provider %q is not known", opts.provider)
	case opts.model == "":
		return fmt.Errorf("-provider %s needs -model, the name of the model to ask for", opts.provider)
	default:
		backend.BaseURL = preset.BaseURL
	}
	h.model = backend.Models[0]
	binding, err := backend.Binding()
	if err != nil {
		return err
	}
	if err := h.vault.Bind(ctx, "model", binding, deployer); err != nil {
		return err
	}
	o := &inference.Options{Vault: h.vault, Agents: h.registry}
	if opts.remote {
		o.Identify = inference.IdentifyToken(h.registry, h.base+"/mcp")
	}
	h.router, err = inference.NewRouter(inference.Config{Backends: []inference.Backend{backend}}, h.engine, h.log, o)
	return err
}

// startSandbox starts a session that is the agent, with the two doors in it.
func (h *host) startSandbox(ctx context.Context, actor audit.Actor, walls []byte) (*sandbox.Session, error) {
	p, err := sandbox.LoadPolicy("sandbox.yaml", walls)
	if err != nil {
		return nil, err
	}
	box, err := sandbox.Start(ctx, p, actor, h.log, &sandbox.Options{Engine: h.engine, Self: true})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(box.Handle("tools.local", h.tools), box.Handle("inference.local", h.router)); err != nil {
		return nil, errors.Join(err, box.Close())
	}
	return box, nil
}

// serveRemote serves both doors on loopback for an agent that brings a token:
// the token endpoint, the gateway and the model router.
func (h *host) serveRemote() {
	mux := http.NewServeMux()
	mux.Handle("/", h.registry.Handler())
	tools := h.gateway.Handler(h.registry)
	mux.Handle("/mcp", tools)
	mux.Handle("/.well-known/oauth-protected-resource/", tools)
	if h.router != nil {
		mux.Handle("/v1/", h.router)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	h.Later(server.Close)
	go func() { _ = server.Serve(h.listener) }() // ends with the server
}
