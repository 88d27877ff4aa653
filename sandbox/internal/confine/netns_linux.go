//go:build linux && (amd64 || arm64)

package confine

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// The network of the room has one interface, lo, and two routes that say that
// every address of IPv4 and IPv6 is local. So a connection to any address at
// all ends at a listener of this namespace; the listeners' descriptors go to
// the host process, which decides by name what happens next. Ports without a
// listener refuse at once.

// DNSPort is where the room's resolver listens.
const DNSPort = 53

// openNetwork brings lo up, adds the routes and returns the listeners: one for
// each port, then DNS over UDP and over TCP.
func openNetwork(ports []uint16) ([]int, error) {
	nl, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	defer unix.Close(nl)
	if err := netlink(nl, unix.RTM_NEWLINK, 0, linkUp()); err != nil {
		return nil, fmt.Errorf("bring lo up: %w", err)
	}
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		if err := netlink(nl, unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, localRoute(family)); err != nil {
			return nil, fmt.Errorf("route everything to lo (family %d): %w", family, err)
		}
	}
	var fds []int
	for _, p := range append(ports[:len(ports):len(ports)], DNSPort) {
		fd, err := wildcard(unix.SOCK_STREAM, p)
		if err != nil {
			closeAll(fds)
			return nil, fmt.Errorf("listen on port %d: %w", p, err)
		}
		fds = append(fds, fd)
	}
	udp, err := wildcard(unix.SOCK_DGRAM, DNSPort)
	if err != nil {
		closeAll(fds)
		return nil, fmt.Errorf("listen for DNS: %w", err)
	}
	return append(fds, udp), nil
}

// wildcard returns a socket that is bound to a port of every address of both
// families.
func wildcard(kind int, port uint16) (int, error) {
	fd, err := unix.Socket(unix.AF_INET6, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	if err == nil && kind == unix.SOCK_STREAM {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet6{Port: int(port)})
	}
	if err == nil && kind == unix.SOCK_STREAM {
		err = unix.Listen(fd, unix.SOMAXCONN)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

const loIndex = 1 // the first and only interface of a new network namespace

// linkUp is an ifinfomsg that sets IFF_UP on lo (RFC 3549 §3.1, rtnetlink(7)).
func linkUp() []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], loIndex)
	binary.NativeEndian.PutUint32(b[8:], unix.IFF_UP)
	binary.NativeEndian.PutUint32(b[12:], unix.IFF_UP)
	return b
}

// localRoute is an rtmsg for "local 0.0.0.0/0 dev lo" or "local ::/0 dev lo".
func localRoute(family byte) []byte {
	b := make([]byte, unix.SizeofRtMsg+8)
	b[0] = family
	b[4] = unix.RT_TABLE_LOCAL
	b[5] = unix.RTPROT_BOOT
	b[6] = unix.RT_SCOPE_HOST
	b[7] = unix.RTN_LOCAL
	attr := b[unix.SizeofRtMsg:]
	binary.NativeEndian.PutUint16(attr, 8)
	binary.NativeEndian.PutUint16(attr[2:], unix.RTA_OIF)
	binary.NativeEndian.PutUint32(attr[4:], loIndex)
	return b
}

// netlinkRequest returns a message that asks for an acknowledgement.
func netlinkRequest(kind, flags uint16, body []byte) []byte {
	b := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(body))
	binary.NativeEndian.PutUint32(b, uint32(cap(b)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags)
	binary.NativeEndian.PutUint32(b[8:], 1)
	return append(b, body...)
}

// netlinkAnswer returns the error in an acknowledgement.
func netlinkAnswer(b []byte) error {
	if len(b) < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(b[4:]) != unix.NLMSG_ERROR {
		return errors.New("netlink gave no acknowledgement")
	}
	if code := int32(binary.NativeEndian.Uint32(b[unix.SizeofNlMsghdr:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}

// netlink sends one request and waits for its acknowledgement.
func netlink(sock int, kind, flags uint16, body []byte) error {
	if err := unix.Sendto(sock, netlinkRequest(kind, flags, body), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(sock, answer, 0)
	if err != nil {
		return err
	}
	return netlinkAnswer(answer[:n])
}
