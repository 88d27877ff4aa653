//go:build unix

package postgres_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest/pgtest"
	"github.com/twinward-dev/twinward/audit/postgres"
)

// BenchmarkDurable appends to a server that syncs: each append is committed when
// it returns. Beside it, the same lines are inserted by a transaction each, on a
// connection for each writer, as a host without a log would.
func BenchmarkDurable(b *testing.B) {
	server := pgtest.Start(b, pgtest.Durable)
	pool, err := pgxpool.New(b.Context(), server.DSN()+" pool_max_conns=64")
	require.NoError(b, err)
	defer pool.Close()
	require.NoError(b, postgres.Migrate(b.Context(), pool))
	ev := denial("slack__delete_message")
	ev.Kind = audit.KindProbe // never only counted
	ev.Resource = strings.Repeat("x", 300)
	line, err := audit.Record{Seq: 1, Time: time.Now(), Event: &ev}.MarshalJSON()
	require.NoError(b, err)
	_, err = pool.Exec(b.Context(), "create table plain (id bigint generated always as identity primary key, record jsonb)")
	require.NoError(b, err)
	for _, writers := range []int{1, 16, 64} {
		log, err := postgres.Open(b.Context(), pool, fmt.Sprint("bench", writers), &postgres.Options{Log: audit.Options{Key: newKey(b, fmt.Sprint("bench", writers))}})
		require.NoError(b, err)
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			var logged, inserted []time.Duration
			var logging, inserting time.Duration
			for b.Loop() { // alternated, so that a busy machine slows both
				took, all := appends(b, writers, func() error { return log.Append(b.Context(), ev) })
				logged, logging = append(logged, took...), logging+all
				took, all = appends(b, writers, func() error {
					_, err := pool.Exec(b.Context(), "insert into plain (record) values ($1)", string(line))
					return err
				})
				inserted, inserting = append(inserted, took...), inserting+all
			}
			rate := func(took []time.Duration, all time.Duration) float64 { return float64(len(took)) / all.Seconds() }
			b.ReportMetric(rate(logged, logging), "appends/s")
			b.ReportMetric(rate(logged, logging)/rate(inserted, inserting), "x-inserts")
			b.ReportMetric(p99(logged), "p99-ms")
			b.ReportMetric(p99(inserted), "insert-p99-ms")
			b.ReportMetric(0, "ns/op")
		})
		require.NoError(b, log.Close())
	}
}

// appends calls f a number of times from each writer, and returns how long each
// call took, and all of them.
func appends(b *testing.B, writers int, f func() error) (took []time.Duration, all time.Duration) {
	const each = 50
	took = make([]time.Duration, writers*each)
	begin := time.Now()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				start := time.Now()
				if err := f(); err != nil {
					b.Error(err)
					return
				}
				took[w*each+i] = time.Since(start)
			}
		})
	}
	wg.Wait()
	return took, time.Since(begin)
}

func p99(took []time.Duration) float64 {
	slices.Sort(took)
	return float64(took[len(took)*99/100]) / 1e6
}
