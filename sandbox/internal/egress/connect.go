package egress

import (
	"io"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// helloTimeout is how long a program may take to say which name its TLS is for.
const helloTimeout = 10 * time.Second

// A grant is a decision and the words in which it goes on record.
type grant struct {
	audit.Decision
	asked            governance.Decision // of the engine, if there is one
	action, resource string
}

// decide asks the engine, if there is one, about what a rule has allowed.
func (d *Door) decide(s *snapshot, t target, r Rule) grant {
	g := grant{action: "connect", resource: t.resource()}
	byRule := audit.Policy{ID: "network.allow:" + r.Host.String()}
	if r.asked {
		byRule.ID = "network.answer:" + r.Host.String()
	}
	if d.conf.Decider == nil {
		g.Decision = audit.Decision{
			ID: audit.NewID(), Effect: audit.Allow, Policies: []audit.Policy{byRule}, PolicyHash: s.hash,
		}
		return g
	}
	attrs := map[string]any{"host": t.host, "port": int64(t.port), "scheme": t.scheme()}
	if t.method != "" {
		attrs["method"], attrs["path"] = t.method, t.path
	}
	if t.program != "" {
		attrs["program"] = t.program
	}
	got, err := d.conf.Decider.Decide(d.ctx, governance.Request{
		Actor: d.conf.Actor, Action: "connect", Name: t.host, Attrs: attrs,
	})
	g.asked, g.Decision = got, got.Decision
	if err != nil && g.Allowed() {
		g.Decision = audit.Refusal(audit.NewID(), audit.GuardPolicyError)
	}
	if got.Action != "" && got.Resource != "" {
		g.action, g.resource = got.Action, got.Resource
	}
	return g
}

// An attempt is a connection that a program makes and that is not decided.
type attempt struct {
	c     net.Conn // the program's side
	from  net.Conn // the connection of the program by which it made this one; nil: c
	t     target
	known bool // t.host is a name, not an address
	// pass tells the program that it may begin, and refused why not; both are nil
	// for a program that has begun, and is refused by a reset.
	pass    func() error
	refused func(cause string)

	// Who holds the program's side, once it was looked for.
	looked  bool
	room    *room
	holders []holder
	lookErr error
}

// program is the program's own connection.
func (a *attempt) program() net.Conn {
	if a.from != nil {
		return a.from
	}
	return a.c
}

// connection takes a connection that a program dialled.
func (d *Door) connection(c net.Conn, port uint16) {
	local := localAddr(c)
	if port == d.conf.ProxyPort && local.Unmap().IsLoopback() {
		d.proxy.serve(c)
		return
	}
	a := &attempt{c: c, t: target{port: port, proto: "tcp"}}
	if a.t.host, a.known = d.names.name(local); !a.known {
		a.t.host = local.Unmap().String()
	}
	if !d.slot() {
		d.deny(a, d.now().refusal(CauseLimit))
		return
	}
	defer d.free()
	d.attempt(a)
}

// deny refuses an attempt, on record.
func (d *Door) deny(a *attempt, decision audit.Decision, detail ...string) {
	d.rec.deny(d.ctx, a.t, decision, denialsEach, detail...)
	if a.refused != nil {
		a.refused(decision.Reason)
		a.c.Close()
		return
	}
	reset(a.c)
}

// attempt takes one connection on its way: name, rule, engine, TLS name, record,
// and then the handler or the real host. It returns when the connection is over.
func (d *Door) attempt(a *attempt) {
	c := a.c
	if !d.conns.take(time.Now()) {
		d.deny(a, d.now().refusal(CauseRate))
		return
	}
	if !a.known {
		d.deny(a, d.now().refusal(CauseAddress))
		return
	}
	var f *flow
	var g grant
	for f == nil {
		s := d.now()
		rule, cause, why := d.choose(s, a)
		if cause != "" && d.now() != s {
			continue // while a person thought
		}
		if cause != "" {
			var detail []string
			if why != "" {
				detail = []string{"why", why}
			}
			d.deny(a, s.refusal(cause), detail...)
			return
		}
		// Where requests are looked at, each is decided and recorded by itself.
		if rule.Protocol == ProtocolTCP {
			if g = d.decide(s, a.t, rule); !g.Allowed() {
				d.deny(a, g.Decision)
				return
			}
		}
		var ok bool
		if f, ok = d.admit(a, s, rule); !ok {
			g.asked.Settle(governance.Result{})
			if d.ctx.Err() != nil {
				reset(c)
				return
			}
		}
	}
	defer d.leave(c, f)
	defer g.asked.Settle(governance.Result{}) // unless it is settled below
	if f.handler == nil && f.rule.Served || f.handler != nil && a.t.port != 443 && a.t.port != 80 {
		d.deny(a, d.now().refusal(CauseNotServed))
		return
	}
	if a.pass != nil && a.pass() != nil {
		return // the program is gone
	}
	a.refused = nil
	var first []byte
	if f.secure() {
		c.SetReadDeadline(time.Now().Add(helloTimeout))
		raw, h, err := readHello(c)
		c.SetReadDeadline(time.Time{})
		if f.handler != nil || f.rule.Protocol != ProtocolTCP {
			h.ech = false // what crypto/tls sees is compared again, and it sees no other hello
		}
		if cause := wrongName(h, a.t.host, err); cause != "" {
			if d.cutCode(f) == "" { // the hello did not come because of that
				d.deny(a, d.now().refusal(cause), "sni", short(h.name))
			}
			return
		}
		first = raw
	}
	if f.rule.Programs != nil && !d.lookAgain(a) {
		d.deny(a, d.now().refusal(CauseProgram), "programs", describe(a.holders))
		return
	}
	if f.rule.Protocol != ProtocolTCP {
		d.web.serve(c, first, f)
		return
	}
	call, err := d.rec.begin(d.ctx, a.t, g)
	if err != nil {
		d.conf.Logger.Error("sandbox: a connection was refused because it could not be recorded", "host", a.t.host, "error", err)
		reset(c)
		return
	}
	var out audit.Outcome
	var sent int64
	if f.handler != nil {
		out, sent = d.web.serve(c, first, f)
	} else {
		out, sent = d.relay(c, first, f)
	}
	if code := d.cutCode(f); code != "" {
		out.Status, out.ErrorCode = audit.StatusFailed, code
	}
	d.rec.end(d.ctx, call, a.t, out, sent)
	g.asked.Settle(governance.ResultOf(out))
	if out.Status != audit.StatusOK {
		reset(c)
	}
}

// wrongName says why a ClientHello is not one for name, or "".
func wrongName(h hello, name string, err error) (cause string) {
	asked, bad := Canonical(h.name)
	switch {
	case err != nil:
		return CauseHello
	case h.ech:
		return CauseECH
	case bad != nil || asked != name:
		return CauseSNI
	}
	return ""
}

func (d *Door) slot() bool {
	select {
	case d.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

func (d *Door) free() { <-d.slots }

// localAddr is the address that the program dialled.
func localAddr(c net.Conn) netip.Addr {
	if a, ok := c.LocalAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr()
	}
	return netip.Addr{}
}

// reset closes c so that the other side sees a refusal and not an end.
func reset(c io.Closer) {
	if l, ok := c.(interface{ SetLinger(int) error }); ok {
		l.SetLinger(0)
	}
	c.Close()
}

// short bounds what an agent can write into a record, and makes it printable.
func short(s string) string {
	if len(s) > maxName {
		s = s[:maxName]
	}
	s = strconv.QuoteToASCII(s)
	return s[1 : len(s)-1]
}
