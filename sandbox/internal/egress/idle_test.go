package egress

import (
	"context"
	"io"
	"net"
	"net/http"
	"runtime"
	"testing"
	"time"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A connection without a request is closed after a while, and one with a request is
// not, however long that takes.
func TestIdleConnectionsEnd(t *testing.T) {
	in := newInside(t, []Rule{allow("tools.local", bothPorts)}, nil)
	in.door.web.rest = 500 * time.Millisecond // a client on a busy machine has to begin its request within
	require.NoError(t, in.door.Handle("tools.local", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(2 * in.door.web.rest)
		_, _ = io.WriteString(w, "slowly")
	})))
	c := in.client()
	for i, url := range []string{"https://tools.local/", "http://tools.local/"} {
		res, err := c.Get(url)
		require.NoError(t, err)
		b, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		assert.Equal(t, "slowly", string(b))
		require.Eventually(t, func() bool { return len(in.log.Records()) == 2*(i+1) }, time.Minute, time.Millisecond, "its outcome")
	}
}

// Of a door that was closed nothing stays in memory, also if a client had left with a
// request under way.
func TestClosedDoorIsForgotten(t *testing.T) {
	var door weak.Pointer[Door]
	t.Run("door", func(t *testing.T) {
		in := newInside(t, []Rule{allow("tools.local", bothPorts)}, nil)
		door = weak.Make(in.door)
		entered := make(chan struct{})
		require.NoError(t, in.door.Handle("tools.local", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			close(entered)
			<-r.Context().Done()
		})))
		var raw net.Conn
		client := in.client()
		dial := client.Transport.(*http.Transport).DialContext
		client.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, addr string) (_ net.Conn, err error) {
			raw, err = dial(ctx, network, addr)
			return raw, err
		}
		left := make(chan struct{})
		go func() {
			defer close(left)
			_, _ = client.Get("https://tools.local/")
		}()
		<-entered
		require.NoError(t, raw.Close())
		<-left
		in.closed()
	})
	assert.Eventually(t, func() bool {
		runtime.GC()
		return door.Value() == nil
	}, time.Minute, 10*time.Millisecond)
}
