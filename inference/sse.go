package inference

import (
	"bytes"
	"errors"
	"io"
)

// A splitter cuts a stream of server-sent events (WHATWG HTML, 9.2) into whole
// events, however the stream was cut into reads. Lines end with LF or CRLF.
//
// A stream that clients read in different ways is an error, for what one of them
// takes for a comment is an event to the next: one with a CR that no LF follows,
// which ends a line for some only, and one that begins with a byte order mark,
// which some take off and others take for a part of the first field's name.
//
// Use: fill, then next until it says no, then take what lies before event, then
// compact.
type splitter struct {
	buf   []byte // not released yet
	event int    // start of the event that is being read
	line  int    // start of the line that is being read
	seen  int    // up to here lines have been looked for
	cr    bool   // the last byte was a CR
	mark  int    // how much was found of a byte order mark; its length: it is not looked for any more
}

var errFraming = errors.New("inference: the backend's events have lines that clients read in different ways")

const byteOrderMark = "\uFEFF"

// fill reads once from r.
func (s *splitter) fill(r io.Reader) (int, error) {
	if cap(s.buf)-len(s.buf) < 4<<10 {
		grown := make([]byte, len(s.buf), 2*cap(s.buf)+streamBuffer)
		copy(grown, s.buf)
		s.buf = grown
	}
	n, err := r.Read(s.buf[len(s.buf):cap(s.buf)])
	s.buf = s.buf[:len(s.buf)+n]
	if !s.plain(s.buf[len(s.buf)-n:]) || err == io.EOF && s.cr {
		err = errFraming
	}
	return n, err
}

// plain reports whether p, which comes next in the stream, is read by all clients
// alike.
func (s *splitter) plain(p []byte) bool {
	if len(p) == 0 {
		return true
	}
	for i := 0; i < len(p) && s.mark < len(byteOrderMark); i++ {
		if p[i] != byteOrderMark[s.mark] {
			s.mark = len(byteOrderMark)
		} else if s.mark++; s.mark == len(byteOrderMark) {
			return false
		}
	}
	if s.cr && p[0] != '\n' {
		return false
	}
	s.cr = p[len(p)-1] == '\r'
	for {
		i := bytes.IndexByte(p, '\r')
		if i < 0 || i == len(p)-1 {
			return true
		}
		if p = p[i+1:]; p[0] != '\n' {
			return false
		}
	}
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
		empty := length == 0 || length == 1 && s.buf[end-1] == '\r'
		s.line, s.seen = end+1, end+1
		if empty {
			ev := span{s.event, end + 1}
			s.event = end + 1
			return ev, true
		}
	}
}

// compact forgets the events that were read.
func (s *splitter) compact() {
	if n := s.event; n > 0 {
		s.buf = s.buf[:copy(s.buf, s.buf[n:])]
		s.event, s.line, s.seen = 0, s.line-n, s.seen-n
	}
}

// A frame is what clients read of an event.
type frame struct {
	name []byte // of the event
	// data are the values of its data lines, joined by newlines; nil: there is none.
	data []byte
	at   int  // where data begins in the event; below zero: it is on several lines
	only bool // there is nothing else in the event, such as a comment
}

// readFrame takes an event apart. It allocates only when its data is on several
// lines.
func readFrame(ev []byte) frame {
	f, names := frame{only: true}, 0
	for from := 0; from < len(ev); {
		line, to := ev[from:], len(ev)
		if n := bytes.IndexByte(line, '\n'); n >= 0 {
			line, to = line[:n], from+n+1
		}
		line = bytes.TrimSuffix(line, []byte("\r"))
		key, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch {
		case len(line) == 0:
		case string(key) == "data" && f.data == nil:
			f.at = from + len(line) - len(value)
			f.data = ev[f.at : f.at+len(value) : f.at+len(value)]
		case string(key) == "data":
			f.data = append(append(f.data, '\n'), value...)
			f.at = -1
		case string(key) == "event":
			f.name = value
			names++
		default:
			f.only = false
		}
		from = to
	}
	f.only = f.only && f.at >= 0 && names <= 1
	return f
}

// eventData returns the data of an event.
func eventData(ev []byte) []byte { return readFrame(ev).data }
