// Package egress is the one way out of a sandbox session.
//
// Think of a door-keeper at the only door of a room without windows. Whatever
// address a program inside dials, the connection arrives here: the listeners of
// a [Door] were made inside the session's network namespace, which routes every
// destination to itself. Names are resolved here too, and only those that
// policy allows; each gets an address that nobody else has, so that the address
// of a connection says which name was meant. The door-keeper looks the name up,
// asks policy, writes down what happens, and only then hands the connection to a
// handler of this process or dials the real host and copies bytes.
//
// Nothing that arrives here is forwarded unless its name was allowed: a query
// for another name is answered "does not exist" on the spot, a bare address is
// reset, and what has no listener (other ports, UDP) is refused by the kernel.
//
// What is checked is the destination. Where a rule says http or https, each
// request is judged too, by its method and path; queries, headers and bodies
// are not: an allowed host sees whatever the program puts there.
package egress

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// A Decider decides what the rules allow once more: a *governance.Engine.
type Decider interface {
	Decide(context.Context, governance.Request) (governance.Decision, error)
}

// A Resolver finds the addresses of real hosts: a *net.Resolver.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Config says what a door lets through. Only Actor, Log and CA are required.
type Config struct {
	// Rules are the allow-list; nil allows nothing.
	Rules []Rule
	// PolicyHash identifies the rules in records.
	PolicyHash string
	// Actor is who everything that passes is attributed to.
	Actor audit.Actor
	// Log takes the records. A nil Log refuses everything.
	Log audit.Recorder
	// CA makes the certificates of names that are served.
	CA *CA
	// Decider is asked after the rules have allowed; nil means the rules alone.
	Decider Decider
	// Resolver and Dial reach real hosts; nil means this machine's.
	Resolver Resolver
	Dial     func(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	// Ask is asked about destinations that no rule allows; nil: they are refused.
	// It must return when ctx is done, which is after AskTimeout (zero means 30
	// seconds) at the latest. No answer is a refusal.
	Ask        func(ctx context.Context, q Question) Answer
	AskTimeout time.Duration
	// Suggest takes the destinations of which AnswerAlways was said; nil: nobody.
	Suggest func(host string, port uint16)
	// Governed are names about which nobody is asked, as another door decides
	// about them.
	Governed []Pattern
	// ProxyPort is where the listener at loopback addresses is a proxy; zero means
	// that there is none.
	ProxyPort uint16
	// Roots verify the real hosts of rules that look into TLS; nil means this
	// machine's roots.
	Roots *x509.CertPool
	// MaxConns bounds the connections at one time; zero means 256.
	MaxConns int
	Limits   Limits
	// Logger takes what the log could not; nil discards it.
	Logger *slog.Logger
}

// Listeners are the sockets of one session. Every destination address lands on
// them.
type Listeners struct {
	// TCP are by the port that a program dials.
	TCP map[uint16]net.Listener
	// DNSUDP is a *net.UDPConn and DNSTCP a listener, both on port 53.
	DNSUDP net.PacketConn
	DNSTCP net.Listener
}

// ErrClosed is returned by methods of a door that is closed.
var ErrClosed = errors.New("the session has ended")

// ErrHandled is returned when a name is given a second handler.
var ErrHandled = errors.New("the name has a handler already")

// ErrNotAllowed is returned for a handler that no rule lets anybody reach.
var ErrNotAllowed = errors.New("no rule allows the name")

// A Door is the way out of one session. Its methods may be called concurrently.
type Door struct {
	conf           Config
	snap           atomic.Pointer[snapshot] // replaced under mu only
	names          *names
	rec            *recorder
	ctx            context.Context
	cancel         context.CancelFunc
	slots          chan struct{} // one for each open connection
	conns, queries *bucket
	sent, received atomic.Int64  // bytes that are left
	asking         chan struct{} // one for each question that waits for an answer
	web            *web
	proxy          *proxy
	room           *room // nil until [Door.SetRoom]

	inspector *inspector

	tasks    sync.WaitGroup // goroutines of listeners and connections
	mu       sync.Mutex
	closed   bool
	open     map[io.Closer]*flow // everything to close; nil is what is not decided
	handlers map[string]http.Handler
}

// New makes a door. Nothing passes before [Door.Serve].
func New(c Config) (*Door, error) {
	if err := c.Actor.Validate(); err != nil {
		return nil, err
	}
	if c.CA == nil {
		return nil, errors.New("egress: no CA")
	}
	if c.MaxConns <= 0 {
		c.MaxConns = 256
	}
	if c.AskTimeout <= 0 {
		c.AskTimeout = defaultAskTimeout
	}
	c.Log = audit.OrRefuse(c.Log)
	c.Limits = c.Limits.filled()
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Resolver == nil {
		c.Resolver = net.DefaultResolver
	}
	if c.Dial == nil {
		c.Dial = func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", to.String())
		}
	}
	d := &Door{
		conf:     c,
		names:    newNames(),
		rec:      newRecorder(c),
		slots:    make(chan struct{}, c.MaxConns),
		asking:   make(chan struct{}, maxAsking),
		conns:    newBucket(c.Limits.ConnectionsPerSecond),
		queries:  newBucket(c.Limits.QueriesPerSecond),
		open:     make(map[io.Closer]*flow),
		handlers: make(map[string]http.Handler),
	}
	d.sent.Store(c.Limits.Sent)
	d.received.Store(c.Limits.Received)
	rules, err := d.Compile(c.Rules, c.PolicyHash)
	if err != nil {
		return nil, err
	}
	d.snap.Store(rules.snap)
	d.ctx, d.cancel = context.WithCancel(audit.WithActor(context.Background(), c.Actor))
	d.inspector = newInspector(d)
	d.web = newWeb(d)
	d.proxy = newProxy(d)
	return d, nil
}

// Serve starts serving the sockets and returns at once. It owns them from here
// on, also when it fails.
func (d *Door) Serve(l Listeners) error {
	var all []io.Closer
	for _, t := range l.TCP {
		all = append(all, t)
	}
	if l.DNSTCP != nil {
		all = append(all, l.DNSTCP)
	}
	if l.DNSUDP != nil {
		all = append(all, l.DNSUDP)
	}
	var dns *dnsSocket
	var err error
	if l.DNSUDP != nil {
		dns, err = newDNSSocket(l.DNSUDP)
	}
	d.mu.Lock()
	if err == nil && d.closed {
		err = ErrClosed
	}
	if err != nil {
		d.mu.Unlock()
		for _, c := range all {
			c.Close()
		}
		return err
	}
	for _, c := range all {
		d.open[c] = nil
	}
	start := func(f func()) {
		d.tasks.Add(1)
		go func() { defer d.tasks.Done(); f() }()
	}
	for port, t := range l.TCP {
		start(func() { d.acceptAll(t, func(c net.Conn) { d.connection(c, port) }) })
	}
	if l.DNSTCP != nil {
		start(func() { d.acceptAll(l.DNSTCP, d.dnsStream) })
	}
	if dns != nil {
		start(func() { d.dnsPackets(dns) })
	}
	d.mu.Unlock()
	return nil
}

// Listen serves further ports. The door owns the listeners, also when it fails.
func (d *Door) Listen(on map[uint16]net.Listener) error {
	if len(on) == 0 {
		return nil
	}
	return d.Serve(Listeners{TCP: on})
}

// acceptAll gives each connection to f, in its own goroutine, until the listener
// is closed.
func (d *Door) acceptAll(l net.Listener, f func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			// Out of descriptors, most likely: others may be closed in a moment.
			if !d.again(err) {
				return
			}
			continue
		}
		if !d.hold(c) {
			reset(c)
			continue
		}
		go func() {
			defer d.release(c)
			defer d.survive()
			f(c)
		}()
	}
}

// again waits a moment after an error of a socket, and is false when the socket
// is closed for good.
func (d *Door) again(err error) bool {
	if errors.Is(err, net.ErrClosed) || d.ctx.Err() != nil {
		return false
	}
	d.conf.Logger.Error("sandbox: network door", "error", err)
	select {
	case <-time.After(20 * time.Millisecond):
		return true
	case <-d.ctx.Done():
		return false
	}
}

// survive keeps a panic over one connection from taking the host down. What the
// connection was about has not happened, or is an intent without an outcome.
func (d *Door) survive() {
	if v := recover(); v != nil {
		d.conf.Logger.Error("sandbox: panic", "value", v, "stack", string(debug.Stack()))
	}
}

// hold notes something that Close must close, and a goroutine that it must wait
// for. It is false when the door is closed.
func (d *Door) hold(c io.Closer) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	d.open[c] = nil
	d.tasks.Add(1)
	return true
}

// release undoes hold and closes c.
func (d *Door) release(c io.Closer) {
	c.Close()
	d.mu.Lock()
	delete(d.open, c)
	d.mu.Unlock()
	d.tasks.Done()
}

// Handle serves name with h, over TLS on port 443 and plain HTTP on port 80, as
// far as rules allow these ports. Connections that had been dialled to a real
// host of that name are cut: from here on the name leads to h only.
func (d *Door) Handle(name string, h http.Handler) error {
	host, err := Canonical(name)
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	if h == nil {
		return fmt.Errorf("%s: the handler is nil", host)
	}
	if rules := d.now().rules; rules.find(host, 443) == nil && rules.find(host, 80) == nil {
		return fmt.Errorf("%w: %s", ErrNotAllowed, host)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return ErrClosed
	}
	if d.handlers[host] != nil {
		return fmt.Errorf("%w: %s", ErrHandled, host)
	}
	d.handlers[host] = h
	for c, f := range d.open {
		if f != nil && f.host == host && f.handler == nil {
			f.cutOff(outHandler)
			reset(c)
		}
	}
	return nil
}

// Close ends every listener and connection, waits until their ends are on
// record, and records what had only been counted. Handlers see their request's
// context end; Close waits a few seconds for those that do not return. The
// second call does nothing.
func (d *Door) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		d.tasks.Wait()
		return nil
	}
	d.closed = true
	d.cancel()
	for c := range d.open {
		reset(c)
	}
	d.mu.Unlock()
	d.tasks.Wait()
	d.proxy.close()
	err := d.web.close()
	d.rec.flush(context.Background(), d.now())
	return err
}
