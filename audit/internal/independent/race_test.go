package independent

import (
	"database/sql"
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"

	"github.com/twinward-dev/twinward/audit"
)

// A lane is one way to make an event durable. append returns when it is.
type lane struct {
	name   string
	append func(audit.Event) error
	done   int64
	took   time.Duration
}

var event = audit.Event{
	Kind: audit.KindProbe, Door: audit.DoorTool, Action: "slack__post_message", Resource: `Tool::"slack__post_message"`,
	Actor:  audit.Actor{Agent: "standup", User: "alice@example.com"},
	Detail: map[string]string{"channel": "#engineering", "thread": "1732600000.000100", "text": "a line that is about as long as what people say"},
}

// BenchmarkDurable races 64 writers of durable events, in turns of one run: the
// log, SQLite (WAL, synchronous=FULL, all that waits in one transaction) and a
// file of JSON lines that is synced for each event.
func BenchmarkDurable(b *testing.B) {
	const writers = 64
	lanes := []*lane{logLane(b), sqliteLane(b), fileLane(b)}
	for b.Loop() {
		for range 4 {
			for _, l := range lanes {
				l.run(b, writers, 250*time.Millisecond)
			}
		}
	}
	rate := func(l *lane) float64 { return float64(l.done) / l.took.Seconds() }
	for _, l := range lanes {
		b.ReportMetric(rate(l), l.name+"/s")
	}
	b.ReportMetric(rate(lanes[0])/rate(lanes[1]), "x-sqlite")
	b.ReportMetric(rate(lanes[0])/rate(lanes[2]), "x-fsync-each")
}

// TestLanes makes sure that each lane writes what it says.
func TestLanes(t *testing.T) {
	for _, l := range []*lane{logLane(t), sqliteLane(t), fileLane(t)} {
		l.run(t, 8, 20*time.Millisecond)
		require.NotZero(t, l.done, l.name)
	}
}

func (l *lane) run(tb testing.TB, writers int, d time.Duration) {
	var stop atomic.Bool
	var n atomic.Int64
	var wg sync.WaitGroup
	begin := time.Now()
	for range writers {
		wg.Go(func() {
			for !stop.Load() {
				if err := l.append(event); err != nil {
					tb.Error(err)
					return
				}
				n.Add(1)
			}
		})
	}
	time.Sleep(d)
	stop.Store(true)
	wg.Wait()
	l.took += time.Since(begin)
	l.done += n.Load()
}

func logLane(tb testing.TB) *lane {
	log, err := audit.Open(filepath.Join(tb.TempDir(), "log"), nil)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, log.Close()) })
	return &lane{name: "log", append: func(ev audit.Event) error { return log.Append(ctx, ev) }}
}

// fileLane syncs for each event, as most audit trails would if they did.
func fileLane(tb testing.TB) *lane {
	f, err := os.OpenFile(filepath.Join(tb.TempDir(), "events.jsonl"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	require.NoError(tb, err)
	tb.Cleanup(func() { f.Close() })
	var mu sync.Mutex
	return &lane{name: "fsync-each", append: func(ev audit.Event) error {
		line, err := json.Marshal(&ev)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if _, err := f.Write(append(line, '\n')); err != nil {
			return err
		}
		return f.Sync()
	}}
}

// sqliteLane commits in one transaction all that came while the one before was on
// its way to the disk.
func sqliteLane(tb testing.TB) *lane {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(tb.TempDir(), "events.db")+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
	require.NoError(tb, err)
	db.SetMaxOpenConns(1)
	_, err = db.Exec("CREATE TABLE events (seq INTEGER PRIMARY KEY, line BLOB NOT NULL)")
	require.NoError(tb, err)
	var mode, sync string
	require.NoError(tb, db.QueryRow("PRAGMA journal_mode").Scan(&mode))
	require.NoError(tb, db.QueryRow("PRAGMA synchronous").Scan(&sync))
	require.Equal(tb, []string{"wal", "2"}, []string{mode, sync})
	type job struct {
		line []byte
		done chan error
	}
	jobs := make(chan job, 4096)
	go func() {
		for first := range jobs {
			batch := []job{first}
			for more := true; more && len(batch) < cap(jobs); {
				select {
				case j, ok := <-jobs:
					if more = ok; ok {
						batch = append(batch, j)
					}
				default:
					more = false
				}
			}
			err := func() error {
				tx, err := db.Begin()
				if err != nil {
					return err
				}
				defer tx.Rollback()
				insert, err := tx.Prepare("INSERT INTO events (line) VALUES (?)")
				if err != nil {
					return err
				}
				for _, j := range batch {
					if _, err := insert.Exec(j.line); err != nil {
						return err
					}
				}
				return tx.Commit()
			}()
			for _, j := range batch {
				j.done <- err
			}
		}
	}()
	tb.Cleanup(func() { close(jobs); db.Close() })
	return &lane{name: "sqlite", append: func(ev audit.Event) error {
		line, err := json.Marshal(&ev)
		if err != nil {
			return err
		}
		j := job{line, make(chan error, 1)}
		jobs <- j
		return <-j.done
	}}
}
