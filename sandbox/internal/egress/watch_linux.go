package egress

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// What has no listener is refused by the kernel, with nobody looking: a TCP
// connection by a reset, a UDP packet by an ICMP message. A packet socket in the
// session's network shows these answers, and nothing else. It only looks: what
// is refused does not depend on it.

const (
	watchBytes = 128   // of a packet
	watchRate  = 2_000 // packets in a second that are looked at; the rest is lost
)

// refusals lets through, of the packets that arrive, resets that answer a first
// packet and ICMP messages that a port cannot be reached. The packet begins with
// its IP header.
var refusals = []bpf.Instruction{
	bpf.LoadExtension{Num: bpf.ExtType},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 25}, // drop: everything on lo is seen twice
	bpf.LoadAbsolute{Off: 0, Size: 1},
	bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xf0},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x60, SkipTrue: 11}, // IPv6
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0x40, SkipTrue: 21},
	bpf.LoadMemShift{Off: 0}, // X: length of the IPv4 header
	bpf.LoadAbsolute{Off: 9, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_ICMP, SkipTrue: 5},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_TCP, SkipTrue: 17},
	bpf.LoadIndirect{Off: 13, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: 0x04, SkipTrue: 15}, // RST
	bpf.LoadIndirect{Off: 4, Size: 4},                             // sequence number: nothing had been accepted
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 12, SkipFalse: 13},
	bpf.LoadIndirect{Off: 0, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x0303, SkipTrue: 10, SkipFalse: 11}, // port unreachable
	bpf.LoadAbsolute{Off: 6, Size: 1},                                         // IPv6: next header
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_ICMPV6, SkipTrue: 5},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_TCP, SkipTrue: 8},
	bpf.LoadAbsolute{Off: 40 + 13, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: 0x04, SkipTrue: 6},
	bpf.LoadAbsolute{Off: 40 + 4, Size: 4},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 3, SkipFalse: 4},
	bpf.LoadAbsolute{Off: 40, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x0104, SkipTrue: 1, SkipFalse: 2}, // port unreachable
	bpf.RetConstant{Val: 0},
	bpf.RetConstant{Val: watchBytes},
	bpf.RetConstant{Val: 0},
}

// Watch records what the kernel of the session's network refuses, until the door
// is closed. packets is a packet socket there (AF_PACKET, SOCK_DGRAM, not
// blocking), which the door owns from here on, also when it fails.
func (d *Door) Watch(packets *os.File) error {
	if err := filter(packets); err != nil {
		packets.Close()
		return fmt.Errorf("egress: watch refusals: %w", err)
	}
	if !d.hold(packets) {
		packets.Close()
		return ErrClosed
	}
	go func() {
		defer d.release(packets)
		defer d.survive()
		buf := make([]byte, watchBytes)
		pace := newBucket(watchRate)
		for {
			n, err := packets.Read(buf)
			if err != nil {
				return
			}
			if t, ok := refusedPacket(buf[:n]); ok {
				d.probe(t)
			}
			for !pace.take(time.Now()) && d.ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
		}
	}()
	return nil
}

func filter(packets *os.File) error {
	raw, err := bpf.Assemble(refusals)
	if err != nil {
		return err
	}
	prog := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		prog[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	c, err := packets.SyscallConn()
	if err != nil {
		return err
	}
	var opt error
	err = c.Control(func(fd uintptr) {
		opt = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]})
		// What came before the filter is not what it lets through.
		for b := make([]byte, 1); opt == nil; {
			if _, _, err := unix.Recvfrom(int(fd), b, unix.MSG_DONTWAIT); err != nil {
				break
			}
		}
	})
	if err == nil {
		err = opt
	}
	return err
}

// refusedPacket reads from the kernel's answer what was refused.
func refusedPacket(p []byte) (t target, ok bool) {
	ip, proto, rest, ok := ipHeader(p)
	if !ok {
		return t, false
	}
	switch proto {
	case unix.IPPROTO_TCP: // from whom it should have gone to
		if len(rest) < 4 {
			return t, false
		}
		return target{host: ip.src.String(), port: binary.BigEndian.Uint16(rest), proto: "tcp"}, true
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6: // carries the packet that was refused
		if len(rest) < 8 {
			return t, false
		}
		ip, proto, rest, ok = ipHeader(rest[8:])
		if !ok || proto != unix.IPPROTO_UDP || len(rest) < 4 {
			return t, false
		}
		return target{host: ip.dst.String(), port: binary.BigEndian.Uint16(rest[2:]), proto: "udp"}, true
	}
	return t, false
}

type ipAddrs struct{ src, dst netip.Addr }

func ipHeader(p []byte) (ip ipAddrs, proto int, rest []byte, ok bool) {
	switch {
	case len(p) >= 20 && p[0]>>4 == 4:
		n := int(p[0]&15) * 4
		if n < 20 || len(p) < n {
			return ip, 0, nil, false
		}
		return ipAddrs{netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))}, int(p[9]), p[n:], true
	case len(p) >= 40 && p[0]>>4 == 6:
		return ipAddrs{netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))}, int(p[6]), p[40:], true
	}
	return ip, 0, nil, false
}

// probe records what the kernel refused. What stays inside, at loopback
// addresses, is no attempt to leave.
func (d *Door) probe(t target) {
	a, err := netip.ParseAddr(t.host)
	if err != nil || a.Unmap().IsLoopback() {
		return
	}
	cause := CauseAddress
	if name, ok := d.names.name(a); ok {
		t.host, cause = name, CausePort
	}
	t.kernel = true
	d.rec.deny(d.ctx, t, d.now().refusal(cause), denialsEach)
}
