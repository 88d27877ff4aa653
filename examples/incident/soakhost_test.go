//go:build linux && (amd64 || arm64)

package main

import (
	"bufio"
	"context"
	"crypto/x509"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/inference"
	"github.com/twinward-dev/twinward/inference/postgres"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/sandbox"
)

// This file is the soak's host: the one of the night, with more doors and more
// that can be done to it.

//go:embed testdata/soak
var soakFiles embed.FS

// soakConfig is what the soak's host is told.
type soakConfig struct {
	hostConfig
	Port int    // of the web
	CA   []byte // that the web is known by
	Mark string // that every process of this soak has in its arguments
}

// A soakHost is a host that ends with its process, or when it is told.
type soakHost struct {
	*host
	cfg    soakConfig
	disk   *soakDisk
	found  uint64 // records that were in the log, or came with opening it
	guests map[string]*guest
}

// pages is how often an agent may page somebody, and calls how often it may ask
// the model for [muchWord]: by facts and by a budget.
const pages, spends = 5, 5

func soakHostMain(config string) (err error) {
	ctx := context.Background()
	var cfg soakConfig
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		return err
	}
	h, err := newSoakHost(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close(h.log)) }()
	say := json.NewEncoder(os.Stdout)
	if err := say.Encode(word{Key: h.log.VerifierKey(), Said: map[string]string{"records": fmt.Sprint(h.found)}}); err != nil {
		return err
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		answer := word{Said: map[string]string{}}
		if err := h.obey(ctx, strings.Fields(lines.Text()), answer.Said); err != nil {
			answer.Error = err.Error()
		}
		if err := say.Encode(answer); err != nil {
			return err
		}
	}
	for name := range h.guests { // whatever they do
		err = errors.Join(err, h.drop(name))
	}
	return err
}

func newSoakHost(ctx context.Context, cfg soakConfig) (h *soakHost, err error) {
	h = &soakHost{host: &host{cfg: cfg.hostConfig}, cfg: cfg, guests: map[string]*guest{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Close(h.log))
		}
	}()
	dir := filepath.Join(cfg.Dir, "log")
	st, err := newDisk(dir)
	if err != nil {
		return h, err
	}
	h.disk = &soakDisk{disk: st}
	h.log, err = audit.New(h.disk, &audit.Options{Origin: "soak.example", KeyFile: filepath.Join(cfg.Dir, "log.key"), SegmentSize: 4 << 20})
	if err != nil {
		return h, err
	}
	h.found = h.log.Size()
	if err := errors.Join(h.openRegistry(ctx), h.openVault(ctx)); err != nil {
		return h, err
	}
	h.engine = governance.NewEngine(h.log, nil)
	if err := h.engine.Rebuild(audit.Scan(ctx, os.DirFS(dir), audit.Filter{})); err != nil {
		return h, err
	}
	if err := h.reload(ctx, "0"); err != nil {
		return h, err
	}
	return h, h.openDoors(ctx)
}

// reload puts policies into force of which each is different from the one before.
func (h *soakHost) reload(ctx context.Context, n string) error {
	rules, err := fs.Sub(soakFiles, "testdata/soak")
	if err != nil {
		return err
	}
	bundle, err := withChannel(rules, "policies/soak.cedar", "#soak-"+n)
	if err != nil {
		return err
	}
	profile := governance.Profile{ID: "soak", Owner: owner, Servers: map[string]governance.Grant{
		"github": {Tools: []string{"*"}}, "slack": {Tools: []string{"*"}}, "files": {Tools: []string{"*"}},
	}}
	for i := range 1000 {
		profile.Agents = append(profile.Agents, soakName(i+1))
	}
	bundle.Profiles = []governance.Profile{profile}
	_, err = h.engine.Reload(ctx, bundle, audit.Change{By: deployer, Reason: "CHG-" + n})
	return err
}

func (h *soakHost) openDoors(ctx context.Context) error {
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	h.gateway = mcpx.NewGateway(h.engine, h.log, &mcpx.GatewayOptions{Vault: h.vault, Agents: h.registry, Logger: logger})
	h.Later(h.gateway.Close)
	if err := h.addTools(ctx); err != nil {
		return err
	}
	if err := h.gateway.AddUpstream(ctx, mcpx.Stdio("files", h.files)); err != nil {
		return err
	}
	pool, err := pgxpool.New(ctx, h.cfg.DB)
	if err != nil {
		return err
	}
	h.Later(func() error { pool.Close(); return nil })
	ledger, err := postgres.Open(ctx, pool)
	if err != nil {
		return err
	}
	h.router, err = inference.NewRouter(inference.Config{
		Backends: []inference.Backend{h.model()},
		Breaker:  inference.Breaker{Failures: 5, Open: 100 * time.Millisecond},
		Spend: inference.Spend{
			Unfinished: inference.ChargeSeen,
			Budgets:    []inference.Budget{{Name: "all", Per: inference.PerAgent, Window: inference.WindowTotal, Tokens: spends * muchTokens}},
		},
	}, h.engine, h.log, &inference.Options{Vault: h.vault, Agents: h.registry, Ledger: ledger, Logger: logger})
	if err != nil {
		return err
	}
	h.Later(h.router.Close)
	h.git = h.forge()
	return nil
}

// files is the command of the server of files, in a session of its own.
func (h *soakHost) files(ctx context.Context) mcpx.Command {
	box, err := sandbox.Start(ctx, &sandbox.Policy{}, audit.Actor{Agent: "server:files"}, h.log, &sandbox.Options{Self: true, Workspace: filepath.Join(h.cfg.Dir, "files")})
	if err != nil {
		return mcpx.NoCommand(err)
	}
	cmd := box.Command(ctx, sandbox.Self, "soak-files", h.cfg.Mark)
	cmd.EndsSession = true
	return cmd
}

// obey does what a line says.
func (h *soakHost) obey(ctx context.Context, args []string, said map[string]string) error {
	arg := func(i int) string { return args[min(i, len(args)-1)] }
	switch args[0] {
	case "start": // a life
		return h.start(ctx, arg(1))
	case "stop":
		return h.stop(arg(1))
	case "gone": // waits for an end that somebody else has made
		g := h.guests[arg(1)]
		<-g.box.Done()
		said["cause"] = fmt.Sprint(context.Cause(g.life))
		return h.drop(arg(1))
	case "await": // until the registry lets an agent act, or does not any more
		return patiently(ctx, func() string { return arg(1) + " is " + arg(2) }, func() (bool, error) {
			_, end, err := h.registry.Context(ctx, audit.Actor{Agent: arg(1), Issuer: "session", Profile: "soak"})
			if err == nil {
				end()
			}
			return (err == nil) == (arg(2) == "active"), nil
		})
	case "network":
		g := h.guests[arg(1)]
		return g.box.SetNetwork(ctx, h.network(arg(2) == "open"), audit.Change{By: operator, Reason: "CHG-0: " + arg(2)})
	case "reload":
		return h.reload(ctx, arg(1))
	case "full": // or not any more
		h.disk.full.Store(arg(1) == "yes")
		return nil
	case "broken": // for ever
		h.disk.broken.Store(true)
		return nil
	case "knock":
		said["said"] = h.knock(ctx, arg(1), arg(2), arg(3))
		return nil
	case "checkpoint":
		c, err := h.log.Checkpoint(ctx)
		said["text"] = string(c.Text)
		return err
	case "figures":
		runtime.GC()
		runtime.GC() // what finalizers and pools held
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		said["heap"], said["goroutines"] = fmt.Sprint(m.HeapAlloc), fmt.Sprint(runtime.NumGoroutine())
		return keepHeap(m.HeapAlloc)
	case "stacks":
		var b strings.Builder
		err := pprof.Lookup("goroutine").WriteTo(&b, 1)
		said["stacks"] = b.String()
		return err
	}
	return fmt.Errorf("%q is no command", args)
}

// keepHeap writes down what the heap holds, for people who look for a leak.
func keepHeap(size uint64) error {
	dir := os.Getenv("TWINWARD_HEAP")
	if dir == "" {
		return nil
	}
	f, err := os.Create(filepath.Join(dir, fmt.Sprintf("%d-%d.pprof", os.Getpid(), size)))
	if err != nil {
		return err
	}
	return errors.Join(pprof.Lookup("heap").WriteTo(f, 0), f.Close())
}

// knock tries a door as an agent, from this side, where no sandbox stands in between.
func (h *soakHost) knock(ctx context.Context, name, trace, door string) string {
	tool := func(name, args string) (http.Handler, string, string) {
		return h.gateway, name, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"` + name + `","arguments":` + args +
			`,"_meta":{"traceparent":"` + trace + `","io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`
	}
	handler, called, body := tool("github__get_issue", `{"number":7}`)
	path := "/mcp"
	switch door {
	case "read":
		handler, called, body = tool("github__get_pull_request", `{"number":7}`)
	case "page":
		handler, called, body = tool("slack__page", `{"text":"page `+traceID(trace)+`"}`)
	case "spend":
		handler, path = h.router, "/v1/chat/completions"
		body = `{"model":"night","max_tokens":9,"messages":[{"role":"user","content":"` + muchWord + `"}]}`
	}
	actor := audit.Actor{Agent: name, Issuer: "session", Profile: "soak"}
	r := httptest.NewRequestWithContext(audit.WithActor(ctx, actor), http.MethodPost, path, strings.NewReader(body))
	for header, value := range map[string]string{
		"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2026-07-28",
		"Mcp-Method": "tools/call", "Mcp-Name": called, "Traceparent": trace,
	} {
		r.Header.Set(header, value)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return fmt.Sprintf("%d %s", w.Code, strings.TrimSpace(w.Body.String()))
}

// A soakDisk is the night's disk, until it is full or broken.
type soakDisk struct {
	disk
	full   atomic.Bool // as it says; what is written all the same finds room that is kept
	broken atomic.Bool // nothing can be written any more
}

func (d *soakDisk) Free() (int64, error) {
	if d.full.Load() {
		return 0, nil
	}
	return d.disk.Free()
}

func (d *soakDisk) Open(name string) (audit.StorageFile, error) {
	f, err := d.disk.Open(name)
	return &soakFile{f, d}, err
}

type soakFile struct {
	audit.StorageFile
	on *soakDisk
}

func (f *soakFile) WriteAt(p []byte, off int64) (int, error) {
	if f.on.broken.Load() {
		n, err := f.StorageFile.WriteAt(p[:len(p)/2], off)
		return n, errors.Join(err, syscall.ENOSPC)
	}
	return f.StorageFile.WriteAt(p, off)
}

// soakWeb is where the names of the web are: on this machine.
type soakWeb struct{}

func (soakWeb) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

func (h *soakHost) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(h.cfg.CA)
	return pool
}

// soakPart is the main function of the test binary's parts in a soak.
func soakPart() {
	if len(os.Args) != 3 {
		return
	}
	run := map[string]func(string) error{"soak-host": soakHostMain, "soak-agent": soakAgentMain, "soak-files": soakFilesMain}[os.Args[1]]
	if run == nil {
		return
	}
	if err := run(os.Args[2]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
	os.Exit(0)
}
