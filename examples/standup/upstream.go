package main

import (
	"context"
	"net/http"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
)

// readCatalog lists the tools of a live server, with the vendor's token. It is
// the operator who reads, before there is an agent.
func (h *host) readCatalog(ctx context.Context, name, url string) (governance.Server, error) {
	origin, err := h.bind(ctx, name, url)
	if err != nil {
		return governance.Server{}, err
	}
	lease, err := h.vault.Lease(ctx, credential.LeaseRequest{
		Actor: audit.Actor{Agent: "operator"}, Credential: name, Origin: origin, Purpose: "catalogue"})
	if err != nil {
		return governance.Server{}, err
	}
	defer lease.Release()
	text, err := mcpx.ReadCatalog(ctx, name, &mcp.StreamableClientTransport{
		Endpoint: url, DisableStandaloneSSE: true, MaxRetries: -1,
		HTTPClient: &http.Client{Transport: lease.Transport(http.DefaultTransport)}})
	if err != nil {
		return governance.Server{}, err
	}
	return governance.ParseCatalog(name+".json", text)
}
