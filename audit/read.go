package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"time"
)

// A Filter selects records. Zero fields select everything. An outcome is
// selected with its intent.
type Filter struct {
	Agent  string
	Door   string
	Kind   Kind   // events only
	Effect Effect // of the decision
	// From and Until bound the time: From <= time < Until.
	From, Until time.Time
	// Seq is the first record.
	Seq uint64
}

func (f Filter) matchTime(r Record) bool {
	return (f.From.IsZero() || !r.Time.Before(f.From)) && (f.Until.IsZero() || r.Time.Before(f.Until))
}

func (f Filter) matchAct(r Record) bool {
	if f.Agent != "" && r.Actor().Agent != f.Agent || f.Door != "" && r.Door() != f.Door {
		return false
	}
	if f.Kind != "" && (r.Event == nil || r.Event.Kind != f.Kind) {
		return false
	}
	if f.Effect != "" {
		d := r.Decision()
		if d == nil || d.Allowed() != (f.Effect == Allow) {
			return false
		}
	}
	return true
}

// matcher returns a function that selects records in order, outcomes with their
// intents. Its memory is the selected calls that are still open.
func (f Filter) matcher() func(Record) bool {
	calls := openCalls{}
	return func(r Record) bool {
		if r.Outcome != nil {
			_, ok := calls[r.Call]
			delete(calls, r.Call)
			return ok && r.Seq >= f.Seq
		}
		if !f.matchTime(r) || !f.matchAct(r) {
			return false
		}
		calls.see(&r)
		return r.Seq >= f.Seq
	}
}

// Scan yields the records of a log in a folder that the filter selects, in
// order, streaming. It checks order and Merkle roots on the way but knows no
// key: it trusts the folder, which [Verify] does not. It stops without error at
// an unfinished write, and with an error that wraps [ErrTampered] at damage.
func Scan(ctx context.Context, dir fs.FS, filter Filter) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		f, err := dir.Open(FileName)
		if err != nil {
			yield(Record{}, fmt.Errorf("audit: %w", err))
			return
		}
		defer f.Close()
		scan(ctx, f, filter, yield)
	}
}

// Query is [Scan] over the log's own durable records, up to now.
func (l *Log) Query(ctx context.Context, filter Filter) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		if l == nil {
			yield(Record{}, ErrNoLog)
			return
		}
		r, err := l.st.Reader()
		if err != nil {
			yield(Record{}, fmt.Errorf("audit: %w", err))
			return
		}
		defer r.Close()
		l.mu.Lock()
		end := l.durable
		l.mu.Unlock()
		scan(ctx, io.NewSectionReader(r, 0, end), filter, yield)
	}
}

func scan(ctx context.Context, r io.Reader, filter Filter, yield func(Record, error) bool) {
	lr := newLineReader(r)
	match := filter.matcher()
	for {
		if err := ctx.Err(); err != nil {
			yield(Record{}, err)
			return
		}
		it, err := lr.next()
		var dam *damage
		switch {
		case err == io.EOF || errors.As(err, &dam) && dam.torn():
			return
		case dam != nil:
			yield(Record{}, tamperedf("%w", dam))
			return
		case err != nil:
			yield(Record{}, fmt.Errorf("audit: %w", err))
			return
		case it.record != nil && match(*it.record) && !yield(*it.record, nil):
			return
		}
	}
}

// Follow yields the records from number seq on (0 and 1 are the first): those
// that are stored, then new ones as they become durable. It ends when ctx ends
// or the log is closed, after the last record; and with an error that wraps
// [ErrFailed] when the log has failed.
func (l *Log) Follow(ctx context.Context, seq uint64) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		if l == nil {
			yield(Record{}, ErrNoLog)
			return
		}
		r, err := l.st.Reader()
		if err != nil {
			yield(Record{}, fmt.Errorf("audit: %w", err))
			return
		}
		defer r.Close()
		tail := &tailReader{ctx: ctx, log: l, r: r}
		lr := newLineReader(tail)
		lr.skip = func(n uint64) bool { return n < seq }
		for ctx.Err() == nil {
			it, err := lr.next()
			switch {
			case err == io.EOF:
				if tail.failed != nil {
					yield(Record{}, tail.failed)
				}
				return
			case err != nil:
				if ctx.Err() == nil {
					yield(Record{}, fmt.Errorf("audit: %w", err))
				}
				return
			case it.record != nil && !yield(*it.record, nil):
				return
			}
		}
	}
}

// A tailReader reads the durable bytes of a log and waits for more. The durable
// bytes end with a whole line, so that end of file never tears one.
type tailReader struct {
	ctx    context.Context
	log    *Log
	r      io.ReaderAt
	off    int64
	failed error
}

func (t *tailReader) Read(p []byte) (int, error) {
	for {
		t.log.mu.Lock()
		end, done := t.log.durable, t.log.closed && !t.log.busy || t.log.failed != nil
		t.failed = t.log.failed
		var news chan struct{}
		if t.off == end && !done {
			if t.log.news == nil {
				t.log.news = make(chan struct{})
			}
			news = t.log.news
		}
		t.log.mu.Unlock()
		switch {
		case t.off < end:
			n, err := t.r.ReadAt(p[:min(int64(len(p)), end-t.off)], t.off)
			t.off += int64(n)
			if n > 0 {
				err = nil
			}
			return n, err
		case done:
			return 0, io.EOF
		}
		select {
		case <-news:
		case <-t.ctx.Done():
			return 0, io.EOF
		}
	}
}

// OpenCalls returns the intents without an outcome among records, in order:
// acts that are under way, or that a crash cut off. Give it all records of the
// log, as from [Scan] with the zero [Filter].
func OpenCalls(records iter.Seq2[Record, error]) ([]Record, error) {
	var open openCalls
	intents := map[uint64]Record{}
	for r, err := range records {
		if err != nil {
			return nil, err
		}
		open.see(&r)
		if r.Intent != nil {
			intents[r.Seq] = r
		} else if r.Outcome != nil {
			delete(intents, r.Call)
		}
	}
	var list []Record
	for _, seq := range open.list() {
		list = append(list, intents[seq])
	}
	return list, nil
}
