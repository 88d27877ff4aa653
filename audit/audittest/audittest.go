// Package audittest gives tests an audit log in memory that is the real one:
// the same records, Merkle tree, checkpoints and group commit as the file log,
// over a [Memory] instead of a file.
//
// A test asks what is on record with [Log.Records], and what its code does
// while the audit is down with [Log.Fail].
package audittest

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/twinward-dev/twinward/audit"
)

// A Log is an [audit.Log] in memory whose failures a test can arrange. It is an
// [audit.Recorder], safe for concurrent use.
type Log struct {
	*audit.Log
	// Storage holds the log's bytes, Values those of the arguments that it keeps,
	// which KEK opens: see [Log.Reveal].
	Storage, Values *Memory
	KEK             audit.KEK

	t   testing.TB
	mu  sync.Mutex
	err error
}

// NewLog returns an empty log that is closed, and verified, when the test ends.
func NewLog(t testing.TB) *Log {
	t.Helper()
	key, err := audit.NewKey("audittest")
	if err != nil {
		t.Fatal(err)
	}
	m, values, kek := new(Memory), new(Memory), audit.NewKEK()
	inner, err := audit.New(m, &audit.Options{Key: key, Values: values, KEK: kek})
	if err != nil {
		t.Fatal(err)
	}
	l := &Log{Log: inner, Storage: m, Values: values, KEK: kek, t: t}
	t.Cleanup(func() {
		_ = l.Close() // the test may have closed it, or broken it on purpose
		if _, err := audit.Verify(context.Background(), m.FS(), &audit.VerifyOptions{Key: key.VerifierKey()}); err != nil {
			t.Errorf("audittest: the log does not verify: %v", err)
		}
	})
	return l
}

// Fail makes Begin, Append and End fail with an error that wraps
// [audit.ErrFailed] and err, and record nothing. Fail(nil) ends that.
func (l *Log) Fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

func (l *Log) down() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", audit.ErrFailed, l.err)
}

// Begin implements [audit.Recorder].
func (l *Log) Begin(ctx context.Context, in audit.Intent) (audit.Call, error) {
	if err := l.down(); err != nil {
		return nil, err
	}
	c, err := l.Log.Begin(ctx, in)
	if err != nil {
		return nil, err
	}
	return &call{Call: c, log: l}, nil
}

// Append implements [audit.Recorder].
func (l *Log) Append(ctx context.Context, ev audit.Event) error {
	if err := l.down(); err != nil {
		return err
	}
	return l.Log.Append(ctx, ev)
}

type call struct {
	audit.Call
	log *Log
}

func (c *call) End(ctx context.Context, out audit.Outcome) error {
	if err := c.log.down(); err != nil {
		return err
	}
	return c.Call.End(ctx, out)
}

// Records returns everything on record, oldest first.
func (l *Log) Records() []audit.Record {
	l.t.Helper()
	var all []audit.Record
	for r, err := range l.Query(context.Background(), audit.Filter{}) {
		if err != nil {
			l.t.Errorf("audittest: reading the log: %v", err)
			return nil
		}
		all = append(all, r)
	}
	return all
}

// Reveal returns the arguments of a record that the log keeps them of.
func (l *Log) Reveal(r audit.Record) []byte {
	l.t.Helper()
	v, err := audit.OpenValues(context.Background(), l.Values.FS(), l.KEK)
	if err != nil {
		l.t.Errorf("audittest: reading the values: %v", err)
		return nil
	}
	d, err := v.Reveal(context.Background(), r)
	if err != nil {
		l.t.Errorf("audittest: %v", err)
	}
	return d.Value
}

// Denials returns the denials on record, oldest first.
func (l *Log) Denials() []audit.Event {
	l.t.Helper()
	var all []audit.Event
	for _, r := range l.Records() {
		if r.Event != nil && r.Event.Kind == audit.KindDenial {
			all = append(all, *r.Event)
		}
	}
	return all
}
