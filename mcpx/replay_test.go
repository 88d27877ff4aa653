package mcpx

import (
	"strconv"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What may be sent again is bounded for a session, an owner and in all, and what
// is gone is said to be gone.
func TestReplayIsBounded(t *testing.T) {
	r := newReplay(func(session string) string { return session[:1] })
	after := func(session, stream string, index int) (n int, err error) {
		for _, e := range r.After(t.Context(), session, stream, index) {
			if e != nil {
				return n, e
			}
			n++
		}
		return n, nil
	}
	put := func(session, stream string, size int) error {
		require.NoError(t, r.Open(t.Context(), session, stream))
		return r.Append(t.Context(), session, stream, make([]byte, size))
	}
	require.NoError(t, put("a1", "s", 10))
	require.NoError(t, put("a1", "s", 10))
	n, err := after("a1", "s", 0)
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	n, err = after("a1", "s", 99)
	require.NoError(t, err)
	assert.Zero(t, n)

	for i := range maxReplayStreams {
		require.NoError(t, put("a1", strconv.Itoa(i), 10))
	}
	_, err = after("a1", "s", -1)
	assert.ErrorIs(t, err, mcp.ErrEventsPurged)
	assert.ErrorIs(t, r.Append(t.Context(), "a1", "s", nil), errNotKept)

	// One owner takes nothing away from another.
	require.NoError(t, put("b1", "s", 10))
	for i := range 100 {
		require.NoError(t, put("a2", "big"+strconv.Itoa(i), maxReplayOwner/4))
	}
	assert.LessOrEqual(t, r.of["a"], maxReplayOwner)
	n, err = after("b1", "s", -1)
	assert.NoError(t, err)
	assert.Equal(t, 1, n)
	assert.ErrorIs(t, put("b1", "huge", maxReplayOwner+1), errNotKept)
	for i := range 100 {
		_ = put(string(rune('c'+i))+"1", "s", maxReplayOwner/2)
	}
	assert.LessOrEqual(t, r.size, maxReplay)

	for session := range r.sessions {
		require.NoError(t, r.SessionClosed(t.Context(), session))
	}
	assert.Zero(t, r.size)
	assert.Empty(t, r.of)
	assert.Zero(t, r.order.Len())

	// The stream that belongs to no request is not kept, and may be listened to.
	assert.ErrorIs(t, put("a1", "", 10), errNotKept)
	n, err = after("a1", "", -1)
	assert.NoError(t, err)
	assert.Zero(t, n)
}
