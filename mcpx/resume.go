package mcpx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Before 2026-07-28 a server may end the stream of a call in the middle of it, so
// that no connection is held while it works: the client comes again, with the id
// of the last event that it had, and gets the rest (SEP-1699). The same mends a
// connection that broke. The call itself is never sent again.

const (
	// maxResumes bounds how often in a row a stream is asked for that brings
	// nothing new.
	maxResumes = 5
	// resumeWait is how long after the end of a stream it is asked for again, if
	// the server says nothing.
	resumeWait = time.Second
	// minResumeWait is how long at least.
	minResumeWait = 20 * time.Millisecond
)

// A brokenOff is why a stream ended before the result.
type brokenOff struct{ error }

func (b brokenOff) Unwrap() error { return b.error }

// events reads a stream up to the result, and what the server offers of it later.
// The rest of the last stream is for the caller to close, unless it is nil.
func (x *exchange) events(ctx context.Context, body io.ReadCloser) (raw json.RawMessage, rest io.ReadCloser, err error) {
	s := newEvents(body)
	last, idle := "", 0
	for {
		raw, err = x.upToResult(ctx, s)
		var b brokenOff
		if !errors.As(err, &b) || errors.Is(err, errTooLarge) || s.last == "" || x.modern() || ctx.Err() != nil {
			return raw, body, err
		}
		if s.last != last {
			last, idle = s.last, 0
		} else if idle++; idle >= maxResumes {
			return nil, body, err
		}
		body.Close()
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(max(s.retry, minResumeWait)):
		}
		if body, err = x.resume(ctx, last); err != nil {
			return nil, nil, err
		}
		s = s.again(body)
	}
}

// resume asks for what came after the last event.
func (x *exchange) resume(ctx context.Context, last string) (io.ReadCloser, error) {
	r := &http.Request{
		Method: http.MethodGet, URL: x.u.endpoint, Host: x.u.endpoint.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Accept": {"text/event-stream"}, headerVersion: {x.p.s.wire.agreed()}, lastEvent: {last}},
	}
	if id := x.p.s.cs.ID(); id != "" {
		r.Header[sessionHeader] = []string{id}
	}
	resp, err := x.p.s.wire.direct.RoundTrip(r.WithContext(carried{ctx, x.p.c}))
	if err != nil {
		return nil, err
	}
	if kind, _, _ := mediaType(resp.Header.Get("Content-Type")); resp.StatusCode != http.StatusOK || kind != "text/event-stream" {
		resp.Body.Close()
		return nil, fmt.Errorf("mcpx: a stream could not be resumed: %s", resp.Status)
	}
	return resp.Body, nil
}

// hangUp ends the client's stream when the upstream has ended its own: the client
// comes again as the gateway does. Nothing is lost by it, since a client without
// sessions, or one of versions that do not know this, goes on waiting.
func (q *query) hangUp() {
	if q.req == nil || q.modern {
		return
	}
	v, ok := q.req.(interface{ ProtocolVersion() string })
	extra := q.req.GetExtra()
	if !ok || v.ProtocolVersion() < pollingVersion || extra == nil || extra.CloseSSEStream == nil {
		return
	}
	extra.CloseSSEStream(mcp.CloseSSEStreamArgs{RetryAfter: pollAfter})
}

const (
	// pollingVersion is the first in which a server may end a stream so.
	pollingVersion = "2025-11-25"
	// pollAfter is when the client shall come again.
	pollAfter = 500 * time.Millisecond
)
