package main

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/agentid"
	"github.com/twinward-dev/twinward/credential/filevault"
	"github.com/twinward-dev/twinward/credential/postgres"
	"github.com/twinward-dev/twinward/examples/internal/setup"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/inference"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/sandbox"
	"github.com/twinward-dev/twinward/sandbox/apidoor"
)

// The rules of this example, as files.
//
//go:embed bundle sandbox.yaml
var files embed.FS

// hostConfig is what the host is told: where its folder is, and where the world.
type hostConfig struct {
	Dir     string
	DB      string // of the agents; empty: they are in this process's memory
	Vendors map[string]string
	Idle    bool // it starts no agents
}

// A host is everything on this side of the doors. It is a process of its own, as
// it is the one that loses its power.
type host struct {
	setup.Stack
	cfg      hostConfig
	log      *audit.Log
	registry *agentid.Registry
	vault    *credential.Broker
	engine   *governance.Engine
	gateway  *mcpx.Gateway
	router   *inference.Router
	git      http.Handler
	boxes    map[string]*sandbox.Session
}

func newHost(ctx context.Context, cfg hostConfig) (h *host, err error) {
	h = &host{cfg: cfg, boxes: map[string]*sandbox.Session{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Close(h.log))
		}
	}()
	st, err := newDisk(filepath.Join(cfg.Dir, "log"))
	if err != nil {
		return h, err
	}
	if h.log, err = audit.New(st, &audit.Options{Origin: "night.example", KeyFile: filepath.Join(cfg.Dir, "log.key")}); err != nil {
		return h, err
	}
	if err := h.openRegistry(ctx); err != nil {
		return h, err
	}
	if err := h.openVault(ctx); err != nil {
		return h, err
	}
	h.engine = governance.NewEngine(h.log, nil)
	if err := h.reload(ctx, 0); err != nil {
		return h, err
	}
	return h, h.openDoors(ctx)
}

// openRegistry follows the agents of the database, which the operator's command
// writes to. Without one, it is this process that registers and revokes.
func (h *host) openRegistry(ctx context.Context) (err error) {
	if h.cfg.DB == "" {
		if h.registry, err = agentid.NewRegistry(h.log, nil); err != nil {
			return err
		}
		for _, name := range agentNames {
			_, err = h.registry.Register(ctx, agentid.Agent{ID: name, Owner: owner, Profile: "trainee"}, registrar)
			if err = errors.Join(err, h.registry.Assign(ctx, name, "night", promoter)); err != nil {
				return err
			}
		}
		return nil
	}
	pool, err := pgxpool.New(ctx, h.cfg.DB)
	if err != nil {
		return err
	}
	h.Later(func() error { pool.Close(); return nil })
	store, err := postgres.Open(ctx, pool)
	if err != nil {
		return err
	}
	if h.registry, err = agentid.NewRegistry(h.log, &agentid.Options{Store: store}); err != nil {
		return err
	}
	if err := h.registry.Sync(ctx); err != nil {
		return err
	}
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = h.registry.Follow(following) // until the host closes
	}()
	h.Later(func() error { stop(); <-done; return nil })
	return nil
}

// openVault opens the vault in a file that the operator's command made and goes
// on writing to.
func (h *host) openVault(ctx context.Context) error {
	kek, err := filevault.LoadIdentity(filepath.Join(h.cfg.Dir, "vault.key"))
	if err != nil {
		return err
	}
	store, err := filevault.Open(ctx, filepath.Join(h.cfg.Dir, "vault"), kek, &filevault.Options{Witness: filevault.LogWitness(h.log), Poll: 100 * time.Millisecond})
	if err != nil {
		return err
	}
	if h.vault, err = credential.NewBroker(store, h.log, nil); err != nil {
		return err
	}
	h.Later(h.vault.Close)
	return h.vault.Preload(ctx)
}

// reload puts version n of the rules into force: the same but for one more channel.
func (h *host) reload(ctx context.Context, n int) error {
	rules, err := fs.Sub(files, "bundle")
	if err != nil {
		return err
	}
	bundle, err := withChannel(rules, "policies/tools.cedar", fmt.Sprintf("#night-%d", n))
	if err != nil {
		return err
	}
	_, err = h.engine.Reload(ctx, bundle, audit.Change{By: deployer, Reason: fmt.Sprintf("CHG-%d", 100+n)})
	return err
}

// withChannel loads a bundle in which one file of policies has one more channel
// beside #engineering.
func withChannel(rules fs.FS, file, channel string) (governance.Bundle, error) {
	text, err := fs.ReadFile(rules, file)
	if err != nil {
		return governance.Bundle{}, err
	}
	changed := bytes.ReplaceAll(text, []byte(`"#engineering"`), []byte(`"#engineering", "`+channel+`"`))
	return governance.LoadBundle(over{rules, fstest.MapFS{file: {Data: changed}}})
}

// over is a folder with one file in the place of another.
type over struct {
	fs.FS
	file fstest.MapFS
}

func (o over) Open(name string) (fs.File, error) {
	if _, ok := o.file[name]; ok {
		return o.file.Open(name)
	}
	return o.FS.Open(name)
}

// openDoors puts the vendors behind the three doors, and a person who agrees to
// announcements beside them.
func (h *host) openDoors(ctx context.Context) (err error) {
	dana := mcpx.ApproverFunc(func(context.Context, mcpx.ApprovalRequest) (mcpx.Verdict, error) {
		return mcpx.Verdict{Approved: true, By: approver, Reason: "on call tonight", Groups: []string{"lead"}}, nil
	})
	h.gateway = mcpx.NewGateway(h.engine, h.log, &mcpx.GatewayOptions{Vault: h.vault, Agents: h.registry, Approver: dana})
	h.Later(h.gateway.Close)
	if err := h.addTools(ctx); err != nil {
		return err
	}
	h.router, err = inference.NewRouter(inference.Config{Backends: []inference.Backend{h.model()}}, h.engine, h.log,
		&inference.Options{Vault: h.vault, Agents: h.registry})
	if err != nil {
		return err
	}
	h.Later(h.router.Close)
	h.git = h.forge()
	return nil
}

// addTools puts the vendors of tools behind the gateway.
func (h *host) addTools(ctx context.Context) error {
	for _, name := range []string{"github", "slack"} {
		upstream := mcpx.HTTP(name, h.cfg.Vendors[name])
		upstream.Credential = name
		if err := h.gateway.AddUpstream(ctx, upstream); err != nil {
			return err
		}
	}
	return nil
}

// model is the vendor of the model.
func (h *host) model() inference.Backend {
	return inference.Backend{
		Name: "scripted", Protocol: inference.OpenAI, BaseURL: h.cfg.Vendors["model"] + "/v1",
		Credential: "model", Models: []string{"night"}, PassTrace: true,
	}
}

// forge is the vendor of repositories, as agents reach it.
func (h *host) forge() http.Handler {
	return credential.Proxy(h.cfg.Vendors["forge"], h.vault, apidoor.Authorize(h.engine, h.log, gitHost, "forge", &apidoor.Options{Agents: h.registry}))
}

// start starts an agent in a session that is it, and ends with it.
func (h *host) start(ctx context.Context, name string, ended func(cause error)) error {
	text, err := files.ReadFile("sandbox.yaml")
	if err != nil {
		return err
	}
	walls, err := sandbox.LoadPolicy("sandbox.yaml", text)
	if err != nil {
		return err
	}
	actor, err := h.registry.Actor(name)
	if err != nil {
		return err
	}
	life, stop, err := h.registry.Context(ctx, actor)
	if err != nil {
		return err
	}
	box, err := sandbox.Start(life, walls, actor, h.log, &sandbox.Options{
		Engine: h.engine, Self: true, KeepWorkspace: func(error) bool { return true },
	})
	if err != nil {
		stop()
		return err
	}
	h.boxes[name] = box
	h.Later(func() error { defer stop(); return box.Close() })
	if err := errors.Join(box.Handle("tools.local", h.gateway), box.Handle("inference.local", h.router), box.Handle(gitHost, h.git)); err != nil {
		return err
	}
	cmd := box.Command(life, sandbox.Self, "agent", name)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		_ = cmd.Wait() // how it ended is on record
		<-box.Done()
		ended(context.Cause(life))
	}()
	return nil
}

// attempt tries each door once more as an agent, from this side, where no sandbox
// stands in between. It returns what each of them said.
func (h *host) attempt(ctx context.Context, name string) map[string]string {
	said := map[string]string{}
	actor := audit.Actor{Agent: name, Issuer: "session", Profile: "night"}
	if _, _, err := h.registry.Context(ctx, actor); err != nil {
		said["session"] = err.Error()
	}
	for door, req := range map[string]struct {
		handler            http.Handler
		method, path, body string
	}{
		"model": {h.router, "POST", "/v1/chat/completions", `{"model":"night","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}`},
		"git":   {h.git, "GET", "/team/" + name + ".git/info/refs?service=git-upload-pack", ""},
		"tool": {h.gateway, "POST", "/mcp", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"github__get_pull_request","arguments":{"number":1},` +
			`"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`},
	} {
		r := httptest.NewRequestWithContext(audit.WithActor(ctx, actor), req.method, req.path, strings.NewReader(req.body))
		for header, value := range map[string]string{
			"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2026-07-28",
			"Mcp-Method": "tools/call", "Mcp-Name": "github__get_pull_request",
		} {
			r.Header.Set(header, value)
		}
		w := httptest.NewRecorder()
		req.handler.ServeHTTP(w, r)
		said[door] = fmt.Sprintf("%d %s", w.Code, strings.TrimSpace(w.Body.String()))
	}
	return said
}
