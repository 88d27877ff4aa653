package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

const (
	headerTimeout = 15 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 64 << 10
	maxStreams    = 100 // of one HTTP/2 connection
	// handlerGrace is how long Close waits for handlers that do not return.
	handlerGrace = 5 * time.Second
)

// ErrHandlers is returned by Close when handlers still run. Their requests'
// contexts are cancelled and their connections closed.
var ErrHandlers = errors.New("egress: handlers have not returned")

// web is the HTTP server for the names that this process serves. One server
// takes the connections of all of them; each connection knows its name.
type web struct {
	door   *Door
	server *http.Server
	conns  chan net.Conn
	done   chan struct{} // closed by close
	rest   time.Duration // that a connection may have between requests
	loop   sync.WaitGroup

	mu   sync.Mutex
	busy int           // connections and requests that net/http works on
	idle chan struct{} // closed when busy falls to zero, if close waits for it
}

func newWeb(d *Door) *web {
	w := &web{door: d, conns: make(chan net.Conn), done: make(chan struct{}), rest: idleTimeout}
	var p http.Protocols
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	p.SetUnencryptedHTTP2(true)
	w.server = &http.Server{
		Handler:           w,
		ReadHeaderTimeout: headerTimeout,
		// OPTIONS * is a request like any other: judged, and refused.
		DisableGeneralOptionsHandler: true,
		MaxHeaderBytes:               maxHeader,
		HTTP2:                        &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		Protocols:                    &p,
		ErrorLog:                     log.New(io.Discard, "", 0), // what agents do wrong is not the host's news
		BaseContext:                  func(net.Listener) context.Context { return d.ctx },
		// Requests end with the flow of their connection, at once.
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			wc := webConnOf(c)
			ctx = context.WithValue(wc.flow.ctx, http.ServerContextKey, ctx.Value(http.ServerContextKey))
			return context.WithValue(ctx, connKey{}, wc)
		},
		ConnState: func(c net.Conn, s http.ConnState) {
			wc := webConnOf(c)
			wc.idle.enter(s, w.rest, func() { wc.Close() })
			switch s {
			case http.StateNew:
				w.work(1)
			case http.StateActive:
				wc.unread.Store(true)
			case http.StateClosed, http.StateHijacked:
				w.work(-1)
			}
		},
	}
	w.loop.Add(1)
	go func() { defer w.loop.Done(); w.server.Serve(w) }()
	return w
}

type connKey struct{}

// webConnOf returns what w.serve made of a connection.
func webConnOf(c net.Conn) *webConn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	return c.(*webConn)
}

// A webConn is a connection to a name that is served.
type webConn struct {
	net.Conn
	first []byte // read already
	flow  *flow
	door  *Door

	sending, receiving *allowance

	idle idler

	in, out atomic.Int64
	unread  atomic.Bool // a request has begun, and could not be read to its end (yet)
	once    sync.Once
	gone    chan struct{} // closed by Close
}

func (c *webConn) Read(p []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(p, c.first)
		c.first = c.first[n:]
		c.in.Add(int64(n))
		return n, nil
	}
	may := c.sending.take(int64(len(p)))
	if may == 0 && len(p) > 0 {
		c.door.spent(c.flow)
		return 0, errSpent
	}
	n, err := c.Conn.Read(p[:may])
	c.sending.give(may - int64(n))
	c.in.Add(int64(n))
	return n, err
}

func (c *webConn) Write(p []byte) (int, error) {
	// Counted before the other side can have them, so that the record of a
	// connection which ends in this moment does not say too little.
	if may := c.receiving.take(int64(len(p))); may < int64(len(p)) {
		c.receiving.give(may)
		c.door.spent(c.flow)
		return 0, errSpent
	}
	c.out.Add(int64(len(p)))
	n, err := c.Conn.Write(p)
	c.out.Add(int64(n - len(p)))
	return n, err
}

func (c *webConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { close(c.gone) })
	c.idle.enter(http.StateClosed, 0, nil)
	return err
}

// serve hands c to the HTTP server and returns when the connection is over.
func (w *web) serve(c net.Conn, first []byte, f *flow) (out audit.Outcome, received int64) {
	wc := &webConn{Conn: c, first: first, flow: f, gone: make(chan struct{}), door: w.door, sending: w.door.sending(), receiving: w.door.receiving()}
	var front net.Conn = wc
	var secure *tls.Conn
	if f.secure() {
		secure = tls.Server(wc, w.door.conf.CA.config(f.host))
		front = secure
	}
	select {
	case w.conns <- front:
		select {
		case <-wc.gone:
		case <-f.ctx.Done():
		}
	case <-f.ctx.Done():
	}
	wc.Close()
	out = audit.Outcome{Status: audit.StatusOK, Bytes: wc.out.Load()}
	if wc.unread.Load() && f.rule.Protocol != ProtocolTCP && (secure == nil || secure.ConnectionState().NegotiatedProtocol != "h2") && w.door.cutCode(f) == "" {
		t := f.target
		t.proto = f.scheme()
		w.door.rec.deny(f.ctx, t, w.door.now().refusal(CauseRequest), denialsEach)
	}
	switch {
	case w.door.ctx.Err() != nil:
		out.Status = audit.StatusCancelled
	case secure != nil && !secure.ConnectionState().HandshakeComplete:
		out.Status, out.ErrorCode = audit.StatusFailed, "tls-handshake"
	}
	return out, wc.in.Load()
}

// ServeHTTP gives a request to the handler of its connection's name, if the
// request is for that name.
func (w *web) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.work(1)
	defer w.work(-1)
	c := r.Context().Value(connKey{}).(*webConn)
	if _, ok := w.door.current(c.flow); !ok {
		panic(http.ErrAbortHandler) // read before the connection was cut
	}
	c.unread.Store(false)
	if c.flow.rule.Protocol != ProtocolTCP {
		w.door.inspector.serve(rw, r, c.flow)
		return
	}
	if asked, ok := c.flow.misdirected(r); !ok {
		w.door.rec.deny(r.Context(), c.flow.target, w.door.now().refusal(CauseHost), denialsEach, "asked", short(asked))
		rw.Header().Set("Connection", "close")
		http.Error(rw, "this connection is for "+c.flow.host, http.StatusMisdirectedRequest)
		return
	}
	c.flow.handler.ServeHTTP(rw, r)
}

// names reports whether a host and optional port are those of a flow.
func (f *flow) names(hostport string) bool {
	host, port := hostport, ""
	if i := strings.LastIndexByte(hostport, ':'); i >= 0 {
		host, port = hostport[:i], hostport[i+1:]
	}
	name, err := Canonical(host)
	return err == nil && name == f.host && (port == "" || port == strconv.Itoa(int(f.port)))
}

// Accept, Addr and Close make web the listener of its own server.
func (w *web) Accept() (net.Conn, error) {
	select {
	case c := <-w.conns:
		return c, nil
	case <-w.done:
		return nil, net.ErrClosed
	}
}

func (w *web) Addr() net.Addr { return &net.TCPAddr{} }
func (w *web) Close() error   { return nil } // [web.close] ends Accept

func (w *web) work(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.busy += n; w.busy == 0 && w.idle != nil {
		close(w.idle)
		w.idle = nil
	}
}

// close ends the server after all its connections were closed.
func (w *web) close() error {
	close(w.done)
	w.server.Close()
	w.loop.Wait()
	w.mu.Lock()
	busy := w.busy
	idle := make(chan struct{})
	if busy > 0 {
		w.idle = idle
	} else {
		close(idle)
	}
	w.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-time.After(handlerGrace):
		w.mu.Lock()
		defer w.mu.Unlock()
		return fmt.Errorf("%w: %d at work", ErrHandlers, w.busy)
	}
}
