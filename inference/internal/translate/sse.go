package translate

import "bytes"

// maxEvent bounds one event of a backend's stream, in bytes.
const maxEvent = 4 << 20

// maxComment bounds the comments that are passed on.
const maxComment = 256

// An events reads server-sent events (WHATWG HTML, 9.2) however the stream was
// cut: lines end with LF, CRLF or CR, "data:" may lack its space, an event may
// have several data lines.
type events struct {
	line    []byte // an unfinished line
	data    []byte // of the event that is being read
	has     bool   // it has data
	failed  bool   // it is called "error"
	skipLF  bool   // the last line ended with CR
	started bool   // the first line was seen; a byte order mark is not looked for any more
}

// feed takes bytes and calls event with the data of each whole event, and
// comment with each comment line. Both may keep nothing. It reports whether the
// limits were kept; event may end the reading by returning false.
func (s *events) feed(p []byte, event func(data []byte, failed bool) bool, comment func([]byte)) bool {
	for len(p) > 0 {
		if s.skipLF {
			s.skipLF = false
			if p[0] == '\n' {
				p = p[1:]
				continue
			}
		}
		end := bytes.IndexByte(p, '\n')
		if cr := bytes.IndexByte(p[:max(end, 0)], '\r'); cr >= 0 {
			end = cr
		} else if end < 0 {
			end = bytes.IndexByte(p, '\r')
		}
		if end < 0 {
			s.line = append(s.line, p...)
			return len(s.line)+len(s.data) <= maxEvent
		}
		line := p[:end]
		if len(s.line) > 0 {
			s.line = append(s.line, line...)
			line = s.line
		}
		s.skipLF = p[end] == '\r'
		p = p[end+1:]
		if len(line)+len(s.data) > maxEvent {
			return false
		}
		if !s.take(line, event, comment) {
			return true
		}
		s.line = s.line[:0]
	}
	return true
}

// take deals with one line; false ends the reading.
func (s *events) take(line []byte, event func([]byte, bool) bool, comment func([]byte)) bool {
	if !s.started {
		s.started = true
		line = bytes.TrimPrefix(line, []byte("\uFEFF"))
	}
	if len(line) == 0 {
		goOn := true
		if s.has {
			goOn = event(s.data, s.failed)
		}
		s.data, s.has, s.failed = s.data[:0], false, false
		return goOn
	}
	if line[0] == ':' {
		if len(line) <= maxComment {
			comment(line)
		}
		return true
	}
	name, val, _ := bytes.Cut(line, []byte(":"))
	val = bytes.TrimPrefix(val, []byte(" "))
	switch string(name) {
	case "data":
		if s.has {
			s.data = append(s.data, '\n')
		}
		s.data, s.has = append(s.data, val...), true
	case "event":
		s.failed = string(val) == "error"
	}
	return true
}
