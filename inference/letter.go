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

var errLetGo = errors.New("inference: the request was let go, so it cannot be sent")

// A letter is the body of a request, and the memory that was taken for it. A stream
// may take an hour, and as long net/http keeps the request; the letter keeps its text,
// and its share of the memory, only until the answer has begun and nobody reads it any
// more. A backend that answers without reading holds both until the call ends.
// It is safe for concurrent use.
type letter struct {
	memory *memory
	agent  string

	mu      sync.Mutex
	text    []byte
	share   int64 // bytes of memory; zero when they were given back
	readers int   // that are open
	gone    bool  // it is not opened any more
}

// newLetter takes the memory for a letter of size bytes. It is nil if there is none.
func (c *call) newLetter(size int) *letter {
	if !c.memory.take(c.actor.Agent, int64(size)) {
		return nil
	}
	return &letter{memory: c.memory, agent: c.actor.Agent, share: int64(size)}
}

// grow takes the memory that is lacking for size bytes, and reports whether there was
// as much.
func (l *letter) grow(size int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	more := int64(size) - l.share
	if more > 0 && !l.memory.take(l.agent, more) {
		return false
	}
	l.share += max(more, 0)
	return true
}

// open returns the text from its beginning. The reader must be closed or read to its
// end.
func (l *letter) open() (io.ReadCloser, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone {
		return nil, errLetGo
	}
	l.readers++
	return &letterReader{letter: l}, nil
}

// letGo ends that the letter can be opened. What is being read is read to its end.
func (l *letter) letGo() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone = true
	if l.readers == 0 {
		l.drop()
	}
}

// end is letGo that does not wait for readers: their next read fails.
func (l *letter) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone = true
	l.drop()
}

// drop lets the text go and gives back its share, once. l.mu is held.
func (l *letter) drop() {
	l.text = nil
	if l.share > 0 {
		l.memory.give(l.agent, l.share)
		l.share = 0
	}
}

// A letterReader reads a letter. Read and Close may be called at the same time, as
// transports do.
type letterReader struct {
	letter *letter
	at     int
	done   error // what Read returns from now on; nil: it is open
}

func (r *letterReader) Read(p []byte) (int, error) {
	l := r.letter
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case r.done != nil:
		return 0, r.done
	case l.text == nil:
		r.close(errLetGo)
		return 0, errLetGo
	case r.at == len(l.text):
		r.close(io.EOF)
		return 0, io.EOF
	}
	n := copy(p, l.text[r.at:])
	r.at += n
	return n, nil
}

// Close ends the reader. It returns nil.
func (r *letterReader) Close() error {
	r.letter.mu.Lock()
	defer r.letter.mu.Unlock()
	r.close(errLetGo)
	return nil
}

// close ends the reader, once; the last one of a letter that was let go lets go of its
// text. The letter's mu is held.
func (r *letterReader) close(why error) {
	if r.done != nil {
		return
	}
	r.done = why
	l := r.letter
	if l.readers--; l.readers == 0 && l.gone {
		l.drop()
	}
}
