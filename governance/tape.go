package governance

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance/internal/argument"
)

// Recorded is one request together with how it was decided. A sequence of them
// is a tape: [Replay] decides it again by other policies, and [Suggest] writes
// policies from it.
//
// A tape is sensitive. It holds arguments as they were sent, claims of tokens
// and names of people, none of which the audit log keeps in clear. Keep it like
// the data that the tools touch, and only as long as it is needed.
type Recorded struct {
	// Request is what was asked. Its Time is that of the decision, never zero,
	// so that it can be decided again as of then.
	Request Request
	// Decision is what was answered.
	Decision audit.Decision
}

// ErrTape is wrapped by every error about the contents of a tape.
var ErrTape = errors.New("governance: the tape is not usable")

// maxTapeLine bounds one line of a tape: the largest arguments, in base64, and
// room for everything else.
const maxTapeLine = 8 << 20

// line is the JSON of Recorded. Arguments are last and written by hand: the
// bytes on the tape are those that were decided on.
type line struct {
	Time     time.Time         `json:"time"`
	Actor    audit.Actor       `json:"actor"`
	Action   string            `json:"action"`
	Server   string            `json:"server,omitzero"`
	Name     string            `json:"name,omitzero"`
	Attrs    map[string]any    `json:"attrs,omitempty"`
	Claims   map[string]string `json:"claims,omitempty"`
	Enforces []string          `json:"enforces,omitempty"`
	Approval *Approval         `json:"approval,omitempty"`
	History  *History          `json:"history,omitempty"`
	Decision audit.Decision    `json:"decision"`
	// ArgsBase64 stands for Args where those are not strict JSON on one line.
	ArgsBase64 string         `json:"args_base64,omitempty"`
	Args       jsontext.Value `json:"args,omitempty"`
}

// AppendJSON appends r as one line of a tape, with its newline.
func (r Recorded) AppendJSON(dst []byte) ([]byte, error) {
	q := r.Request
	l := line{q.Time, q.Actor, q.Action, q.Server, q.Name, q.Attrs, q.Claims, q.Enforces, q.Approval, q.History, r.Decision, "", nil}
	plain := len(q.Args) > 0 && utf8.Valid(q.Args) && len(bytes.TrimSpace(q.Args)) == len(q.Args) &&
		!bytes.ContainsAny(q.Args, "\r\n") && argument.CheckStrict(q.Args) == nil
	if len(q.Args) > 0 && !plain {
		l.ArgsBase64 = base64.StdEncoding.EncodeToString(q.Args)
	}
	enc, err := jsonv2.Marshal(l, jsonv2.Deterministic(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTape, err)
	}
	if plain {
		enc = append(enc[:len(enc)-1], `,"args":`...)
		enc = append(append(enc, q.Args...), '}')
	}
	if len(enc) > maxTapeLine {
		return nil, fmt.Errorf("%w: a line of %d bytes; at most %d MiB can be read back", ErrTape, len(enc), maxTapeLine>>20)
	}
	return append(append(dst, enc...), '\n'), nil
}

// parseLine reads one line of a tape.
func parseLine(text []byte) (Recorded, error) {
	var l line
	if err := jsonv2.Unmarshal(text, &l, jsonv2.RejectUnknownMembers(true)); err != nil {
		return Recorded{}, err
	}
	if l.Time.IsZero() || l.Action == "" || l.Decision.Effect == "" {
		return Recorded{}, errors.New("time, action and decision.effect are required")
	}
	r := Recorded{Decision: l.Decision, Request: Request{
		Actor: l.Actor, Action: l.Action, Server: l.Server, Name: l.Name, Args: json.RawMessage(l.Args),
		Attrs: l.Attrs, Claims: l.Claims, Time: l.Time, Enforces: l.Enforces, Approval: l.Approval, History: l.History,
	}}
	for name, v := range l.Attrs {
		switch v := v.(type) {
		case string, bool:
		case float64:
			// Whole numbers of a door are far below 2^53.
			if v != float64(int64(v)) || v > 1<<53 || v < -1<<53 {
				return Recorded{}, fmt.Errorf("attrs.%s: %v is no whole number of up to 53 bits", name, v)
			}
			l.Attrs[name] = int64(v)
		case []any:
			list := make([]string, len(v))
			for i, e := range v {
				s, ok := e.(string)
				if !ok {
					return Recorded{}, fmt.Errorf("attrs.%s: a list of something else than strings", name)
				}
				list[i] = s
			}
			l.Attrs[name] = list
		default:
			return Recorded{}, fmt.Errorf("attrs.%s: %T is no attribute", name, v)
		}
	}
	if l.ArgsBase64 != "" {
		if len(l.Args) > 0 {
			return Recorded{}, errors.New("both args and args_base64")
		}
		args, err := base64.StdEncoding.DecodeString(l.ArgsBase64)
		if err != nil {
			return Recorded{}, fmt.Errorf("args_base64: %w", err)
		}
		r.Request.Args = args
	}
	return r, nil
}

// ReadTape reads a tape of one JSON object a line, as a [TapeWriter] writes it.
// It is strict: an unknown or repeated member, a line of more than 8 MiB and a
// last line without its newline end the sequence with an error, which wraps
// [ErrTape] and names the line. Empty lines are skipped.
func ReadTape(r io.Reader) iter.Seq2[Recorded, error] {
	return func(yield func(Recorded, error) bool) {
		in := bufio.NewReaderSize(r, 64<<10)
		var buf []byte
		for n := 1; ; n++ {
			text, err := readLine(in, buf[:0])
			buf = text
			switch {
			case err == io.EOF && len(text) == 0:
				return
			case err == io.EOF:
				err = errors.New("the last line has no newline: the tape was cut off")
			}
			if err == nil && len(bytes.TrimSpace(text)) == 0 {
				continue
			}
			var rec Recorded
			if err == nil {
				rec, err = parseLine(bytes.Clone(text))
			}
			if err != nil {
				yield(Recorded{}, fmt.Errorf("%w: line %d: %w", ErrTape, n, err))
				return
			}
			if !yield(rec, nil) {
				return
			}
		}
	}
}

// readLine appends the next line to buf, which it returns without the newline.
// The error is io.EOF when the input ended before a newline.
func readLine(in *bufio.Reader, buf []byte) ([]byte, error) {
	for {
		part, err := in.ReadSlice('\n')
		buf = append(buf, part...)
		if len(buf) > maxTapeLine+1 {
			return buf, fmt.Errorf("longer than %d MiB", maxTapeLine>>20)
		}
		switch err {
		case nil:
			return buf[:len(buf)-1], nil
		case bufio.ErrBufferFull:
		default:
			return buf, err
		}
	}
}

// A TapeWriter writes a tape. It is safe for concurrent use. Its Record method
// fits [Options].Tape.
type TapeWriter struct {
	mu  sync.Mutex
	w   io.Writer
	buf []byte
	err error
}

// NewTapeWriter returns a writer that writes each line to w with one Write.
func NewTapeWriter(w io.Writer) *TapeWriter { return &TapeWriter{w: w} }

// Record writes r. After the first error it writes nothing more: a tape with a
// hole would look whole. See Err.
func (t *TapeWriter) Record(r Recorded) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return
	}
	text, err := r.AppendJSON(t.buf[:0])
	if err == nil {
		_, err = t.w.Write(text)
		if cap(text) <= 1<<20 { // do not keep the largest one for ever
			t.buf = text
		}
	}
	t.err = err
}

// Err returns the error that ended the tape, or nil.
func (t *TapeWriter) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// recorded copies what the caller may change after the decision.
func recorded(r Request, d Decision) Recorded {
	r.Args = bytes.Clone(r.Args)
	r.Attrs = maps.Clone(r.Attrs)
	for k, v := range r.Attrs {
		if list, ok := v.([]string); ok {
			r.Attrs[k] = slices.Clone(list)
		}
	}
	r.Claims = maps.Clone(r.Claims)
	r.Enforces = slices.Clone(r.Enforces)
	if r.Approval != nil {
		a := *r.Approval
		r.Approval = &a
	}
	if r.past = nil; r.History == nil {
		r.History = d.History()
	}
	return Recorded{Request: r, Decision: d.Decision}
}
