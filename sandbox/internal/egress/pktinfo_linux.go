package egress

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// A dnsSocket reads and writes packets such that a reply comes from the address
// that was asked. Programs send queries to any address, and their resolvers
// drop replies from another one.
type dnsSocket struct {
	conn *net.UDPConn
	oob  []byte
}

// A peer is who asked, and what to say to the kernel so that the reply leaves
// from the address that was asked.
type peer struct {
	addr netip.AddrPort
	oob  []byte
}

func newDNSSocket(c net.PacketConn) (*dnsSocket, error) {
	u, ok := c.(*net.UDPConn)
	if !ok {
		return nil, fmt.Errorf("egress: DNS socket is a %T, not a *net.UDPConn", c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("egress: DNS socket: %w", err)
	}
	var opt error
	err = raw.Control(func(fd uintptr) {
		family, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN)
		switch {
		case err != nil:
			opt = err
		case family == unix.AF_INET6: // serves IPv4 too, as mapped addresses
			opt = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
			if opt == nil {
				// A reply leaves from an address that is on no interface.
				opt = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
			}
		default:
			opt = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		}
	})
	if err == nil {
		err = opt
	}
	if err != nil {
		return nil, fmt.Errorf("egress: DNS socket: packet info: %w", err)
	}
	return &dnsSocket{conn: u, oob: make([]byte, 128)}, nil
}

func (s *dnsSocket) read(b []byte) (int, peer, error) {
	n, oobn, _, from, err := s.conn.ReadMsgUDPAddrPort(b, s.oob)
	if err != nil {
		return 0, peer{}, err
	}
	return n, peer{addr: from, oob: askedAddress(s.oob[:oobn])}, nil
}

func (s *dnsSocket) write(b []byte, to peer) error {
	_, _, err := s.conn.WriteMsgUDPAddrPort(b, to.oob, to.addr)
	return err
}

// askedAddress turns the control message that says where a packet was sent into
// the one that sends a reply from there: the same address, on any interface.
func askedAddress(oob []byte) []byte {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range msgs {
		switch {
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: [16]byte(m.Data[:16])})
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			// ifindex, spec_dst, addr: spec_dst is what a reply leaves from.
			return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: [4]byte(m.Data[8:12])})
		}
	}
	return nil
}

// hungUp reports whether the program of an attempt is known to have closed its
// side.
func hungUp(a *attempt) bool {
	c, ok := a.program().(interface {
		SyscallConn() (syscall.RawConn, error)
	})
	if !ok {
		return false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		gone = err == nil && info.State != unix.BPF_TCP_ESTABLISHED
	})
	return gone || err != nil
}
