//go:build !linux

package egress

import (
	"fmt"
	"net"
	"net/netip"
)

// A dnsSocket is a plain UDP socket where there is no sandbox: tests bind it to
// the one address that they ask.
type dnsSocket struct{ conn *net.UDPConn }

type peer struct{ addr netip.AddrPort }

func newDNSSocket(c net.PacketConn) (*dnsSocket, error) {
	u, ok := c.(*net.UDPConn)
	if !ok {
		return nil, fmt.Errorf("egress: DNS socket is a %T, not a *net.UDPConn", c)
	}
	return &dnsSocket{conn: u}, nil
}

func (s *dnsSocket) read(b []byte) (int, peer, error) {
	n, from, err := s.conn.ReadFromUDPAddrPort(b)
	return n, peer{from}, err
}

func (s *dnsSocket) write(b []byte, to peer) error {
	_, err := s.conn.WriteToUDPAddrPort(b, to.addr)
	return err
}

func hungUp(*attempt) bool { return false }
