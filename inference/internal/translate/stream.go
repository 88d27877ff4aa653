package translate

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// A block is what the model is at.
type block uint8

const (
	blockNone block = iota
	blockText
	blockRefusal
	blockCall
)

// A sink writes a stream in the client's protocol. The core opens at most one
// block at a time and closes each one; calls are numbered from 0 by s.calls.
type sink interface {
	start()
	open(b block)
	text(quoted []byte) // a piece of text, refusal or of a call's input
	close(b block)
	idle() // the model is at something that is not shown
	finish(finish string, stop []byte)
	fail(status int, message string)
}

// A stream translates server-sent events of chat completions while they come.
type stream struct {
	reader
	src    io.Reader
	buf    []byte
	events events
	doc    doc
	out    out
	at     int // of out, what was read
	sink   sink
	err    error // what reading ends with once out is empty

	head    head
	started bool
	ended   bool // the last event was written
	block   block
	finish  string
	stop    []byte
	refused bool
	held    int // bytes that the sink keeps, and of calls
	hidden  int // chunks that were not shown in a row
	calls   []liveCall
}

// A liveCall is a call whose input comes in pieces.
type liveCall struct {
	call
	index  int64
	filled bool // its input holds something
}

const (
	streamBuffer = 32 << 10
	maxCalls     = 1024
	maxTrailer   = 64 << 10
	idleEvery    = 32 // chunks

	// maxPending bounds what one chunk may become, in bytes: the largest answer
	// fits, which is repeated at its end.
	maxPending = 32 << 20
)

// Stream returns the client's stream for the backend's, which it reads as it is
// read itself: what arrived is passed on before more is waited for. A stream
// that breaks off or cannot be translated ends with the error event of the
// client's protocol; errors of r other than [io.EOF] are returned as they are.
func (x *Exchange) Stream(r io.Reader) io.Reader {
	s := &stream{reader: reader{x: x}, src: r, buf: make([]byte, streamBuffer)}
	if x.from == Messages {
		s.sink = &messagesSink{s: s}
	} else {
		s.sink = &responsesSink{s: s}
	}
	return s
}

// Read implements [io.Reader].
func (s *stream) Read(p []byte) (int, error) {
	trailer := 0
	for s.at == len(s.out.b) {
		if s.err != nil {
			return 0, s.err
		}
		s.out.b, s.at = s.out.b[:0], 0
		n, err := s.src.Read(s.buf)
		if s.ended {
			if trailer += n; trailer > maxTrailer && err == nil {
				err = io.EOF
			}
		} else if n > 0 && !s.events.feed(s.buf[:n], s.event, s.comment) {
			s.broken(502, "the backend sent too large an event")
		}
		if errors.Is(err, io.EOF) && !s.ended {
			s.end("the backend's answer broke off")
		}
		s.err = err
	}
	n := copy(p, s.out.b[s.at:])
	s.at += n
	return n, nil
}

// comment passes a comment on: it keeps connections alive.
func (s *stream) comment(line []byte) {
	if !s.ended {
		s.out.raw(valid(line))
		s.out.raw("\n\n")
	}
}

var doneMark = []byte("[DONE]")

// event takes the data of one event; false when nothing more is wanted.
func (s *stream) event(data []byte, failed bool) bool {
	if bytes.Equal(bytes.TrimSpace(data), doneMark) {
		s.end("the backend ended its answer without saying why")
		return false
	}
	if err := s.doc.parse(data); err != nil || s.doc.root().kind() != '{' {
		if failed {
			s.broken(500, "the backend reported an error")
		} else {
			s.broken(502, "the backend sent an event that is not a JSON object")
		}
		return false
	}
	v := s.doc.root()
	if e := v.take("error"); e.ok() || failed {
		if !e.ok() {
			e = v
		}
		message := errorMessage(e)
		if message == "" {
			message = "the backend reported an error"
		}
		s.broken(errorStatus(e), message)
		return false
	}
	s.chunk(v)
	if s.reader.err != nil {
		s.broken(502, "the backend's answer has no translation: "+s.reader.err.Error())
	}
	return !s.ended
}

// broken ends the stream with an error.
func (s *stream) broken(status int, message string) {
	if !s.ended {
		s.ended = true
		s.sink.fail(status, message)
	}
}

// end ends the stream as it should end, or else with an error.
func (s *stream) end(otherwise string) {
	if s.finish == "" || !s.started {
		s.broken(502, otherwise)
		return
	}
	if !s.ended {
		s.shut()
		s.ended = true
		s.sink.finish(settled(s.finish, len(s.calls) > 0, s.refused), s.stop)
	}
}

// chunk translates one chat.completion.chunk.
func (s *stream) chunk(v value) {
	h := s.reader.head(v)
	s.usage(v.take("usage"))
	choice, ok := s.choice(v)
	if !ok && !v.member("choices").ok() {
		s.fail(v, `"choices" is missing`)
	}
	if s.reader.err != nil {
		return
	}
	if !s.started {
		if !ok {
			return // such as a filter's verdict on the prompt
		}
		h.complete(s.x.opts.ID)
		s.head = head{id: bytes.Clone(h.id), model: bytes.Clone(h.model), created: bytes.Clone(h.created)}
		s.started = true
		s.sink.start()
	}
	s.drop(v, "")
	if !ok {
		return
	}
	finish := s.reader.finish(choice)
	if stop := s.reader.stop(choice); stop != nil {
		s.stop = bytes.Clone(stop)
	}
	if delta := choice.take("delta"); delta.kind() == '{' {
		s.delta(delta)
	} else if delta.ok() {
		s.fail(delta, "an object was expected")
	}
	s.drop(choice, "choice.")
	if finish != "" && s.reader.err == nil {
		s.finish = finish
	}
}

func (s *stream) delta(d value) {
	text, refusal := s.said(d)
	hidden := s.reasoned(d)
	list := d.take("tool_calls")
	s.drop(d, "message.")
	if s.finish != "" && (text != nil || refusal != nil) {
		s.fail(d, "the model went on after its end")
	}
	if s.reader.err != nil {
		return
	}
	if text != nil {
		s.enter(blockText)
		s.piece(text)
	}
	if refusal != nil {
		s.refused = true
		s.enter(blockRefusal)
		s.piece(refusal)
	}
	if list.ok() && list.kind() != '[' {
		s.fail(list, "an array was expected")
	}
	for c := range list.all() {
		if s.reader.err == nil {
			s.callPiece(c)
		}
	}
	if hidden && text == nil && refusal == nil && list.empty() {
		if s.hidden++; s.hidden%idleEvery == 1 {
			s.sink.idle()
		}
	}
}

// enter opens a block of text, unless it is open.
func (s *stream) enter(b block) {
	if s.block != b {
		s.shut()
		s.block = b
		s.sink.open(b)
	}
}

// shut closes the open block.
func (s *stream) shut() {
	if s.block == blockNone {
		return
	}
	if s.block == blockCall {
		if c := s.current(); !c.filled && !c.custom {
			s.piece([]byte(`"{}"`)) // no arguments are an empty object
		}
	}
	b := s.block
	s.block = blockNone
	s.sink.close(b)
}

func (s *stream) piece(quoted []byte) {
	s.sink.text(quoted)
	s.limit()
}

// limit fails a stream that is too large, or becomes too large at once.
func (s *stream) limit() {
	if (s.held > s.x.opts.MaxAnswer || len(s.out.b) > maxPending) && s.reader.err == nil {
		s.reader.err = &Error{Reason: "it is too large"}
	}
}

func (s *stream) current() *liveCall { return &s.calls[len(s.calls)-1] }

// callPiece takes a piece of a call: the first has its id and name. The pieces
// of one call must not be mixed with those of another, nor with text.
func (s *stream) callPiece(v value) {
	if v.kind() != '{' {
		s.fail(v, "an object was expected")
		return
	}
	id, custom := s.reader.id(v.take("id")), v.take("type").is("custom")
	inner := v.take("function")
	if custom || v.member("custom").ok() {
		inner, custom = v.take("custom"), true
	}
	name := s.label(inner.take("name"))
	input := inner.take("arguments")
	if custom {
		input = inner.take("input")
	}
	args := s.nonempty(input)
	index, indexed := v.take("index"), false
	var at int64
	if index.ok() {
		indexed, at = true, count(index)
	}
	s.drop(inner, "call.")
	s.drop(v, "call.")
	if s.reader.err != nil {
		return
	}

	known := -1
	for i := len(s.calls) - 1; i >= 0 && known < 0; i-- {
		c := &s.calls[i]
		other := id != nil && !bytes.Equal(id, c.id)
		switch {
		case indexed && c.index == at && !(other && name != nil): // some servers number all calls 0
			known = i
		case !indexed && id != nil && !other, !indexed && id == nil && i == len(s.calls)-1:
			known = i
		}
	}
	switch {
	case known < 0:
		if s.finish != "" {
			s.fail(v, "the model went on after its end")
			return
		}
		if id == nil || name == nil {
			s.fail(v, "a call begins without its id and name")
			return
		}
		if len(s.calls) == maxCalls {
			s.fail(v, "there are too many calls")
			return
		}
		s.shut()
		s.calls = append(s.calls, liveCall{call: call{id: bytes.Clone(id), name: bytes.Clone(name), custom: custom}, index: at})
		s.held += len(id) + len(name)
		s.block = blockCall
		s.sink.open(blockCall)
		s.limit()
	case name != nil && !bytes.Equal(name, s.calls[known].name):
		s.fail(v, fmt.Sprintf("a call changes its name to %q", clip(unquote(name))))
		return
	}
	if args == nil {
		return
	}
	if known >= 0 && (known != len(s.calls)-1 || s.block != blockCall || s.finish != "") {
		s.fail(v, "the pieces of a call are mixed with others")
		return
	}
	c := s.current()
	c.filled = c.filled || !blank(args)
	s.piece(args)
}
