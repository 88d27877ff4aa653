package mcpx_test

import (
	"encoding/json"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/mcpx"
)

// The class in the catalogue says how much the log keeps of a call's arguments,
// and no door has to do anything for it.
func TestArgumentsAreKeptByClass(t *testing.T) {
	o := newOwn(t, 10)
	for i := range o.catalog.Tools {
		if o.catalog.Tools[i].Name == "zap" {
			o.catalog.Tools[i].Class = governance.Read
		}
	}
	o.reload(t, ownPolicy+`@id("zap") permit (principal == Agent::"bot", action == Action::"notes__zap", resource);`)
	o.server.AddReceivingMiddleware(mcpx.Govern(o.engine, o.log, &mcpx.GovernOptions{Identify: as(bot)}))
	cs := o.connect(t, modern)
	call := func(name, text string) audit.Record {
		n := len(o.log.Records())
		_, err := cs.CallTool(t.Context(), &mcp.CallToolParams{Name: name, Arguments: json.RawMessage(text)})
		require.NoError(t, err)
		return o.log.Records()[n]
	}
	r := call("add", `{"text":"note 7"}`)
	assert.Equal(t, audit.ClassDestructive, r.Intent.Class)
	assert.Equal(t, `{"text":"note 7"}`, string(o.log.Reveal(r)))
	r = call("zap", `{"text":"x"}`)
	assert.Equal(t, audit.ClassRead, r.Intent.Class)
	require.NotNil(t, r.Args)
	assert.False(t, r.Args.Kept)
	r = call("add", `{"text":"other"}`)
	require.NotNil(t, r.Event)
	assert.Equal(t, `{"text":"other"}`, string(o.log.Reveal(r)))
	assert.NotContains(t, string(o.log.Storage.Bytes())+string(o.log.Values.Bytes()), "note 7")
}
