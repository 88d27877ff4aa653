package audit

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
)

// What a verification says about records, without decoding more of them than it
// has to.

// seenRecords collects what the report says about records.
type seenRecords struct {
	rep      *VerifyReport
	open     openCalls
	floods   openFloods
	prunes   []Record // of KindPrune
	unsigned unsigned
	last     []byte // the newest record's line
	err      error
}

// see takes in the line of record seq.
func (s *seenRecords) see(seq uint64, line []byte) {
	if s.rep.First.IsZero() {
		s.rep.First = s.time(line)
	}
	s.last = append(s.last[:0], line...)
	b, ok := cutHead(line, seq)
	switch {
	case !ok:
	case bytes.HasPrefix(b, []byte(`"intent":`)):
		if s.open == nil {
			s.open = openCalls{}
		}
		s.open[seq] = struct{}{}
		return
	case bytes.HasPrefix(b, []byte(callWord)):
		digits, _, _ := bytes.Cut(b[len(callWord):], []byte(","))
		if call, err := strconv.ParseUint(string(digits), 10, 64); err == nil {
			delete(s.open, call)
			return
		}
	case bytes.HasPrefix(b, []byte(`"event":`)) && len(s.floods) == 0 &&
		!bytes.HasPrefix(b, []byte(floodWord)) && !bytes.HasPrefix(b, []byte(pruneWord)) && !bytes.HasPrefix(b, []byte(gapWord)):
		return
	}
	r, err := parseRecord(line)
	if err == nil && r.Seq != seq {
		err = fmt.Errorf("%w: it is numbered %d", errForm, r.Seq)
	}
	if err != nil {
		s.err = cmp.Or(s.err, err)
		return
	}
	if r.Event != nil && r.Event.Kind == KindPrune {
		s.prunes = append(s.prunes, r)
	}
	s.unsigned.see(&r)
	s.open.see(&r)
	s.floods.see(&r)
}

const (
	callWord  = `"call":`
	floodWord = `"event":{"kind":"` + string(KindFlood) + `",`
	pruneWord = `"event":{"kind":"` + string(KindPrune) + `",`
	gapWord   = `"event":{"kind":"` + string(KindGap) + `",`
)

// cutHead returns what follows number and time in the line of record seq, if the
// line is as the log writes it.
func cutHead(line []byte, seq uint64) ([]byte, bool) {
	var buf [32]byte
	head := append(strconv.AppendUint(append(buf[:0], recordPrefix...), seq, 10), ',')
	n := len(head) - 1 + len(timeWord) + len(timeFormat) + len(`",`)
	if len(line) < n || !bytes.HasPrefix(line, head) {
		return nil, false
	}
	return line[n:], true
}

// time is that of a record.
func (s *seenRecords) time(line []byte) time.Time {
	var r struct {
		Time time.Time `json:"time"`
	}
	if err := json.Unmarshal(line, &r); err != nil {
		s.err = cmp.Or(s.err, err)
	}
	return r.Time
}

// finish completes the report.
func (s *seenRecords) finish() error {
	if len(s.last) > 0 {
		s.rep.Last = s.time(s.last)
	}
	if s.err != nil {
		return tamperedf("%w", s.err)
	}
	s.rep.Open, s.rep.Uncounted = s.open.list(), s.floods.list()
	return nil
}

// openCalls collects intents without an outcome.
type openCalls map[uint64]struct{}

func (o *openCalls) see(r *Record) {
	switch {
	case r.Intent != nil:
		if *o == nil {
			*o = openCalls{}
		}
		(*o)[r.Seq] = struct{}{}
	case r.Outcome != nil:
		delete(*o, r.Call)
	}
}

func (o openCalls) list() []uint64 { return slices.Sorted(maps.Keys(o)) }
