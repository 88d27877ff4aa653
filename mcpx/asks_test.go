//lint:file-ignore SA1019 sampling is deprecated, and servers of the older era ask for it

package mcpx_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// tardy is a log that takes longer for one action than others take for theirs.
type tardy struct {
	audit.Recorder
	action string
}

func (l tardy) Append(ctx context.Context, ev audit.Event) error {
	if ev.Action == l.action {
		for range 10_000 {
			runtime.Gosched()
		}
	}
	return l.Recorder.Append(ctx, ev)
}

// What a server asks before its result is on record before the call has ended, also
// if it does not wait for the answer: by then another call has the session.
func TestQuestionsEndBeforeTheirCall(t *testing.T) {
	for _, slow := range []bool{false, true} {
		t.Run(fmt.Sprint("slow ", slow), func(t *testing.T) {
			log := audittest.NewLog(t)
			w := newWorld(t, &setup{log: tardy{log, "sample"}})
			s := newScript(t, w.servers["slack"], legacy)
			s.answer = says(200, "text/event-stream", `data: {"jsonrpc":"2.0","id":77,"method":"sampling/createMessage","params":{"messages":[],"maxTokens":9}}

data: {"jsonrpc":"2.0","id":ID,"result":{"content":[{"type":"text","text":"done"}]}}

`)
			gw := mcpx.NewGateway(w.engine, tardy{log, "sample"}, nil)
			t.Cleanup(func() { gw.Close() })
			if slow {
				mcpx.SlowOnly(gw)
			}
			require.NoError(t, gw.AddUpstream(t.Context(), mcpx.HTTP("slack", s.URL)))
			a := mcptest.Connect(t, mcptest.Door(t, gw, bot).URL, nil)
			for range 20 {
				before := len(log.Records())
				res, err := a.Call(t.Context(), "slack__post_message", goodArgs)
				require.NoError(t, err)
				assert.Equal(t, "done", mcptest.Text(res))
				recs := log.Records()[before:]
				require.Len(t, recs, 3)
				assert.NotNil(t, recs[0].Intent)
				require.NotNil(t, recs[1].Event)
				assert.Equal(t, "sample", recs[1].Event.Action)
				assert.NotNil(t, recs[2].Outcome)
			}
		})
	}
}

// A server that has its result does not wait for the answer that it asked for, and
// so its call does not either, nor does its next call hear of it.
func TestAnswersAreNotWaitedFor(t *testing.T) {
	for _, aside := range []bool{false, true} {
		t.Run(fmt.Sprint("aside ", aside), func(t *testing.T) {
			m := newMarket(t, true, mayAsk)
			m.shop.asks, m.shop.aside, m.shop.hasty = []mcp.InputRequest{form("Which size?")}, aside, make(chan struct{})
			var c customer
			opts := c.options()
			opts.ElicitationHandler = func(ctx context.Context, _ *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
				close(m.shop.hasty)
				select { // nobody answers
				case <-ctx.Done():
				case <-t.Context().Done(): // the SDK sends that it is taken back beside the result, maybe too late
				}
				return nil, context.Canceled
			}
			before := len(m.log.Records())
			res, err := m.connect(bot, legacy, opts).Call(t.Context(), "shop__order", `{}`)
			require.NoError(t, err)
			require.Equal(t, "ordered", mcptest.Text(res))
			recs := m.log.Records()[before:]
			require.Len(t, recs, 4)
			assert.Equal(t, "shop__order", recs[0].Intent.Action)
			assert.Equal(t, "elicit", recs[1].Intent.Action)
			require.NotNil(t, recs[2].Outcome)
			assert.Equal(t, recs[1].Seq, recs[2].Call)
			assert.Equal(t, audit.StatusCancelled, recs[2].Outcome.Status)
			require.NotNil(t, recs[3].Outcome)
			assert.Equal(t, recs[0].Seq, recs[3].Call)
			assert.Equal(t, audit.StatusOK, recs[3].Outcome.Status)
		})
	}
}
