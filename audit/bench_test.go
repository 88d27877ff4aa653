package audit_test

import (
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// BenchmarkDurable appends to a file: each append is on the disk when it
// returns.
func BenchmarkDurable(b *testing.B) {
	for _, writers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			log := openLog(b, filepath.Join(b.TempDir(), "log"), nil)
			defer log.Close()
			took := make([]time.Duration, b.N)
			appendAll(b, writers, func(i int) error {
				start := time.Now()
				err := log.Append(ctx, bigEvent)
				took[i] = time.Since(start)
				return err
			})
			slices.Sort(took)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
			b.ReportMetric(float64(took[len(took)*99/100])/1e6, "p99-ms")
		})
	}
}

// bigEvent is as long as most records are.
var bigEvent = func() audit.Event {
	ev := denial("standup", "slack__delete_message")
	ev.Kind = audit.KindProbe // never only counted
	return ev
}()

// BenchmarkMemory appends without a disk: what the log itself costs.
func BenchmarkMemory(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			key, err := audit.NewKey("bench")
			require.NoError(b, err)
			log, err := audit.New(new(audittest.Memory), &audit.Options{Key: key})
			require.NoError(b, err)
			b.ReportAllocs()
			appendAll(b, writers, func(int) error { return log.Append(ctx, bigEvent) })
		})
	}
}

// BenchmarkBuffered appends without waiting for the disk, in bursts that the queue
// holds.
func BenchmarkBuffered(b *testing.B) {
	key, err := audit.NewKey("bench")
	require.NoError(b, err)
	log, err := audit.New(new(audittest.Memory), &audit.Options{Key: key, Mode: audit.BestEffort, Queue: 100_000})
	require.NoError(b, err)
	b.ReportAllocs()
	appendAll(b, 1, func(int) error { return log.Append(ctx, bigEvent) })
	require.NoError(b, log.Close())
}

func appendAll(b *testing.B, writers int, f func(i int) error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range writers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < b.N; i = int(next.Add(1)) - 1 {
				if err := f(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
}

// BenchmarkVerify verifies a log with batches of 32 records, as many writers
// leave it.
func BenchmarkVerify(b *testing.B) {
	key, data := bigLog(b, 20_000, 32)
	dir := folder(data)
	b.SetBytes(int64(len(data)))
	b.ResetTimer()
	for range b.N {
		_, err := audit.Verify(ctx, dir, &audit.VerifyOptions{Key: key})
		require.NoError(b, err)
	}
	b.ReportMetric(float64(b.N)*20_000/b.Elapsed().Seconds(), "records/s")
}

// bigLog returns the bytes of a log of n records in batches.
func bigLog(b testing.TB, n, batch int) (key string, data []byte) {
	b.Helper()
	var m audittest.Memory
	st := &stallingStorage{Memory: &m}
	k, err := audit.NewKey("audit.test/big")
	require.NoError(b, err)
	log, err := audit.New(st, &audit.Options{Key: k, Mode: audit.BestEffort, SegmentSize: 1 << 40})
	require.NoError(b, err)
	for done := 0; done < n; done += batch {
		for i := range batch {
			ev := bigEvent
			ev.Resource = fmt.Sprint("Tool::slack__delete_message/", done+i)
			require.NoError(b, log.Append(ctx, ev))
		}
		require.NoError(b, waitFor(log, uint64(done+batch)))
	}
	require.NoError(b, log.Close())
	return k.VerifierKey(), m.Bytes()
}

func waitFor(log *audit.Log, size uint64) error {
	for log.Size() < size {
		runtime.Gosched()
	}
	return nil
}

// BenchmarkLevels is what a call costs at each level of its arguments, without a
// disk: the ratios to LevelCommitted are what counts.
func BenchmarkLevels(b *testing.B) {
	for _, writers := range []int{1, 64} {
		logs := map[audit.Level]*audit.Log{}
		for level := audit.LevelMetadata; level <= audit.LevelFull; level++ {
			log, err := audit.New(new(audittest.Memory), &audit.Options{
				Key: must(audit.NewKey("bench")), Values: new(audittest.Memory), KEK: audit.NewKEK(),
				Level: func(audit.Record) audit.Level { return level },
			})
			require.NoError(b, err)
			logs[level] = log
		}
		logs[audit.LevelDefault] = must(audit.New(new(audittest.Memory), &audit.Options{Key: must(audit.NewKey("bench"))})) // keeps no values
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			in := intent("standup", "slack__post")
			took := map[audit.Level]time.Duration{}
			const round = 256 // alternated, so that a busy machine slows all
			for done := 0; done < b.N; done += round {
				for level, log := range logs {
					start := time.Now()
					var wg sync.WaitGroup
					for range writers {
						wg.Go(func() {
							for range round / writers {
								_, err := log.Begin(ctx, in)
								if err != nil {
									b.Error(err)
								}
							}
						})
					}
					wg.Wait()
					took[level] += time.Since(start)
				}
			}
			committed := float64(took[audit.LevelCommitted])
			b.ReportMetric(float64(took[audit.LevelMetadata])/committed, "metadata/committed")
			b.ReportMetric(float64(took[audit.LevelDefault])/committed, "no-values/committed")
			b.ReportMetric(float64(took[audit.LevelFull])/committed, "full/committed")
			b.ReportMetric(committed/float64((b.N+round-1)/round*round), "committed-ns")
		})
		for _, log := range logs {
			require.NoError(b, log.Close())
		}
	}
}
