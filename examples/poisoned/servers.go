package main

import (
	"context"
	"errors"
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
	"github.com/twinward-dev/twinward/sandbox/apidoor"
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
			return mcpx.NoCommand(err)
		}
		var api http.Handler
		if h.opts.without == "scrubber" {
			api = careless(vendor, h.tokens[name])
		} else {
			proxy := credential.Proxy("https://"+origin, h.vault, apidoor.Authorize(h.engine, h.log, origin, name, nil))
			proxy.Transport = vendorAt{vendor}
			api = proxy
		}
		if err := box.Handle(origin, api); err != nil {
			return mcpx.NoCommand(errors.Join(err, box.Close()))
		}
		cmd := box.Command(ctx, h.opts.node(), filepath.Join(h.opts.servers, "node_modules", filepath.FromSlash(script)))
		cmd.Env, cmd.EndsSession = env, true
		return cmd
	}
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
