package inference

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
)

// relay brings the backend's answer to the client.
func (c *call) relay(resp *http.Response) {
	name := c.target.backend.Name
	switch {
	case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusProxyAuthRequired:
		// Not for the agent: it has no key that could be wrong, and providers
		// quote a part of the one that is.
		c.fail("upstream-unauthorized", fmt.Sprintf("the backend %q does not accept the host's credential", name))
		return
	case resp.StatusCode < 200, resp.StatusCode >= 300 && resp.StatusCode < 400:
		c.fail("upstream-redirect", fmt.Sprintf("the backend %q answered with a redirect", name))
		return
	case !identity(resp.Header):
		c.fail("upstream-encoding", fmt.Sprintf("the backend %q encoded its answer although it was asked not to", name))
		return
	}
	body := &scrubbed{r: resp.Body}
	if s := c.scrubber(); s != nil {
		if c.lease == nil || c.lease.Scrubber() != s { // else its transport has done so
			var found credential.Found
			resp.Header, found = s.Header(resp.Header)
			c.head = c.head.Plus(found)
		}
		body.scrub = s.Reader(resp.Body)
		body.r = body.scrub
	}
	if resp.StatusCode == http.StatusOK && eventStream(resp) {
		if c.exchange != nil {
			body.r = c.exchange.Stream(body.r)
		}
		c.stream(resp, body)
	} else {
		c.whole(resp, body)
	}
}

// scrubbed is the backend's body without the host's secrets.
type scrubbed struct {
	r     io.Reader
	scrub *credential.ScrubReader
}

// found returns the secrets that were found so far.
func (s *scrubbed) found() credential.Found {
	if s.scrub == nil {
		return nil
	}
	return s.scrub.Found()
}

// whole relays an answer that is not a stream: it is held until its outcome is
// on record.
func (c *call) whole(resp *http.Response, body *scrubbed) {
	most := c.opts.MaxBody
	if resp.StatusCode >= 400 {
		most = min(most, maxFault)
	}
	data, err := c.readAll(body.r, -1, most)
	c.leaks = body.found() // also in what is not told
	switch {
	case resp.StatusCode >= 400 && errors.Is(err, errTooLarge):
		data = nil // it is told by its status
	case errors.Is(err, errNoRoom):
		c.failWith(busy)
		return
	case errors.Is(err, errTooLarge):
		c.fail("upstream-too-large", fmt.Sprintf("the backend's answer is larger than %d bytes", c.opts.MaxBody))
		return
	case err != nil && c.ctx.Err() != nil:
		c.cancelled()
		return
	case err != nil && c.watch.expired() != nil:
		c.failWith(tooLate(c.target))
		return
	case err != nil:
		c.opts.Logger.Error("inference: the backend's answer broke off", slog.Any("error", err))
		c.fail("upstream-broken", "the backend's answer broke off")
		return
	}
	if resp.StatusCode >= 400 {
		data = readFault(data).body(c.target.wire(), resp.StatusCode)
		resp.Header.Set("Content-Type", "application/json")
	}
	if data, err = c.answer(resp, data); err != nil {
		c.opts.Logger.Error("inference: the backend's answer has no translation", slog.Any("error", err))
		c.count(nil)
		c.fail("upstream-untranslatable", "the backend's answer cannot be translated: "+discreet(err.Error()))
		return
	}
	c.out.Status, c.out.Bytes = audit.StatusOK, int64(len(data))
	if resp.StatusCode >= 400 {
		c.out.Status, c.out.ErrorCode = audit.StatusFailed, "upstream-"+strconv.Itoa(resp.StatusCode)
	} else if c.count(data); c.out.Status != audit.StatusOK {
		if data, err = discreetJSON(data); err != nil {
			data = readFault(nil).body(c.protocol, http.StatusBadGateway)
		}
	}
	if resp.StatusCode < 400 && c.inspects() {
		if c.filter = c.newFilter(); c.filter != nil {
			if data = c.filter.inspectWhole(data); c.filter.stopped() {
				c.failWith(c.unfit())
				return
			}
			c.out.Bytes = int64(len(data))
		}
	}
	if err := c.end(); err != nil {
		c.unanswered(err).write(c.w, c.protocol)
		return
	}
	defer c.boundWrites(http.NewResponseController(c.w))()
	copyHeaders(c.w.Header(), resp.Header, responseHeaders)
	c.w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	c.w.WriteHeader(resp.StatusCode)
	_, _ = c.w.Write(data)
}

// count takes the usage from a whole answer.
func (c *call) count(answer []byte) {
	if c.op.whole == nil {
		return // counting tokens costs none
	}
	m := newMeter(c.op, c.target.model, c.readable())
	m.whole(answer)
	if c.writes() { // a translated answer has zeros where the backend has not counted
		m.output = max(m.output, estimate(len(answer)))
	}
	c.out.Usage = c.usage(m, true)
	if m.failed {
		c.out.Status, c.out.ErrorCode = audit.StatusFailed, "upstream-failed"
	}
}

const (
	// streamBuffer is how much of a stream is read at once.
	streamBuffer = 8 << 10
	// maxTrailer is how much is read of one after its end, in bytes.
	maxTrailer = 64 << 10
)

// stream relays server-sent events as they arrive, whole events at a time. None
// passes before it was looked at, and what was held of one that does not end is
// never sent.
func (c *call) stream(resp *http.Response, body *scrubbed) {
	rc := http.NewResponseController(c.w)
	defer c.boundWrites(rc)()
	buf := c.buffer()
	defer c.buffers.Put(buf)
	s := &splitter{buf: (*buf)[:0]}
	room := cap(*buf) // of s.buf
	trailer := 0      // bytes that came after the end
	var held []byte   // an event that may be the last
	m := newMeter(c.op, c.target.model, c.readable())
	m.drop = c.drop
	c.forget()
	copyHeaders(c.w.Header(), resp.Header, responseHeaders)
	c.w.WriteHeader(resp.StatusCode)
	out := &client{w: c.w, rc: rc, dirty: true} // the header goes out at once
	if c.inspects() {
		c.filter = c.newFilter()
		out.filter = c.filter
	}
	out.flush()

	for {
		n, readErr := s.fill(body.r)
		m.read += int64(n)
		if c.ended {
			if trailer += n; trailer > maxTrailer {
				return // the client has everything
			}
		}
		if why := c.unfitStream(s, n, &room, readErr); why != nil {
			if c.ended {
				return // the client has everything
			}
			c.cut(out, m, body, *why)
		}
		if c.opts.Leaks.Block && !c.ended && len(body.found()) > 0 {
			c.streamOutcome(out, m, body, false)
			c.abort()
		}
		from := 0
		for ev, ok := s.next(); ok; ev, ok = s.next() {
			raw := ev.of(s.buf)
			c.seen.chunk(raw)
			verdict := m.event(raw)
			if m.fault {
				raw = discreetEvent(raw, c.protocol)
			}
			if why := c.unfitEvent(m, len(raw)); why != nil && !c.ended {
				out.write(held)
				out.write(s.buf[from:ev.lo])
				c.cut(out, m, body, *why)
			}
			if len(held) > 0 && !c.ended {
				out.write(held) // it was not the last
				held = held[:0]
			}
			switch {
			case c.ended || verdict == last:
				out.write(s.buf[from:ev.lo])
				c.finish(out, m, body, raw)
				from = ev.hi
			case verdict == drop:
				out.write(s.buf[from:ev.lo])
				from = ev.hi
			case verdict == hold:
				out.write(s.buf[from:ev.lo])
				if more := len(raw) - cap(held); more > 0 {
					if !c.room(int64(more)) {
						c.cut(out, m, body, busy)
					}
					held = make([]byte, 0, len(raw))
				}
				held = append(held, raw...)
				from = ev.hi
			case m.fault:
				out.write(s.buf[from:ev.lo])
				out.write(raw)
				from = ev.hi
			}
		}
		if !c.ended && s.event > from {
			out.write(held)
			held = held[:0]
			out.write(s.buf[from:s.event])
		}
		out.flush()
		s.compact()
		if out.filter != nil && out.filter.stopped() && !c.ended {
			c.cut(out, m, body, c.unfit())
		}
		switch {
		case out.err != nil && !c.ended:
			c.streamOutcome(out, m, body, false)
			c.markCancelled()
			c.abort()
		case out.err != nil:
			c.abort()
		case errors.Is(readErr, io.EOF):
			rest := s.buf // of an event whose blank line is missing
			switch {
			case c.ended:
			case m.event(rest) == drop:
				rest = nil
			case m.fault:
				rest = discreetEvent(rest, c.protocol)
			}
			if why := c.unfitEvent(m, len(rest)); why != nil && !c.ended {
				out.write(held)
				c.cut(out, m, body, *why)
			}
			c.finish(out, m, body, append(held, rest...))
			return
		case readErr != nil && c.ended:
			return // the client has everything
		case readErr != nil && c.ctx.Err() != nil:
			c.streamOutcome(out, m, body, false)
			c.markCancelled()
			c.abort()
		case readErr != nil && c.watch.expired() != nil:
			c.cut(out, m, body, tooLate(c.target))
		case readErr != nil:
			c.opts.Logger.Error("inference: the backend's stream broke off", slog.Any("error", readErr))
			out.write(held)
			out.flush()
			c.streamOutcome(out, m, body, false)
			c.out.Status, c.out.ErrorCode = audit.StatusFailed, "upstream-broken"
			c.abort()
		}
	}
}

// boundWrites ends writes to the client, one that waits among them, when the call does:
// a client that does not read must not keep it alive, and what it holds. What it
// returns is to be called before the handler returns.
func (c *call) boundWrites(rc *http.ResponseController) (release func()) {
	cut := make(chan struct{})
	stop := context.AfterFunc(c.watch.ctx, func() {
		defer close(cut)
		if c.ctx.Err() == nil { // the time is over, which the client is to be told
			_ = rc.SetWriteDeadline(time.Now().Add(cutGrace))
			return
		}
		// The failed write will look as if the client had left, so note who it was.
		c.cutByRevocation.Store(c.req.Context().Err() == nil)
		_ = rc.SetWriteDeadline(time.Unix(1, 0))
	})
	return func() {
		if !stop() {
			<-cut // the ResponseWriter is not to be touched once the handler has returned
		}
	}
}

// finish records the outcome and then releases the rest of the stream: the
// event that ends it, or what came after the last whole event. After that, only
// blank lines are let through.
func (c *call) finish(out *client, m *meter, body *scrubbed, rest []byte) {
	if c.ended {
		switch {
		case blank(rest):
			out.write(rest)
		case !out.late:
			out.late = true
			c.opts.Logger.Warn("inference: the backend went on after the end of its stream; that is not passed on")
		}
		return
	}
	if out.filter != nil {
		rest = append(out.filter.take(rest), out.filter.end()...)
		if out.filter.stopped() {
			c.cut(out, m, body, c.unfit())
		}
		out.filter = nil
	}
	out.flush() // what came before does not wait for the log
	c.streamOutcome(out, m, body, true)
	c.out.Bytes += int64(len(rest))
	if err := c.end(); err != nil {
		c.unanswered(err)
		c.abort()
	}
	out.write(rest)
}

// unfitStream says why a stream is not read any more, after a read of n bytes that
// came to err. room is the memory of s that was taken.
func (c *call) unfitStream(s *splitter, n int, room *int, err error) *refusal {
	more := int64(cap(s.buf) - *room)
	*room = cap(s.buf)
	switch {
	case more > 0 && !c.room(more):
		return &busy
	case errors.Is(err, errFraming):
		return malformed(c.target, "sent events whose lines are read in different ways")
	case int64(len(s.buf)-n) > c.opts.MaxBody: // before the read there was one event in it
		return c.overlong()
	}
	return nil
}

// unfitEvent says why the stream ends before an event of size bytes, which m has
// counted.
func (c *call) unfitEvent(m *meter, size int) *refusal {
	switch {
	case c.overspent(m):
		return &usedUp
	case int64(size) > c.opts.MaxBody:
		return c.overlong()
	}
	return nil
}

// overlong is what the client is told of an event that is too large.
func (c *call) overlong() *refusal {
	return malformed(c.target, fmt.Sprintf("sent an event larger than %d bytes", c.opts.MaxBody))
}

// malformed is what the client is told of a stream that cannot be relayed.
func malformed(t *target, what string) *refusal {
	return &refusal{
		status: http.StatusBadGateway, code: "upstream-malformed",
		message: fmt.Sprintf("the backend %q %s", t.backend.Name, what),
	}
}

// tooLate is what the client is told when an answer takes too long.
func tooLate(t *target) refusal {
	return refusal{
		status: http.StatusGatewayTimeout, code: "timeout",
		message: fmt.Sprintf("the answer of the backend %q took too long", t.backend.Name),
	}
}

// cutGrace is how long a client that does not read is waited for when the time of
// its stream is over.
const cutGrace = 5 * time.Second

// cut ends a running stream with the error event of its protocol, after the
// outcome is on record, and then the connection, so that nobody takes the answer
// for whole. Nothing of the event that is being read is sent.
func (c *call) cut(out *client, m *meter, body *scrubbed, why refusal) {
	c.streamOutcome(out, m, body, false)
	c.out.Status, c.out.ErrorCode = audit.StatusFailed, why.code
	if err := c.end(); err != nil {
		c.unanswered(err)
		c.abort()
	}
	out.filter = nil
	out.write(why.event(c.protocol))
	out.flush()
	c.abort()
}

// streamOutcome fills in what is known about a stream.
func (c *call) streamOutcome(out *client, m *meter, body *scrubbed, complete bool) {
	c.out.Status, c.out.Bytes = audit.StatusOK, out.n
	c.out.Usage = c.usage(m, complete)
	c.leaks = body.found()
	if m.failed {
		c.out.Status, c.out.ErrorCode = audit.StatusFailed, "upstream-error-event"
	}
}

func (c *call) buffer() *[]byte {
	if b, ok := c.buffers.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 0, streamBuffer)
	return &b
}

// A client is where a stream goes. After an error nothing more is written.
type client struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	n     int64 // bytes written
	dirty bool
	late  bool // something came after the end
	err   error

	filter *answerFilter // nil: nobody looks at it
}

func (o *client) write(p []byte) {
	if o.filter != nil {
		p = o.filter.take(p)
	}
	if len(p) == 0 || o.err != nil {
		return
	}
	n, err := o.w.Write(p)
	o.n += int64(n)
	o.err, o.dirty = err, true
}

func (o *client) flush() {
	if o.err == nil && o.dirty {
		o.err, o.dirty = o.rc.Flush(), false
	}
}

func blank(p []byte) bool {
	for _, c := range p {
		if c != '\r' && c != '\n' {
			return false
		}
	}
	return true
}
