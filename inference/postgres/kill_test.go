//go:build unix

package postgres_test

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest/pgtest"
	"github.com/twinward-dev/twinward/inference/postgres"
)

// killedHost is the environment variable that makes this test's binary the host that
// is killed: its database, the backend's address, and the folder of its log.
const killedHost = "TWINWARD_TEST_KILLED_HOST"

// TestBeTheKilledHost is that host, and nothing otherwise.
func TestBeTheKilledHost(t *testing.T) {
	job := strings.Split(os.Getenv(killedHost), "\n")
	if len(job) != 3 {
		return
	}
	log, err := audit.Open(job[2], nil)
	require.NoError(t, err)
	pool, err := pgxpool.New(t.Context(), job[0])
	require.NoError(t, err)
	fmt.Println(openDoor(t, open(t, pool), log, job[1], 1_000_000).URL)
	select {}
}

// A host that is killed in the middle of a call leaves its hold in the database. It
// counts as used for all other hosts, also after its row has expired: nothing that was
// set aside for a call comes back, because nobody knows what the provider bills. One
// that is killed while the call ends leaves the hold, or has settled it, and the
// account says which.
func TestKilledHostLosesNoHold(t *testing.T) {
	server := pgtest.Start(t)
	pool := connect(t, server)
	require.NoError(t, postgres.Migrate(t.Context(), pool))
	stages := map[string]func(w http.ResponseWriter, kill func()) error{
		"before the answer": func(w http.ResponseWriter, kill func()) error {
			kill()
			return nil
		},
		"in the stream": func(w http.ResponseWriter, kill func()) error {
			defer kill()
			return say(w, word)
		},
		"at the end": func(w http.ResponseWriter, kill func()) error { // while it settles, or not yet, or already
			time.AfterFunc(rand.N(4*time.Millisecond), kill)
			return say(w, word+usage+done)
		},
		"after it": func(w http.ResponseWriter, _ func()) error { // when the client has all
			return say(w, word+usage+done)
		},
	}
	rounds := 5
	if os.Getenv("TWINWARD_SOAK") == "1" {
		rounds = 30
	}
	for name, stage := range stages {
		t.Run(name, func(t *testing.T) {
			for range rounds {
				before := spent(t, pool)
				callOfKilledHost(t, server.DSN(), stage, name == "after it")
				awaitNobody(t, pool)
				left := holds(t, pool)
				if name == "after it" || name == "at the end" && left == 0 {
					assert.Zero(t, left)
					assert.Equal(t, used, spent(t, pool)-before, "it was settled with what the backend said")
				} else {
					assert.Equal(t, held, left, "the hold is there")
					assert.Equal(t, held, spent(t, pool)-before, "and counts as used")
				}
				before = spent(t, pool)
				_, err := pool.Exec(t.Context(), `update twinward_budget_hold set expires = now() - interval '1 second'`)
				require.NoError(t, err)
				require.NoError(t, open(t, pool).Purge(t.Context()))
				assert.Zero(t, holds(t, pool))
				assert.Equal(t, before, spent(t, pool), "what was held came back")
			}
		})
	}
}

// awaitNobody returns when the server has done what the killed host still asked of it.
func awaitNobody(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	for n := 1; n > 0; time.Sleep(time.Millisecond) {
		require.NoError(t, pool.QueryRow(t.Context(), `select count(*) from pg_stat_activity where application_name = 'killed'`).Scan(&n))
	}
}

// callOfKilledHost has a host make one call, in which the backend kills it, or the
// client when the call has ended.
func callOfKilledHost(t *testing.T, dsn string, stage func(http.ResponseWriter, func()) error, ended bool) {
	t.Helper()
	host := exec.Command(os.Args[0], "-test.run=^TestBeTheKilledHost$")
	dead := make(chan struct{})
	kill := sync.OnceFunc(func() {
		assert.NoError(t, host.Process.Kill())
		close(dead)
	})
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err != nil {
			return
		}
		_ = stage(w, kill)
		if !ended {
			<-r.Context().Done() // the host is dead
		}
	}))
	defer backend.Close()
	host.Env = append(os.Environ(), killedHost+"="+strings.Join([]string{dsn + " application_name=killed", backend.URL, t.TempDir() + "/log"}, "\n"))
	host.Stderr = os.Stderr
	out, err := host.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, host.Start())
	door, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	resp, err := http.Post(strings.TrimSpace(door)+"/v1/chat/completions", "application/json", strings.NewReader(ask))
	if err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	if ended {
		kill()
	}
	<-dead
	_ = host.Wait()
}
