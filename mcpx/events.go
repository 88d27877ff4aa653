package mcpx

import (
	"bufio"
	"bytes"
	"io"
	"strconv"
	"time"
)

// maxEventID bounds the id of an event, in bytes; a longer one is none.
const maxEventID = 1024

// An events reader takes a stream of server-sent events apart, as the HTML
// standard says (§9.2.6), as far as MCP uses it: events named "message" or not
// at all, whose data is one JSON text.
type events struct {
	r    *bufio.Reader
	data []byte
	last string // id of the last event

	retry time.Duration // how long after the stream's end it may be asked for again
}

func newEvents(r io.Reader) *events { return &events{r: bufio.NewReader(r), retry: resumeWait} }

// again reads the same stream where it goes on.
func (e *events) again(r io.Reader) *events {
	return &events{r: bufio.NewReader(r), last: e.last, retry: e.retry}
}

// next returns the data of the next event that has any. It is good until the
// call after. At the end of the stream, also in the middle of an event, it
// returns io.ErrUnexpectedEOF: an event that was not ended is not one.
func (e *events) next() ([]byte, error) {
	e.data = e.data[:0]
	named, any := false, false
	id := e.last // counts once its event has come whole
	for {
		line, err := e.line()
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if len(line) == 0 {
			e.last = id
			if any && !named {
				return e.data, nil
			}
			e.data, named, any = e.data[:0], false, false
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "data":
			if any {
				e.data = append(e.data, '\n')
			}
			e.data, any = append(e.data, value...), any || len(value) > 0
		case "event":
			named = len(value) > 0 && string(value) != "message"
		case "id":
			if len(value) <= maxEventID && !bytes.ContainsFunc(value, func(r rune) bool { return r < ' ' }) {
				id = string(value)
			}
		case "retry":
			if ms, err := strconv.ParseUint(string(value), 10, 31); err == nil {
				e.retry = time.Duration(ms) * time.Millisecond
			}
		}
	}
}

// line returns one line without its end. The stream as a whole is bounded.
func (e *events) line() ([]byte, error) {
	line, err := e.r.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		whole := bytes.Clone(line)
		for err == bufio.ErrBufferFull {
			line, err = e.r.ReadSlice('\n')
			whole = append(whole, line...)
		}
		line = whole
	}
	if err != nil {
		return nil, err
	}
	line = line[:len(line)-1]
	return bytes.TrimSuffix(line, []byte("\r")), nil
}
