package mcpx_test

import (
	"context"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// A client hears of a resource for as long as policy lets it.
func TestSubscriptionsEndWithPolicy(t *testing.T) {
	for _, version := range []string{legacy, modern} {
		live := wiki()
		f := newFed(t, map[string]*mcp.Server{"wiki": wiki()})
		f.add("wiki", live, "memory")
		heard := make(chan string, 4096)
		a, err := mcp.NewClient(&mcp.Implementation{Name: "a", Version: "1"}, &mcp.ClientOptions{
			ResourceUpdatedHandler: func(_ context.Context, r *mcp.ResourceUpdatedNotificationRequest) { heard <- r.Params.URI },
		}).Connect(t.Context(), &mcp.StreamableClientTransport{Endpoint: mcptest.Door(t, f.gateway, bot).URL}, &mcp.ClientSessionOptions{ProtocolVersion: version})
		require.NoError(t, err)
		defer a.Close()
		for _, uri := range []string{"wiki://page/1", "wiki://page/2"} {
			require.NoError(t, a.Subscribe(t.Context(), &mcp.SubscribeParams{URI: uri}))
		}
		f.bundle.Policies[0].Text = fedPolicy + `@id("now") forbid (principal, action == Action::"subscribe", resource == Resource::"wiki__wiki://page/1");`
		_, err = f.engine.Reload(t.Context(), f.bundle, admin)
		require.NoError(t, err)
		// In the newer era nothing says that the subscription is there: changes are
		// repeated until one comes.
		for n := 0; ; n++ {
			require.Less(t, n, 300, "nothing was heard")
			for _, uri := range []string{"wiki://page/1", "wiki://page/2"} {
				require.NoError(t, live.ResourceUpdated(t.Context(), &mcp.ResourceUpdatedNotificationParams{URI: uri}))
			}
			select {
			case uri := <-heard:
				assert.Equal(t, "wiki://page/2", uri, version)
			case <-time.After(10 * time.Millisecond):
				continue
			}
			break
		}
	}
}
