package egress

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"time"
)

const (
	// dnsIdle is how long a DNS connection may wait for its next query.
	dnsIdle = 10 * time.Second
	// dnsEach bounds the records for one name that does not exist: programs ask
	// for two types, and again.
	dnsEach = 1
)

// resolve answers a query and records a refusal.
func (d *Door) resolve(query []byte) []byte {
	full, snap := false, d.now()
	if !d.queries.take(time.Now()) {
		d.rec.deny(d.ctx, target{host: "*", proto: "dns"}, snap.refusal(CauseRate), dnsEach)
		return nil
	}
	reply, refused := answer(query, func(name string) (netip.Addr, bool) {
		limit := maxNames
		if !snap.rules.listed(name) {
			if !d.askable(name) {
				return netip.Addr{}, false
			}
			limit = maxAskedNames
		}
		a, ok := d.names.address(name, limit)
		full = !ok
		return a, ok
	})
	if refused != nil {
		cause := CauseName
		if full {
			cause = CauseNames
		}
		d.rec.deny(d.ctx, target{host: refused.name, proto: "dns"}, snap.refusal(cause), dnsEach,
			"type", refused.kind.String())
	}
	return reply
}

// dnsPackets answers queries over UDP, one after the other, until the socket is
// closed. A program that floods it slows down only its own session.
func (d *Door) dnsPackets(s *dnsSocket) {
	buf := make([]byte, maxQuery+1)
	for {
		n, from, err := s.read(buf)
		if err != nil {
			if !d.again(err) {
				return
			}
			continue
		}
		if reply := d.resolve(buf[:n]); reply != nil {
			s.write(reply, from) // a lost reply is asked for again
		}
	}
}

// dnsStream answers the queries of one TCP connection (RFC 7766).
func (d *Door) dnsStream(c net.Conn) {
	if !d.slot() {
		return
	}
	defer d.free()
	var size [2]byte
	buf := make([]byte, maxQuery)
	for {
		c.SetDeadline(time.Now().Add(dnsIdle))
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(size[:]))
		if n > maxQuery {
			return
		}
		if _, err := io.ReadFull(c, buf[:n]); err != nil {
			return
		}
		reply := d.resolve(buf[:n])
		if reply == nil {
			return
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
			return
		}
	}
}
