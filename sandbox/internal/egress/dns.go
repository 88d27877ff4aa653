package egress

import (
	"net/netip"

	"golang.org/x/net/dns/dnsmessage"
)

// ttl of synthetic addresses in seconds. They never change within a session.
const ttl = 300

// maxQuery bounds a query. One question with EDNS is far below it.
const maxQuery = 1232

// An asked is what the one question of a query was about.
type asked struct {
	name string // canonical, or the raw spelling when it is no host name
	kind dnsmessage.Type
}

// answer makes the reply to one DNS query. It is nil when the query deserves
// none. lookup says which address an allowed name has; a name that is not a host
// name is not looked up. refused is set when the question was well formed and
// its name does not exist here.
//
// Nothing is ever forwarded, so nothing can leave through a question. A name
// exists or it does not, whatever type was asked for (RFC 8020): for an allowed
// name A is answered and every other type is empty.
func answer(query []byte, lookup func(name string) (netip.Addr, bool)) (reply []byte, refused *asked) {
	if len(query) > maxQuery {
		return nil, nil
	}
	var p dnsmessage.Parser
	head, err := p.Start(query)
	if err != nil || head.Response {
		return nil, nil // answering an answer makes loops
	}
	out := dnsmessage.Header{
		ID: head.ID, Response: true, OpCode: head.OpCode,
		RecursionDesired: head.RecursionDesired, RecursionAvailable: true,
	}
	if head.OpCode != 0 {
		out.RCode = dnsmessage.RCodeNotImplemented
		return build(out, nil, netip.Addr{}), nil
	}
	q, err := p.Question()
	if err != nil {
		out.RCode = dnsmessage.RCodeFormatError
		return build(out, nil, netip.Addr{}), nil
	}
	if _, err := p.Question(); err != dnsmessage.ErrSectionDone {
		out.RCode = dnsmessage.RCodeFormatError
		return build(out, nil, netip.Addr{}), nil
	}
	if q.Class != dnsmessage.ClassINET {
		out.RCode = dnsmessage.RCodeRefused
		return build(out, &q, netip.Addr{}), nil
	}
	a := asked{name: q.Name.String(), kind: q.Type}
	var addr netip.Addr
	ok := false
	if name, err := Canonical(a.name); err == nil {
		a.name = name
		addr, ok = lookup(name)
	}
	if !ok {
		out.RCode = dnsmessage.RCodeNameError
		return build(out, &q, netip.Addr{}), &a
	}
	if q.Type != dnsmessage.TypeA {
		addr = netip.Addr{}
	}
	return build(out, &q, addr), nil
}

// build packs a reply with at most one question and one address.
func build(h dnsmessage.Header, q *dnsmessage.Question, addr netip.Addr) []byte {
	b := dnsmessage.NewBuilder(make([]byte, 0, 512), h)
	b.EnableCompression()
	ok := b.StartQuestions() == nil
	if q != nil {
		ok = ok && b.Question(*q) == nil
	}
	if addr.Is4() {
		r := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: ttl}
		ok = ok && b.StartAnswers() == nil && b.AResource(r, dnsmessage.AResource{A: addr.As4()}) == nil
	}
	out, err := b.Finish()
	if !ok || err != nil {
		return nil
	}
	return out
}
