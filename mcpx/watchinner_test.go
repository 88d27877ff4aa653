package mcpx

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A client that subscribes to what it is subscribed to, and leaves while it does, has
// what it had.
func TestSubscribingTwiceTakesNothingBack(t *testing.T) {
	g := NewGateway(nil, nil, nil)
	t.Cleanup(func() { g.Close() })
	key, ss := watchKey{"wiki", "bot", "wiki://page/1"}, new(mcp.ServerSession)
	w := &watch{ready: make(chan struct{}), clients: map[*mcp.ServerSession]*watcher{ss: {ids: []json.RawMessage{nil}}}, place: newPlace(g.pool.life)}
	close(w.ready)
	g.watches.by = map[watchKey]*watch{key: w}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 { // either end of the wait may come first
		_ = g.watch(ctx, key, new(flight), new(Upstream), ss, nil)
	}
	assert.Contains(t, w.clients, ss)
	assert.Nil(t, w.gone)
}

// Nothing is subscribed to once that is closed, since nobody would end it.
func TestNothingIsWatchedOnceClosed(t *testing.T) {
	g := NewGateway(nil, nil, nil)
	g.watches.close()
	err := g.watch(t.Context(), watchKey{}, new(flight), new(Upstream), new(mcp.ServerSession), nil)
	fail, ok := asFailure(err)
	require.True(t, ok)
	assert.Equal(t, "closing", fail.code)
	require.NoError(t, g.Close())
}
