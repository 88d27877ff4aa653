package inference

import (
	"bytes"
	"io"
)

// maxEvent is the size up to which an event is held until it is whole. A larger
// one passes as it arrives; the events that this door acts on are small.
const maxEvent = 256 << 10

// maxResponse is maxEvent for responses: the event that ends their streams
// repeats the answer, the instructions and the tools.
const maxResponse = 8 << 20

func (op *operation) maxEvent() int {
	if op.protocol == OpenAIResponses {
		return maxResponse
	}
	return maxEvent
}

// A splitter cuts a stream of server-sent events into whole events, however the
// stream was cut into reads. Lines end with LF or CRLF; a stream whose lines end
// with a lone CR passes too, but in pieces of that size.
//
// Use: fill, then next until it says no, then take what is released, then
// compact.
type splitter struct {
	buf   []byte // not released yet
	event int    // start of the event that is being read
	line  int    // start of the line that is being read; below 0 when already released
	seen  int    // up to here lines have been looked for
	last  byte   // the byte before buf
	large bool   // the start of the event that is being read was released
	max   int    // an event up to this size is held until it is whole; 0: maxEvent
}

// fill reads once from r.
func (s *splitter) fill(r io.Reader) (int, error) {
	if cap(s.buf)-len(s.buf) < 4<<10 {
		grown := make([]byte, len(s.buf), 2*cap(s.buf)+streamBuffer)
		copy(grown, s.buf)
		s.buf = grown
	}
	n, err := r.Read(s.buf[len(s.buf):cap(s.buf)])
	s.buf = s.buf[:len(s.buf)+n]
	return n, err
}

// next returns where the next whole event lies in buf, its blank line included.
func (s *splitter) next() (span, bool) {
	for {
		i := bytes.IndexByte(s.buf[s.seen:], '\n')
		if i < 0 {
			s.seen = len(s.buf)
			return span{}, false
		}
		end := s.seen + i
		length := end - s.line
		empty := length == 0 || length == 1 && s.at(end-1) == '\r'
		s.line, s.seen = end+1, end+1
		if empty {
			ev := span{s.event, end + 1}
			s.event = end + 1
			return ev, true
		}
	}
}

func (s *splitter) at(i int) byte {
	if i < 0 {
		return s.last
	}
	return s.buf[i]
}

// bytes returns an event, or nothing if its start is gone.
func (s *splitter) bytes(ev span) []byte {
	if s.large {
		s.large = false
		return nil
	}
	return ev.of(s.buf)
}

// released returns up to where buf may go on: to the end of the last whole
// event, or everything when an event is too large to be held.
func (s *splitter) released() int {
	if s.large || len(s.buf)-s.event > max(s.max, maxEvent) {
		s.large = true
		return len(s.buf)
	}
	return s.event
}

// compact forgets what was released.
func (s *splitter) compact() {
	n := s.released()
	if n == 0 {
		return
	}
	s.last = s.buf[n-1]
	s.buf = s.buf[:copy(s.buf, s.buf[n:])]
	s.event, s.line, s.seen = 0, s.line-n, s.seen-n
}

// eventData returns the data of an event: the values of its data lines, joined
// by newlines. It allocates only when there is more than one.
func eventData(ev []byte) []byte {
	var data []byte
	for lines := 0; len(ev) > 0; {
		line := ev
		if i := bytes.IndexByte(ev, '\n'); i >= 0 {
			line, ev = ev[:i], ev[i+1:]
		} else {
			ev = nil
		}
		line = bytes.TrimSuffix(line, []byte("\r"))
		value, ok := bytes.CutPrefix(line, []byte("data:"))
		if !ok {
			continue
		}
		value = bytes.TrimPrefix(value, []byte(" "))
		if lines++; lines == 1 {
			data = value[:len(value):len(value)]
		} else {
			data = append(append(data, '\n'), value...)
		}
	}
	return data
}
