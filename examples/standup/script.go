package main

import (
	"context"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/inference/inferencetest"
	"github.com/twinward-dev/twinward/mcpx"
)

// script is the default model: it does the standup, then everything that it
// should not. It wants the host's key.
func script(key string) *inferencetest.Script {
	var turns []inferencetest.Turn
	for _, c := range append(deeds(), misdeeds()...) {
		turns = append(turns, inferencetest.Turn{Calls: []inferencetest.Call{{Name: c.Name, Args: c.Args}}})
	}
	s := inferencetest.NewScript(turns...)
	s.Key = key
	return s
}

// readCatalog lists the tools of a live server.
func readCatalog(ctx context.Context, name, url string) (governance.Server, error) {
	text, err := mcpx.ReadCatalog(ctx, name, &mcp.StreamableClientTransport{Endpoint: url, DisableStandaloneSSE: true})
	if err != nil {
		return governance.Server{}, err
	}
	return governance.ParseCatalog(name, text)
}
