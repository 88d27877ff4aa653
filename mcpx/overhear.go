package mcpx

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// A server of the older era may ask on the stream of a call, or on the one that
// belongs to no request. Which of them it takes is the choice of its SDK, so while
// a call has its session for itself, both are heard.

const (
	// overhearWait bounds how long a call waits for that stream to open: without
	// it, a server that takes it cannot ask.
	overhearWait = 5 * time.Second
	// overhearAgain and overhearTries are for a server that has not noticed yet
	// that the call before has hung up; it allows one such stream.
	overhearAgain = 50 * time.Millisecond
	overhearTries = 20
)

// overhear listens to the stream that belongs to no request, until end is called.
// It returns when the stream is open, or when there will be none.
func (g *Gateway) overhear(p *passage, f *flight, u *Upstream) (end func()) {
	ctx, cancel := context.WithCancel(p.ctx)
	// What becomes of this stream says nothing about the call.
	c := &carriage{lease: p.c.lease, told: make(chan struct{})}
	x := &exchange{g: g, p: &passage{outer: p.outer, ctx: ctx, c: c, s: p.s}, f: f, u: u, answer: &answer{}}
	open, done := make(chan struct{}), make(chan struct{})
	opened := sync.OnceFunc(func() { close(open) })
	if !g.pool.background(func() {
		defer close(done)
		defer opened()
		x.overhear(ctx, p.c, opened)
	}) {
		cancel()
		return func() { /* the gateway is closing */ }
	}
	timer := time.NewTimer(overhearWait)
	defer timer.Stop()
	select {
	case <-open:
	case <-timer.C:
	case <-ctx.Done():
	}
	return func() {
		cancel()
		<-done
	}
}

// overhear answers what is asked on the stream, and gives what is told to the call.
func (x *exchange) overhear(ctx context.Context, call *carriage, opened func()) {
	r := &http.Request{
		Method: http.MethodGet, URL: x.u.endpoint, Host: x.u.endpoint.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Accept": {"text/event-stream"}, headerVersion: {x.p.s.wire.agreed()}, sessionHeader: {x.p.s.cs.ID()}},
	}
	resp, err := x.p.s.wire.direct.RoundTrip(r.WithContext(carried{ctx, x.p.c}))
	for range overhearTries {
		if err != nil || resp.StatusCode != http.StatusConflict {
			break
		}
		resp.Body.Close()
		select {
		case <-ctx.Done():
			return
		case <-time.After(overhearAgain):
		}
		resp, err = x.p.s.wire.direct.RoundTrip(r.WithContext(carried{ctx, x.p.c}))
	}
	if err != nil {
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return
	}
	opened()
	for in := newEvents(resp.Body); ; {
		data, err := in.next()
		if err != nil {
			return
		}
		msg, err := jsonrpc.DecodeMessage(data)
		m, ok := msg.(*jsonrpc.Request)
		switch {
		case err != nil || !ok:
		case m.IsCall():
			x.refuse(ctx, m) // or answer
		case m.Method == notifyToolsChanged || m.Method == notifyPromptsChanged:
			x.p.s.wire.changed.Store(true)
		case m.Method == notifyProgress || m.Method == notifyMessage:
			call.hears().hear(m.Method, m.Params)
		}
	}
}
