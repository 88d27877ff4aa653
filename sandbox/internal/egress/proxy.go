package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The proxy is a second way to the same door, for programs that speak nothing
// else, and for sessions without a network of their own. A program says a name
// and a port in HTTP instead of dialling them; from there on it is the same
// attempt, decided in the same place ([Door.attempt]). CONNECT makes a tunnel
// (RFC 9110 §9.3.6). Requests in absolute form (RFC 9112 §3.2.2) are for plain
// HTTP: each host gets a connection of its own inside this process, which goes
// through the door like any other.

const (
	proxyIdle   = 30 * time.Second
	established = "HTTP/1.1 200 Connection established\r\n\r\n"
)

// errProxyRequest is for requests that only a confused or malicious program
// sends to a proxy.
var errProxyRequest = errors.New("this is a proxy: CONNECT host:port, or a request for http://host/")

type proxy struct {
	door   *Door
	server *http.Server
	conns  chan net.Conn
	done   chan struct{}
	loop   sync.WaitGroup
}

func newProxy(d *Door) *proxy {
	p := &proxy{door: d, conns: make(chan net.Conn), done: make(chan struct{})}
	p.server = &http.Server{
		Handler:           p,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		// "OPTIONS *" is no request for a proxy either.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     log.New(io.Discard, "", 0),
		BaseContext:                  func(net.Listener) context.Context { return d.ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
	p.loop.Go(func() { p.server.Serve(p) })
	return p
}

// A proxyConn is a connection to the proxy.
type proxyConn struct {
	net.Conn
	once   sync.Once
	gone   chan struct{}
	tunnel chan *attempt
	plain  *http.Transport // to the hosts of requests in absolute form
}

func (c *proxyConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { close(c.gone) })
	return err
}

// serve returns when the connection, or the tunnel that it became, is over.
func (p *proxy) serve(c net.Conn) {
	if !p.door.slot() {
		reset(c)
		return
	}
	defer p.door.free()
	pc := &proxyConn{Conn: c, gone: make(chan struct{}), tunnel: make(chan *attempt, 1)}
	pc.plain = &http.Transport{
		DialContext:            func(ctx context.Context, _, addr string) (net.Conn, error) { return p.dial(ctx, c, addr) },
		DisableCompression:     true,
		IdleConnTimeout:        proxyIdle,
		MaxIdleConns:           8,
		MaxResponseHeaderBytes: maxHeader,
	}
	defer pc.plain.CloseIdleConnections()
	select {
	case p.conns <- pc:
	case <-p.door.ctx.Done():
		return
	}
	select {
	case a := <-pc.tunnel:
		p.door.attempt(a)
	case <-pc.gone:
	case <-p.door.ctx.Done():
	}
	pc.Close()
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	pc := r.Context().Value(connKey{}).(*proxyConn)
	if r.Method == http.MethodConnect {
		p.connect(w, r, pc)
		return
	}
	t, err := absoluteForm(r)
	if err != nil {
		p.bad(w, r, err)
		return
	}
	(&httputil.ReverseProxy{
		Transport:     pc.plain,
		FlushInterval: -1,
		ErrorLog:      p.server.ErrorLog,
		Rewrite: func(pr *httputil.ProxyRequest) {
			// The target decides, whatever a Host field says (RFC 9112 §3.2.2).
			pr.Out.Host = r.URL.Host
			pr.Out.URL.Host = net.JoinHostPort(t.host, strconv.Itoa(int(t.port)))
			pr.Out.Header["User-Agent"] = r.Header["User-Agent"]
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			var refused refusedError
			if errors.As(err, &refused) {
				forbidden(w.Header())
				http.Error(w, refused.Error(), http.StatusForbidden)
				return
			}
			http.Error(w, "the host did not answer", http.StatusBadGateway)
		},
	}).ServeHTTP(w, r)
}

// connect hands the connection over as a tunnel.
func (p *proxy) connect(w http.ResponseWriter, r *http.Request, pc *proxyConn) {
	t, known, err := connectTarget(r)
	if err != nil {
		p.bad(w, r, err)
		return
	}
	c, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return // it is gone
	}
	c.SetDeadline(time.Time{})
	var side net.Conn = pc.Conn
	if n := buf.Reader.Buffered(); n > 0 { // the program did not wait for the answer
		first, _ := buf.Reader.Peek(n)
		side = &prefixed{Conn: pc.Conn, first: append([]byte(nil), first...)}
	}
	pc.tunnel <- &attempt{
		c: side, from: pc.Conn, t: t, known: known,
		pass: func() error { _, err := io.WriteString(side, established); return err },
		refused: func(cause string) {
			text := refusedError(cause).Error() + "\n"
			fmt.Fprintf(side, "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(text), text)
		},
	}
}

// dial makes a connection of this process that goes through the door as if the
// program had dialled addr, and returns it when it was let through.
func (p *proxy) dial(ctx context.Context, from net.Conn, addr string) (net.Conn, error) {
	t, known, err := authority(addr, 0)
	if err != nil {
		return nil, err
	}
	near, far := net.Pipe()
	if !p.door.hold(far) {
		return nil, ErrClosed
	}
	said := make(chan error, 1)
	a := &attempt{
		c: far, from: from, t: t, known: known,
		pass:    func() error { said <- nil; return nil },
		refused: func(cause string) { said <- refusedError(cause) },
	}
	go func() {
		defer p.door.release(far)
		defer p.door.survive()
		defer func() {
			select {
			case said <- ErrClosed:
			default:
			}
		}()
		if !p.door.slot() {
			p.door.deny(a, p.door.now().refusal(CauseLimit))
			return
		}
		defer p.door.free()
		p.door.attempt(a)
	}()
	select {
	case err = <-said:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		near.Close()
		return nil, err
	}
	return near, nil
}

// A refusedError is the cause for which a program is refused.
type refusedError string

func (e refusedError) Error() string { return "the session's policy refuses this: " + string(e) }

func forbidden(h http.Header) { h.Set("Connection", "close") }

// bad refuses what is no request for a proxy, on record.
func (p *proxy) bad(w http.ResponseWriter, r *http.Request, err error) {
	d := p.door
	d.rec.deny(d.ctx, target{host: "proxy", proto: "proxy"}, d.now().refusal(CauseProxy), denialsEach, "request", short(r.Method+" "+r.RequestURI))
	forbidden(w.Header())
	http.Error(w, err.Error(), http.StatusBadRequest)
}

// connectTarget reads the target of CONNECT strictly: host:port and nothing
// else. An address is a target that no rule can allow.
func connectTarget(r *http.Request) (t target, known bool, err error) {
	if r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
		return t, false, errors.New("CONNECT has no body")
	}
	return authority(r.RequestURI, 0)
}

// absoluteForm reads the target of a request for http://host[:port]/….
func absoluteForm(r *http.Request) (target, error) {
	if r.URL.Scheme != "http" || r.URL.User != nil || r.URL.Opaque != "" || !strings.HasPrefix(strings.ToLower(r.RequestURI), "http://") {
		return target{}, errProxyRequest
	}
	t, _, err := authority(r.URL.Host, 80)
	return t, err
}

// authority reads host:port. def is the port of one without; 0 means that the
// port is required.
func authority(s string, def uint16) (t target, known bool, err error) {
	host, port := s, strconv.Itoa(int(def))
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		host, port = s[:i], s[i+1:]
	} else if def == 0 {
		return t, false, errProxyRequest
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return t, false, fmt.Errorf("%w: no port", errProxyRequest)
	}
	t = target{port: uint16(n), proto: "tcp"}
	if a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")); err == nil {
		t.host = a.Unmap().String()
		return t, false, nil
	}
	if t.host, err = Canonical(host); err != nil {
		return t, false, err
	}
	return t, true, nil
}

// A prefixed connection has bytes that were read already.
type prefixed struct {
	net.Conn
	first []byte
}

func (c *prefixed) Read(p []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(p, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

func (c *prefixed) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return c.Conn.Close()
}

func (c *prefixed) SetLinger(sec int) error {
	if l, ok := c.Conn.(interface{ SetLinger(int) error }); ok {
		return l.SetLinger(sec)
	}
	return nil
}

// Accept, Addr and Close make proxy the listener of its own server.
func (p *proxy) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *proxy) Addr() net.Addr { return &net.TCPAddr{} }
func (p *proxy) Close() error   { return nil } // [proxy.close] ends Accept

// close ends the server after all its connections were closed.
func (p *proxy) close() {
	close(p.done)
	p.server.Close()
	p.loop.Wait()
}
