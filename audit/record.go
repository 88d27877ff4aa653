package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twinward-dev/twinward/audit/internal/visible"
)

// MaxRecord is the largest size of one record in bytes, as stored. It is that of
// an entry in C2SP tlog-tiles, whose length is a 16-bit number.
const MaxRecord = 1<<16 - 1

// A Record is one stored act: exactly one of Intent, Outcome and Event is set.
// Its JSON, in the order of these fields, is a line of the log.
type Record struct {
	// Seq is 1 for the first record and grows by one. It is what people call
	// "record 17", and the leaf with index Seq-1 of the Merkle tree.
	Seq uint64 `json:"seq"`
	// Time is the wall clock of the log when the record was put in line. Records
	// are ordered by Seq; a clock that is set back does not change that.
	Time   time.Time `json:"time"`
	Intent *Intent   `json:"intent,omitempty"`
	// Call is the Seq of the intent that Outcome belongs to.
	Call    uint64   `json:"call,omitempty"`
	Outcome *Outcome `json:"outcome,omitempty"`
	Event   *Event   `json:"event,omitempty"`
	// Args commits to the arguments of the intent or event, if it had any.
	Args *Commitment `json:"args,omitempty"`
	// Result commits to what an outcome gave back to the agent, if that is wanted.
	Result *Commitment `json:"result,omitempty"`

	stored string // the line that it was read from
}

// Line returns the line of a record, without its newline. That of a record that
// was read from a log is the very bytes that the log stores, also where a later
// version wrote fields that this one does not know: what proofs are about.
// Changing a field does not change it; another record's is as of MarshalJSON.
func (r Record) Line() ([]byte, error) {
	if r.stored != "" {
		return []byte(r.stored), nil
	}
	return r.MarshalJSON()
}

// Commitment is Args, or Result for an outcome: what the record commits to, nil if
// nothing.
func (r Record) Commitment() *Commitment {
	if r.Outcome != nil {
		return r.Result
	}
	return r.Args
}

// Door returns the door of the intent or event, and "" for an outcome.
func (r Record) Door() string {
	switch {
	case r.Intent != nil:
		return r.Intent.Door
	case r.Event != nil:
		return r.Event.Door
	}
	return ""
}

// Actor returns the actor of the intent or event, and zero for an outcome.
func (r Record) Actor() Actor {
	switch {
	case r.Intent != nil:
		return r.Intent.Actor
	case r.Event != nil:
		return r.Event.Actor
	}
	return Actor{}
}

// Decision returns the decision of the intent or event, or nil.
func (r Record) Decision() *Decision {
	switch {
	case r.Intent != nil:
		return &r.Intent.Decision
	case r.Event != nil:
		return r.Event.Decision
	}
	return nil
}

// MarshalJSON returns the line that this version of the log would store for the
// record.
func (r Record) MarshalJSON() ([]byte, error) {
	enc, err := body{r.Intent, r.Call, r.Outcome, r.Event, r.Args, r.Result}.encode()
	if err != nil {
		return nil, err
	}
	return appendRecord(nil, r.Seq, r.Time, enc), nil
}

// body is a Record without what is known only when it is put in line.
type body struct {
	Intent  *Intent     `json:"intent,omitempty"`
	Call    uint64      `json:"call,omitempty"`
	Outcome *Outcome    `json:"outcome,omitempty"`
	Event   *Event      `json:"event,omitempty"`
	Args    *Commitment `json:"args,omitempty"`
	Result  *Commitment `json:"result,omitempty"`
}

const (
	timeFormat   = "2006-01-02T15:04:05.000000000Z"
	recordPrefix = `{"seq":`
	// headMax bounds what appendRecord puts before the body.
	headMax = len(recordPrefix) + 20 + len(`,"time":"`) + len(timeFormat) + len(`",`)
)

// encode returns the body's JSON. Everything that could break a line, drive a
// terminal or reorder text on a screen is escaped.
func (b body) encode() ([]byte, error) {
	w := jsonWriter{b: make([]byte, 0, 1<<10)}
	if w.body(&b); w.err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, w.err)
	}
	enc := visible.JSON(w.b)
	if len(enc)+headMax > MaxRecord {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, len(enc)+headMax, MaxRecord)
	}
	return enc, nil
}

// appendRecord appends the line of a record, without its newline.
func appendRecord(dst []byte, seq uint64, t time.Time, enc []byte) []byte {
	dst = append(dst, recordPrefix...)
	dst = strconv.AppendUint(dst, seq, 10)
	dst = append(dst, `,"time":"`...)
	dst = appendTime(dst, t)
	dst = append(dst, `",`...)
	return append(dst, enc[1:]...)
}

// appendTime appends t in timeFormat. The package time has a short way for
// RFC 3339, and none for this.
func appendTime(dst []byte, t time.Time) []byte {
	t = t.UTC()
	dst = t.AppendFormat(dst, time.RFC3339)
	dst[len(dst)-1] = '.' // was Z
	n, ns := len(dst), t.Nanosecond()
	dst = append(dst, "000000000Z"...)
	for i := n + 8; ns > 0; i-- {
		dst[i] = byte('0' + ns%10)
		ns /= 10
	}
	return dst
}

var errForm = errors.New("not a record")

// parseRecord decodes a line, and refuses trailing bytes and records that are
// not exactly one thing. Fields that it does not know are ignored: a record may
// be of a later version, and its bytes are vouched for by the tree.
func parseRecord(line []byte) (Record, error) {
	var r Record
	if len(line) > MaxRecord {
		return r, ErrTooLarge
	}
	if !bytes.HasPrefix(line, []byte(recordPrefix)) {
		return r, errForm
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return Record{}, fmt.Errorf("%w: %w", errForm, err)
	}
	n := 0
	for _, set := range []bool{r.Intent != nil, r.Outcome != nil, r.Event != nil} {
		if set {
			n++
		}
	}
	if n != 1 || (r.Call != 0) != (r.Outcome != nil) || r.Call >= r.Seq && r.Call != 0 {
		return Record{}, fmt.Errorf("%w: neither one intent, one outcome nor one event", errForm)
	}
	return r, nil
}
