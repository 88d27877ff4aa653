package inference

import (
	"errors"
	"io"
	"sync"
)

// heavy is the size in bytes from which a request's body is let go as soon as the
// answer has begun. Smaller ones are sent in one write with their headers, which
// net/http does only for readers that it knows.
const heavy = 16 << 10

var errLetGo = errors.New("inference: the answer has begun, so the request cannot be sent again")

// A letter is the body of a request. A stream may take an hour, and as long net/http
// keeps the request; the letter keeps its text only until it was sent and the answer
// has begun.
type letter struct {
	mu   sync.Mutex
	text []byte // nil: let go
}

// open returns the text from its beginning. It is safe to be called by the
// transport's goroutines.
func (l *letter) open() (io.ReadCloser, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text == nil {
		return nil, errLetGo
	}
	return io.NopCloser(&letterReader{l.text}), nil
}

// letGo ends that the letter can be opened. What is being read is read to its end.
func (l *letter) letGo() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = nil
}

type letterReader struct{ rest []byte }

func (r *letterReader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		r.rest = nil
		return 0, io.EOF
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
