package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"slices"
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
// intents. Its memory is the selected calls that are still open. An outcome whose
// intent was pruned is selected where all acts are.
func (f Filter) matcher(pruned func(call uint64) bool) func(Record) bool {
	calls := openCalls{}
	allActs := f.Agent == "" && f.Door == "" && f.Kind == "" && f.Effect == ""
	return func(r Record) bool {
		if r.Outcome != nil {
			_, ok := calls[r.Call]
			delete(calls, r.Call)
			return (ok || allActs && pruned(r.Call) && f.matchTime(r)) && r.Seq >= f.Seq
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
		lr, err := folderLines(dir)
		if err != nil {
			yield(Record{}, err)
			return
		}
		scan(ctx, lr, filter, yield)
	}
}

// folderLines reads the log in a folder from its beginning.
func folderLines(dir fs.FS) (*lineReader, error) {
	src, _, err := folderFiles(dir)
	if err == nil && src.last == 0 {
		err = fmt.Errorf("audit: there is no %s in the folder: %w", SegmentName(1), fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	return newLineReader(src, src.begin()), nil
}

// Query is [Scan] over the log's own durable records, up to now.
func (l *Log) Query(ctx context.Context, filter Filter) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		if l == nil {
			yield(Record{}, ErrNoLog)
			return
		}
		src := l.live()
		scan(ctx, newLineReader(src, src.begin()), filter, yield)
	}
}

func scan(ctx context.Context, lr *lineReader, filter Filter, yield func(Record, error) bool) {
	defer lr.Close()
	match := filter.matcher(func(call uint64) bool { return lr.pruned != nil && call <= lr.pruned.size })
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
		src := l.live()
		start, err := startAt(src, src.end.seg, max(seq, 1)-1)
		if err != nil {
			yield(Record{}, err)
			return
		}
		src = &liveSource{log: l, pruned: src.pruned, wait: ctx}
		lr := newLineReader(src, start)
		defer lr.Close()
		lr.skip = func(n uint64) bool { return n < seq }
		for ctx.Err() == nil {
			it, err := lr.next()
			switch {
			case err == io.EOF:
				if src.failed != nil {
					yield(Record{}, src.failed)
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

// A liveSource is the [source] over the durable bytes of an open log, which end
// with a whole line, so that the end of what is there never tears one. It ends at
// end, or if wait is set, waits for more until that context or the log ends.
type liveSource struct {
	log    *Log
	pruned int // the first segment after a pruned part, or 0
	end    position
	wait   context.Context

	failed error // why the log ended
}

// live is what is durable now.
func (l *Log) live() *liveSource {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &liveSource{log: l, pruned: l.pruned, end: l.durable}
}

// begin implements [source].
func (s *liveSource) begin() int {
	if s.pruned > 0 {
		return 0
	}
	return 1
}

// after implements [source].
func (s *liveSource) after(n int) int {
	if n == 0 {
		return max(s.pruned, 1)
	}
	return n + 1
}

// open implements [source].
func (s *liveSource) open(n int) (*section, error) {
	if s.until(position{n, 0}).seg < n {
		return nil, fs.ErrNotExist
	}
	name := SegmentName(n)
	if n == 0 {
		name = prunedName(s.pruned)
	}
	r, err := s.log.st.Read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is not there any more", ErrPruned, name)
	}
	if err != nil {
		return nil, err
	}
	return &section{Reader: &liveReader{src: s, r: r, at: position{n, 0}}, close: r.Close}, nil
}

// until returns where readers may read to, which is after at unless nothing more
// is to come.
func (s *liveSource) until(at position) position {
	if s.wait == nil {
		return s.end
	}
	l := s.log
	for {
		l.mu.Lock()
		end, done := l.durable, l.closed && !l.busy || l.failed != nil
		s.failed = l.failed
		after := end.seg > at.seg || end.seg == at.seg && end.off > at.off
		var news chan struct{}
		if !after && !done {
			if l.news == nil {
				l.news = make(chan struct{})
			}
			news = l.news
		}
		l.mu.Unlock()
		if after || done {
			return end
		}
		select {
		case <-news:
		case <-s.wait.Done():
			return end
		}
	}
}

// A liveReader reads one segment of a liveSource.
type liveReader struct {
	src *liveSource
	r   StorageReader
	at  position
}

func (t *liveReader) Read(p []byte) (int, error) {
	until := t.src.until(t.at)
	end := until.off
	switch {
	case until.seg < t.at.seg:
		return 0, io.EOF
	case until.seg > t.at.seg: // it was completed before the next was begun
		var err error
		if end, err = t.r.Size(); err != nil {
			return 0, err
		}
	}
	if t.at.off >= end {
		return 0, io.EOF
	}
	n, err := t.r.ReadAt(p[:min(int64(len(p)), end-t.at.off)], t.at.off)
	t.at.off += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

// OpenCalls returns the intents without an outcome among records, in order:
// acts that are under way, or that a crash cut off. Give it all records of the
// log, as from [Scan] with the zero [Filter].
func OpenCalls(records iter.Seq2[Record, error]) ([]Record, error) {
	open := map[uint64]Record{}
	for r, err := range records {
		if err != nil {
			return nil, err
		}
		if r.Intent != nil {
			open[r.Seq] = r
		} else if r.Outcome != nil {
			delete(open, r.Call)
		}
	}
	var list []Record
	for _, seq := range slices.Sorted(maps.Keys(open)) {
		list = append(list, open[seq])
	}
	return list, nil
}
