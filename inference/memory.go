package inference

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// A memory bounds the bytes that all calls hold at once of requests and answers,
// and those that one agent's calls hold. It is safe for concurrent use.
type memory struct {
	most int64 // of all
	each int64 // of one agent

	mu    sync.Mutex
	all   int64
	agent map[string]int64
}

// newMemory returns a memory of which one agent gets at most a half, so that it
// cannot keep out the others.
func newMemory(most int64) *memory {
	return &memory{most: most, each: max(most/2, 1), agent: map[string]int64{}}
}

// take takes n bytes for an agent, or none.
func (m *memory) take(agent string, n int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n > m.most-m.all || n > m.each-m.agent[agent] {
		return false
	}
	m.all += n
	m.agent[agent] += n
	return true
}

// give gives back what was taken.
func (m *memory) give(agent string, n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all -= n
	if m.agent[agent] -= n; m.agent[agent] <= 0 {
		delete(m.agent, agent)
	}
}

// errNoRoom ends a read for which there is no memory.
var errNoRoom = errors.New("inference: the bodies of all calls would be larger together than the host allows")

// errTooLarge ends a read of more than a body may have.
var errTooLarge = errors.New("inference: the body is too large")

// room takes n bytes more for the call, which are given back when it ends.
func (c *call) room(n int64) bool {
	if !c.memory.take(c.actor.Agent, n) {
		return false
	}
	c.holds += n
	return true
}

// giveBack gives back the memory that the call has taken so far, but not that of
// letters.
func (c *call) giveBack() {
	if c.holds > 0 {
		c.memory.give(c.actor.Agent, c.holds)
		c.holds = 0
	}
}

const (
	// firstRead is what a body gets whose length nobody said, and longestRead the
	// most that it gets on somebody's word alone.
	firstRead   = 4 << 10
	longestRead = 1 << 20
)

// readAll reads all of r, up to most bytes. length is what r is said to have, or
// below zero. The memory is taken before it is there.
func (c *call) readAll(r io.Reader, length, most int64) ([]byte, error) {
	var body []byte
	for {
		if have := int64(cap(body)); int64(len(body)) == have {
			size := 2 * have
			switch {
			case have == 0 && length < 0:
				size = firstRead
			case have == 0:
				size = min(length+1, longestRead) // with one more the end is found
			case length >= have:
				size = min(size, length+1)
			}
			size = min(size, most+1)
			if !c.room(size - have) {
				return nil, errNoRoom
			}
			body = append(make([]byte, 0, size), body...)
		}
		n, err := r.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case int64(len(body)) > most:
			return nil, errTooLarge
		case err == io.EOF:
			return body, nil
		case err != nil:
			return nil, err
		}
	}
}

// receive reads the client's body, for which it has a limited time. When it is not
// read to its end the connection cannot be kept.
func (c *call) receive() ([]byte, error) {
	rc := http.NewResponseController(c.w)
	limited := c.opts.BodyTimeout > 0 && rc.SetReadDeadline(time.Now().Add(c.opts.BodyTimeout)) == nil
	body, err := c.readAll(c.req.Body, c.req.ContentLength, c.opts.MaxBody)
	switch {
	case err != nil:
		c.w.Header().Set("Connection", "close") // the rest would be read, however slowly it comes
	case limited:
		_ = rc.SetReadDeadline(time.Time{}) // else the server takes it for the end of the client
	}
	return body, err
}

// unread is what the client is told when its body was not read.
func unread(err error) (ref refusal, guard string) {
	switch {
	case errors.Is(err, errNoRoom):
		return busy, audit.GuardLimit
	case errors.Is(err, os.ErrDeadlineExceeded):
		return refusal{status: http.StatusRequestTimeout, code: "body_timeout", message: "the body did not come in time"}, audit.GuardArguments
	}
	return refusal{status: http.StatusBadRequest, code: "incomplete_body", message: "the body could not be read to its end"}, audit.GuardArguments
}

// busy is what the client is told when there is no memory left.
var busy = refusal{
	status: http.StatusServiceUnavailable, code: "busy", after: time.Second,
	message: "the host holds as much of requests and answers as it may: ask again",
}
