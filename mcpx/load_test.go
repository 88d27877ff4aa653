package mcpx_test

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// rounds scales a loop: all of n in a soak, a tenth when asked for, else less.
func rounds(n int) int {
	switch {
	case os.Getenv("TWINWARD_SOAK") == "1":
		return n
	case os.Getenv("TWINWARD_FULL") == "1":
		return n / 10
	}
	return max(n/100, 4)
}

// Many agents at once, allowed and denied calls mixed: as many calls reach the
// upstream as there are intents, each intent has an outcome, and each denial is
// there.
func TestManyAtOnce(t *testing.T) {
	w := newWorld(t, nil)
	each := rounds(1000)
	var agents []*mcptest.Agent
	for _, version := range []string{legacy, modern, legacy, modern} {
		agents = append(agents, w.agent(bot, version))
	}
	n := w.mark()
	var wg sync.WaitGroup
	errs := make(chan error, 8)
	for i, a := range agents {
		for _, channel := range []string{"#engineering", "#executive"} {
			wg.Go(func() {
				for j := range each {
					res, err := a.Call(t.Context(), "slack__post_message", fmt.Sprintf(`{"channel":%q,"text":"%d %d"}`, channel, i, j))
					if err != nil || res.IsError != (channel == "#executive") {
						errs <- fmt.Errorf("%s: %v %v", channel, res, err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	want := each * len(agents)
	assert.Len(t, w.slack.Calls(), want)
	require.NoError(t, w.log.Close()) // like denials are counted, and the counts are written now
	begun, ended, denied := map[uint64]bool{}, 0, 0
	for _, r := range w.since(n) {
		switch {
		case r.Intent != nil:
			begun[r.Seq] = true
		case r.Outcome != nil:
			assert.True(t, begun[r.Call])
			assert.Equal(t, audit.StatusOK, r.Outcome.Status)
			ended++
		case r.Event.Kind == audit.KindDenial:
			denied += int(r.Event.Count())
		}
	}
	assert.Len(t, begun, want)
	assert.Equal(t, want, ended)
	assert.Equal(t, want, denied)
}

// Once everything is closed, nothing of it runs.
func TestNothingIsLeft(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("world", func(t *testing.T) {
		w := newWorld(t, nil)
		for _, version := range []string{legacy, modern} {
			a := w.agent(bot, version)
			for _, tool := range []string{"github__list_prs", "slack__post_message", "snowflake__query"} {
				_, _ = a.Call(t.Context(), tool, `{"repo":"r"}`)
			}
		}
		c := &children{kind: "server"}
		_, gw := stdioWorld(t, c, nil)
		a := mcptest.Connect(t, mcptest.Door(t, gw, bot).URL, nil)
		_, err := a.Call(t.Context(), "child__pid", `{}`)
		require.NoError(t, err)
	})
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+2 }, time.Minute, 10*time.Millisecond,
		"%d goroutines before", before)
}
