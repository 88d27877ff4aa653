package mcpx_test

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"

	"github.com/twinward-dev/twinward/mcpx"
)

// A server that never answers does not hold up whoever writes a catalogue.
func TestReadCatalogGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, _ := io.Pipe()
		out, sent := io.Pipe()
		go io.Copy(io.Discard, out)
		began := time.Now()
		_, err := mcpx.ReadCatalog(context.Background(), "mute", &mcp.IOTransport{Reader: in, Writer: sent})
		assert.ErrorIs(t, err, mcpx.ErrCatalog)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, time.Minute, time.Since(began).Truncate(time.Second)) // by the bubble's own clock
	})
}
