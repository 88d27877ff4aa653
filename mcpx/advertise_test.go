//lint:file-ignore SA1019 logging is deprecated, and clients of the older era use it

package mcpx_test

import (
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/mcpx"
)

// The handshake offers nobody what policy would refuse to them whatever they ask.
func TestCapabilitiesArePerActor(t *testing.T) {
	eras(t, func(t *testing.T, version string) {
		f := newFed(t, map[string]*mcp.Server{"wiki": wiki()})
		f.add("wiki", wiki(), "memory")
		all := f.agent(bot, version).InitializeResult().Capabilities
		assert.NotNil(t, all.Logging)
		assert.NotNil(t, all.Completions)
		some := f.agent(other, version).InitializeResult().Capabilities // reads and subscribes to pages only
		assert.Nil(t, some.Logging)
		assert.Nil(t, some.Completions)
		assert.NotNil(t, some.Resources)
		assert.NotNil(t, some.Tools)

		o := newOwn(t, 0)
		o.server.AddReceivingMiddleware(mcpx.Govern(o.engine, o.log, &mcpx.GovernOptions{Identify: as(bot)}))
		own := o.connect(t, version).InitializeResult().Capabilities
		assert.Nil(t, own.Logging)
		assert.NotNil(t, own.Completions)
		o.reload(t, `@id("add") permit (principal, action == Action::"notes__add", resource);`)
		assert.Nil(t, o.connect(t, version).InitializeResult().Capabilities.Completions)
		require.Empty(t, o.ran)
	})
}
