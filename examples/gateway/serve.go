package main

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// handler serves the endpoint and, unless others issue them, the agents' tokens.
func (g *gateway) handler() http.Handler {
	mux := http.NewServeMux()
	tools := g.mcp.Handler(g.agents)
	mux.Handle(g.endpoint().Path, tools)
	mux.Handle("/.well-known/oauth-protected-resource/", tools)
	mux.Handle("/", g.agents.Handler())
	return mux
}

// serve serves until ctx ends, and loads the rules again on SIGHUP.
func (g *gateway) serve(ctx context.Context, by audit.Change) error {
	again := make(chan os.Signal, 1)
	signal.Notify(again, syscall.SIGHUP)
	defer signal.Stop(again)
	server := &http.Server{Addr: g.Listen, Handler: g.handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServeTLS(g.path(g.Certificate), g.path(g.Key)) }()
	g.logger.Info("gateway: serving", "at", g.Listen, "resource", g.Resource, "policy", g.engine.Hash())
	for {
		select {
		case <-again:
			by.Reason = "SIGHUP"
			if err := g.load(ctx, by); err != nil {
				g.logger.Error("gateway: the rules stay as they are", "error", err)
			}
		case err := <-ended:
			return err
		case <-ctx.Done():
			wait, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			return errors.Join(g.mcp.Close(), server.Shutdown(wait)) // streams end with the gateway
		}
	}
}
