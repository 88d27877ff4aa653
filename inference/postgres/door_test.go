//go:build unix

package postgres_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/audit/audittest/pgtest"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/inference"
	"github.com/twinward-dev/twinward/inference/postgres"
)

// What a door is asked in these tests: a body of as many tokens as bytes, and up to
// nine more, which with the slack of a stream are held as 25.
const (
	ask   = `{"model":"good","stream":true,"max_tokens":9,"messages":[]}`
	held  = int64(len(ask)) + most
	most  = 9 + 16
	word  = `data: {"choices":[{"delta":{"content":"x"}}]}` + "\n\n"
	usage = `data: {"choices":[],"usage":{"prompt_tokens":30,"completion_tokens":4}}` + "\n\n"
	done  = "data: [DONE]\n\n"
	used  = int64(34)
)

// openDoor serves a router whose budget of that many tokens, for ever and for all of
// its calls, is in the ledger.
func openDoor(t *testing.T, ledger inference.Ledger, log audit.Recorder, backend string, tokens int64) *httptest.Server {
	t.Helper()
	engine := governance.NewEngine(log, nil)
	_, err := engine.Reload(t.Context(), governance.Bundle{Policies: []governance.Source{{Name: "p.cedar", Text: `
@id("models") permit (principal == Agent::"bot", action == Action::"invoke_model", resource);`}}}, audit.Change{By: "ops", Reason: "test"})
	require.NoError(t, err)
	router, err := inference.NewRouter(inference.Config{
		Backends: []inference.Backend{{Name: "openai", BaseURL: backend + "/v1", Models: []string{"good"}}},
		Spend: inference.Spend{Budgets: []inference.Budget{
			{Name: "all", Per: inference.PerHost, Window: inference.WindowTotal, Tokens: tokens},
		}},
	}, engine, log, &inference.Options{Ledger: ledger})
	require.NoError(t, err)
	t.Cleanup(func() { router.Close() })
	door := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		router.ServeHTTP(w, r.WithContext(audit.WithActor(r.Context(), audit.Actor{Agent: "bot", Issuer: "session", Session: "s"})))
	}))
	t.Cleanup(door.Close)
	return door
}

// say sends a part of a stream.
func say(w http.ResponseWriter, text string) error {
	w.Header().Set("Content-Type", "text/event-stream")
	if _, err := io.WriteString(w, text); err != nil {
		return err
	}
	return http.NewResponseController(w).Flush()
}

// 64 streams at once through the doors of two hosts, of a backend that never stops by
// itself, spend no more than was reserved, and no more than the budget holds.
func TestParallelStreamsOfManyHostsNeverOverspend(t *testing.T) {
	server := pgtest.Start(t)
	require.NoError(t, postgres.Migrate(t.Context(), connect(t, server)))
	const budget = 20*held + held/2
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil && say(w, word) == nil {
		}
	}))
	defer backend.Close()
	log := audittest.NewLog(t)
	var doors [2]*httptest.Server
	for i := range doors {
		doors[i] = openDoor(t, open(t, connect(t, server)), log, backend.URL, budget)
	}
	var (
		wg               sync.WaitGroup
		words, cut, full atomic.Int64
	)
	for i := range 64 {
		wg.Go(func() {
			resp, err := http.Post(doors[i%2].URL+"/v1/chat/completions", "application/json", strings.NewReader(ask))
			if !assert.NoError(t, err) {
				return
			}
			defer resp.Body.Close()
			got, _ := io.ReadAll(resp.Body)
			words.Add(int64(strings.Count(string(got), `"content":"x"`)))
			switch {
			case resp.StatusCode == http.StatusTooManyRequests:
				full.Add(1)
			case strings.Contains(string(got), `"code":"model-budget"`):
				cut.Add(1)
			}
		})
	}
	wg.Wait()
	for _, door := range doors {
		door.Close()
	}
	assert.EqualValues(t, 20, cut.Load())
	assert.EqualValues(t, 44, full.Load())
	assert.LessOrEqual(t, words.Load(), int64(20*most))
	pool := connect(t, server)
	assert.Equal(t, 20*held, spent(t, pool))
	assert.Zero(t, holds(t, pool), "all are settled")
}

// spent is what the one account has come to, and holds how much of it is held.
func spent(t *testing.T, q querier) int64 { return sum(t, q, `twinward_budget_account`) }
func holds(t *testing.T, q querier) int64 { return sum(t, q, `twinward_budget_hold`) }

type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func sum(t *testing.T, q querier, table string) (tokens int64) {
	t.Helper()
	require.NoError(t, q.QueryRow(t.Context(), fmt.Sprintf(`select coalesce(sum(tokens), 0)::bigint from %s`, table)).Scan(&tokens))
	return tokens
}
