package mcpx_test

import (
	"context"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
)

// wikiServer has prompts and resources.
func wikiServer() *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "wiki", Version: "1"}, nil)
	s.AddPrompt(&mcp.Prompt{Name: "review", Description: "Reviews.", Arguments: []*mcp.PromptArgument{{Name: "page", Required: true}}},
		func(_ context.Context, r *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
			return &mcp.GetPromptResult{Messages: []*mcp.PromptMessage{{Role: "user", Content: &mcp.TextContent{Text: "Review " + r.Params.Arguments["page"]}}}}, nil
		})
	read := func(_ context.Context, r *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
		return &mcp.ReadResourceResult{Contents: []*mcp.ResourceContents{{URI: r.Params.URI, Text: "text of " + r.Params.URI}}}, nil
	}
	s.AddResource(&mcp.Resource{URI: "wiki://index", Name: "index", MIMEType: "text/plain"}, read)
	s.AddResourceTemplate(&mcp.ResourceTemplate{URITemplate: "wiki://page/{id}", Name: "page"}, read)
	return s
}

func TestCatalogOfOffers(t *testing.T) {
	c, err := mcpx.Catalog(t.Context(), "wiki", wikiServer())
	require.NoError(t, err)
	want := governance.Server{
		Name: "wiki", Tools: []governance.Tool{},
		Prompts:           []governance.Prompt{{Name: "review", Description: "Reviews.", Arguments: []governance.PromptArgument{{Name: "page", Required: true}}}},
		Resources:         []governance.Resource{{URI: "wiki://index", Name: "index", MIMEType: "text/plain"}},
		ResourceTemplates: []governance.ResourceTemplate{{URITemplate: "wiki://page/{id}", Name: "page"}},
	}
	assert.Equal(t, want, c)

	// The file that is written is the file that is read.
	here, there := mcp.NewInMemoryTransports()
	ss, err := wikiServer().Connect(t.Context(), there, nil)
	require.NoError(t, err)
	defer ss.Close()
	text, err := mcpx.ReadCatalog(t.Context(), "wiki", here)
	require.NoError(t, err)
	read, err := governance.ParseCatalog("wiki.json", text)
	require.NoError(t, err)
	assert.Equal(t, want.Prompts, read.Prompts)
	assert.Equal(t, want.Resources, read.Resources)
	assert.Equal(t, want.ResourceTemplates, read.ResourceTemplates)
	_, _, err = governance.Compile(t.Context(), governance.Bundle{Catalog: []governance.Server{read}}, nil)
	assert.NoError(t, err)
}
