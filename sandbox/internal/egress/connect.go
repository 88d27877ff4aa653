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
	if d.conf.Decider == nil {
		g.Decision = audit.Decision{
			ID: audit.NewID(), Effect: audit.Allow, Policies: []audit.Policy{byRule}, PolicyHash: s.hash,
		}
		return g
	}
	got, err := d.conf.Decider.Decide(d.ctx, governance.Request{
		Actor: d.conf.Actor, Action: "connect", Name: t.host,
		Attrs: map[string]any{"host": t.host, "port": int64(t.port), "scheme": t.scheme()},
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

// connection takes one connection on its way: name, rule, engine, TLS name,
// record, and then the handler or the real host. It returns when the connection
// is over.
func (d *Door) connection(c net.Conn, port uint16) {
	t := target{port: port, proto: "tcp"}
	deny := func(decision audit.Decision, detail ...string) {
		d.rec.deny(d.ctx, t, decision, denialsEach, detail...)
		reset(c)
	}
	refuse := func(cause string, detail ...string) { deny(d.now().refusal(cause), detail...) }

	local := localAddr(c)
	name, known := d.names.name(local)
	if t.host = name; !known {
		t.host = local.Unmap().String()
	}
	if !d.slot() {
		refuse(CauseLimit)
		return
	}
	defer d.free()
	if !known {
		refuse(CauseAddress)
		return
	}
	var f *flow
	var g grant
	for f == nil {
		s := d.now()
		rules := s.rules.find(name, port)
		if rules == nil {
			deny(s.refusal(CausePort))
			return
		}
		if g = d.decide(s, t, rules[0]); !g.Allowed() {
			deny(g.Decision)
			return
		}
		var ok bool
		if f, ok = d.admit(c, s, t, rules[0]); !ok {
			g.asked.Settle(governance.Result{})
			if d.ctx.Err() != nil {
				reset(c)
				return
			}
		}
	}
	defer f.cancel()
	defer g.asked.Settle(governance.Result{}) // unless it is settled below
	if f.handler == nil && f.rule.Served || f.handler != nil && port != 443 && port != 80 {
		refuse(CauseNotServed)
		return
	}
	var first []byte
	if port == 443 {
		c.SetReadDeadline(time.Now().Add(helloTimeout))
		raw, h, err := readHello(c)
		c.SetReadDeadline(time.Time{})
		if f.handler != nil {
			h.ech = false // what crypto/tls sees is compared again, and it sees no other hello
		}
		if cause := wrongName(h, name, err); cause != "" {
			if d.cutCode(f) == "" { // the hello did not come because of that
				refuse(cause, "sni", short(h.name))
			}
			return
		}
		first = raw
	}
	call, err := d.rec.begin(d.ctx, t, g)
	if err != nil {
		d.conf.Logger.Error("sandbox: a connection was refused because it could not be recorded", "host", t.host, "error", err)
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
	d.rec.end(d.ctx, call, t, out, sent)
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
