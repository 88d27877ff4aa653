package egress

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	upstreamIdle     = 30 * time.Second
	upstreamTLS      = 15 * time.Second
	continueTimeout  = time.Second
	maxAnswerHeader  = 256 << 10
	maxIdleUpstreams = 64 // of a session
	maxIdleEach      = 8  // of a host
)

// newForwarder passes requests on as they are: what is about one connection is taken
// out (RFC 9110, section 7.6.1), the rest is left, and nothing is added.
func newForwarder(p *pools) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite:       rewrite,
		Transport:     p,
		FlushInterval: -1, // at once
		BufferPool:    &buffers{},
		ErrorHandler:  failed,
		ModifyResponse: func(res *http.Response) error {
			if len(res.Trailer) > 0 && exchangeOf(res.Request.Context()).major == 1 {
				res.Header.Del("Content-Length") // or HTTP/1.1 has no place for them
			}
			return nil
		},
		ErrorLog: log.New(io.Discard, "", 0), // the record says it
	}
}

func exchangeOf(ctx context.Context) *exchange { return ctx.Value(exchangeKey{}).(*exchange) }

// rewrite makes the outgoing request say what was judged, and undoes what
// ReverseProxy thinks better.
func rewrite(pr *httputil.ProxyRequest) {
	x := exchangeOf(pr.In.Context())
	addr := net.JoinHostPort(x.host, strconv.Itoa(int(x.port)))
	pr.Out.URL = targetURL(x.scheme(), addr, x.canon, x.query, x.mark)
	pr.Out.Host = x.authority
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if v, ok := pr.In.Header[name]; ok {
			pr.Out.Header[name] = v
		}
	}
	pr.Out.Trailer = pr.In.Trailer // the same map: it is filled when the body has been read
}

// failed answers for a host that could not be asked or did not answer.
func failed(rw http.ResponseWriter, r *http.Request, err error) {
	x := exchangeOf(r.Context())
	p := problem{Error: "upstream_unreachable", Detail: "The host could not be reached."}
	status := http.StatusBadGateway
	var no *dialError
	var bad *tls.CertificateVerificationError
	var alert tls.AlertError
	var header tls.RecordHeaderError
	switch {
	case errors.As(err, &no):
		x.code = no.code
		switch no.code {
		case CausePrivate:
			d := x.door.now().refusal(CausePrivate)
			x.door.rec.deny(x.door.ctx, x.target, d, denialsEach)
			status, p.Error, p.DecisionID = http.StatusForbidden, "ssrf_denied", d.ID
			p.Detail = "The name leads to an address that must not be reached."
		case CauseLimit:
			d := x.door.now().refusal(CauseLimit)
			x.door.rec.deny(x.door.ctx, x.target, d, denialsEach)
			status, p.Error, p.DecisionID = http.StatusServiceUnavailable, "too_many_connections", d.ID
			p.Detail = "The session has too many connections open."
		}
	case errors.As(err, &bad):
		x.code, p.Error = "upstream-certificate", "upstream_certificate"
		p.Detail = "The host's certificate could not be verified: " + short(bad.Err.Error())
		p.NextSteps = []string{"Nothing was sent. Do not switch verification off: it is the host of this session that verifies."}
	case errors.As(err, &alert), errors.As(err, &header):
		x.code, p.Error = "upstream-tls", "upstream_tls"
		p.Detail = "The host and this session's door have no TLS in common."
	case r.Context().Err() != nil:
		x.code = "cancelled"
		panic(http.ErrAbortHandler)
	default:
		x.code, p.Error = "upstream-broken", "upstream_broken"
		p.Detail = "The host did not answer as HTTP has it. The request may have been carried out."
	}
	p.Reason = x.code
	x.answer(rw, status, p)
}

// pools are the connections of one session to real hosts that were looked into.
// A connection is used again only for the same name and port, and under the same
// rule about private addresses.
type pools struct {
	door *Door
	open atomic.Int64 // connections

	mu sync.Mutex
	by map[poolKey]*http.Transport
}

type poolKey struct {
	private bool
	clear   bool // HTTP/2 without TLS
}

func newPools(d *Door) *pools { return &pools{door: d, by: make(map[poolKey]*http.Transport)} }

// RoundTrip sends a request, each over a kind of connection that the program
// uses itself: HTTP/2 without TLS is never made HTTP/1.1, nor TLS taken away.
func (p *pools) RoundTrip(r *http.Request) (*http.Response, error) {
	x := exchangeOf(r.Context())
	k := poolKey{private: x.rule.Private, clear: r.URL.Scheme == "http" && r.ProtoMajor == 2}
	p.mu.Lock()
	t := p.by[k]
	if t == nil {
		t = p.transport(k)
		p.by[k] = t
	}
	p.mu.Unlock()
	return t.RoundTrip(r)
}

func (p *pools) transport(k poolKey) *http.Transport {
	var protocols http.Protocols
	protocols.SetHTTP1(!k.clear)
	protocols.SetHTTP2(!k.clear)
	protocols.SetUnencryptedHTTP2(k.clear)
	return &http.Transport{
		DialContext: p.dial,
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, RootCAs: p.door.conf.Roots, ClientSessionCache: tls.NewLRUClientSessionCache(maxIdleUpstreams),
		},
		Protocols:              &protocols,
		DisableCompression:     true, // what the program asks for, it gets
		MaxIdleConns:           maxIdleUpstreams,
		MaxIdleConnsPerHost:    maxIdleEach,
		IdleConnTimeout:        upstreamIdle,
		TLSHandshakeTimeout:    upstreamTLS,
		ExpectContinueTimeout:  continueTimeout,
		MaxResponseHeaderBytes: maxAnswerHeader,
		WriteBufferSize:        16 << 10,
		ReadBufferSize:         16 << 10,
	}
}

// A dialError is a connection that was not made; code is for the record.
type dialError struct{ code string }

func (e *dialError) Error() string { return "egress: " + e.code }

// dial makes a connection for the flow whose request asks for it first. It does
// not end with that flow, as others may use it, but with the rules that allow it.
func (p *pools) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	d, x := p.door, exchangeOf(ctx)
	if p.open.Add(1) > int64(d.conf.MaxConns) {
		p.closeIdle()
		if p.open.Load() > int64(d.conf.MaxConns) {
			p.open.Add(-1)
			return nil, &dialError{CauseLimit}
		}
	}
	f := d.upstreamFlow(x.flow, x.rule)
	up, private, code := d.dial(f)
	if code == "" && !d.holdReal(up, f, private) {
		reset(up)
		code = outPolicy
	}
	if code != "" {
		f.cancel()
		p.open.Add(-1)
		return nil, &dialError{code}
	}
	return &upstream{Conn: up, done: func() {
		f.cancel()
		p.open.Add(-1)
		d.release(up)
	}}, nil
}

// upstreamFlow is a flow like f that outlives it.
func (d *Door) upstreamFlow(f *flow, r Rule) *flow {
	d.mu.Lock()
	defer d.mu.Unlock()
	own := *f
	own.rule, own.private, own.cut = r, false, ""
	own.ctx, own.cancel = context.WithCancel(d.ctx)
	return &own
}

func (p *pools) closeIdle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.by {
		t.CloseIdleConnections()
	}
}

// An upstream is a connection to a real host.
type upstream struct {
	net.Conn
	once sync.Once
	done func() // closes it
}

func (u *upstream) Close() error { u.once.Do(u.done); return nil }

// Hijack makes an upgraded connection count too, and begin with what the program
// has sent before it was upgraded.
func (w *countedWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, b, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, fmt.Errorf("egress: %w", err)
	}
	w.x.status.CompareAndSwap(0, http.StatusSwitchingProtocols)
	return &upgraded{Conn: c, early: b.Reader, x: w.x}, b, nil
}

type upgraded struct {
	net.Conn
	early *bufio.Reader
	x     *exchange
}

func (u *upgraded) Read(p []byte) (n int, err error) {
	if u.early.Buffered() > 0 {
		n, err = u.early.Read(p[:min(len(p), u.early.Buffered())])
	} else {
		n, err = u.Conn.Read(p)
	}
	u.x.sent.Add(int64(n))
	return n, err
}

func (u *upgraded) Write(p []byte) (int, error) {
	u.x.received.Add(int64(len(p)))
	n, err := u.Conn.Write(p)
	u.x.received.Add(int64(n - len(p)))
	return n, err
}

// buffers are for copying bodies.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(p []byte) { b.pool.Put(&p) }
