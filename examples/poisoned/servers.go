package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/sandbox"
)

// npmServer makes the command of an MCP server that others have written, in a
// sandbox session of its own that reaches its vendor's API and nothing else. The
// server has no token either: the host serves that API inside, and adds it.
func (h *host) npmServer(name, origin string, vendor *httptest.Server, script string, env ...string) func(context.Context) mcpx.Command {
	return func(ctx context.Context) mcpx.Command {
		policy := &sandbox.Policy{
			Filesystem: sandbox.Filesystem{ReadOnly: append(present(sandbox.SystemPaths()), h.opts.servers)},
			Network:    sandbox.Network{Allow: []sandbox.Rule{{Host: origin, Ports: []uint16{443}, Served: true}}},
		}
		actor := audit.Actor{Agent: "server:" + name}
		box, err := sandbox.Start(ctx, policy, actor, h.log, nil)
		if err != nil {
			return broken{err}
		}
		var api http.Handler
		if h.opts.without == "scrubber" {
			api = careless(vendor, h.tokens[name])
		} else {
			proxy := credential.Proxy("https://"+origin, h.vault, h.authorize(name, origin))
			proxy.Transport = vendorAt{vendor}
			api = proxy
		}
		if err := box.Handle(origin, api); err != nil {
			return broken{errors.Join(err, box.Close())}
		}
		cmd := box.Command(ctx, h.opts.node(), filepath.Join(h.opts.servers, "node_modules", filepath.FromSlash(script)))
		cmd.Env = env
		return boxed{cmd, box}
	}
}

// authorize asks policy for each request of a server to its vendor, and for the
// token, and puts both on record.
func (h *host) authorize(name, origin string) credential.Authorize {
	return func(r *http.Request) (credential.Use, error) {
		ctx, actor := r.Context(), audit.ActorFrom(r.Context())
		reach, err := h.allow(ctx, governance.Request{Actor: actor, Action: "connect", Name: origin,
			Attrs: map[string]any{"host": origin, "method": r.Method, "path": r.URL.Path}})
		if err != nil {
			return credential.Use{}, err
		}
		use, err := h.allow(ctx, governance.Request{Actor: actor, Action: "use_credential", Name: name,
			Attrs: map[string]any{"server": origin, "purpose": "http"}})
		if err != nil {
			return credential.Use{}, err
		}
		call, err := h.log.Begin(ctx, audit.Intent{Door: audit.DoorCompute, Action: reach.Action, Resource: reach.Resource, Actor: actor,
			Decision: reach.Decision, Credential: &audit.CredentialUse{Name: name, Decision: use.Decision}})
		if err != nil {
			return credential.Use{}, err
		}
		return credential.Use{
			Lease: credential.LeaseRequest{Actor: actor, Credential: name, Purpose: "http", Decision: use.ID},
			Event: audit.Event{Door: audit.DoorCompute, Action: reach.Action, Resource: reach.Resource}, Log: h.log,
			End: func(ctx context.Context, out audit.Outcome) error {
				reach.Settle(governance.ResultOf(out))
				use.Settle(governance.ResultOf(out))
				return call.End(ctx, out)
			},
		}, nil
	}
}

// allow decides one request; a denial is put on record.
func (h *host) allow(ctx context.Context, q governance.Request) (governance.Decision, error) {
	d, err := h.engine.Decide(ctx, q)
	if err != nil || d.Allowed() {
		return d, err
	}
	return d, errors.Join(fmt.Errorf("%s of %s is denied", q.Action, q.Name), h.log.Append(ctx, audit.Event{
		Kind: audit.KindDenial, Door: audit.DoorCompute, Action: d.Action, Resource: d.Resource, Actor: q.Actor, Decision: &d.Decision}))
}

// careless is how a host adds a token when it has no scrubber.
func careless(vendor *httptest.Server, token string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("Authorization", "Bearer "+token)
		vendor.Config.Handler.ServeHTTP(w, r)
	})
}

// trustLive takes the tools of a server as it shows them now, unreviewed.
func (h *host) trustLive(ctx context.Context, bundle governance.Bundle, name string) (governance.Bundle, error) {
	text, err := mcpx.ReadCatalog(ctx, name, &mcp.StreamableClientTransport{Endpoint: h.world.notes.URL, DisableStandaloneSSE: true, MaxRetries: -1})
	if err != nil {
		return bundle, err
	}
	live, err := governance.ParseCatalog(name+".json", text)
	if err != nil {
		return bundle, err
	}
	bundle.Catalog = append(slices.DeleteFunc(bundle.Catalog, func(s governance.Server) bool { return s.Name == name }), live)
	return bundle, nil
}

// present are those of the paths that this machine has.
func present(paths []string) []string {
	return slices.DeleteFunc(slices.Clone(paths), func(path string) bool {
		_, err := os.Stat(path)
		return err != nil
	})
}

// boxed is a command whose session ends with it.
type boxed struct {
	*sandbox.Cmd
	box *sandbox.Session
}

func (b boxed) Start() error {
	err := b.Cmd.Start()
	if err != nil {
		err = errors.Join(err, b.box.Close())
	}
	return err
}

func (b boxed) Wait() error { return errors.Join(b.Cmd.Wait(), b.box.Close()) }

// broken is a command that does not start.
type broken struct{ err error }

func (b broken) StdinPipe() (io.WriteCloser, error) { return nil, b.err }
func (b broken) StdoutPipe() (io.ReadCloser, error) { return nil, b.err }
func (b broken) Start() error                       { return b.err }
func (b broken) Wait() error                        { return b.err }
