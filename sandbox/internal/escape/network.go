//go:build linux && (amd64 || arm64)

package escape

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const dialTime = 3 * time.Second

func dial(network, addr string) error {
	c, err := net.DialTimeout(network, addr, dialTime)
	if err != nil {
		return err
	}
	return c.Close()
}

// greeting succeeds when the host's own server answers.
func greeting(network, addr string) error {
	if addr == "" {
		return errors.New("the host has no such server")
	}
	c, err := net.DialTimeout(network, addr, dialTime)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(dialTime))
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	return greeted(c.Read)
}

func greeted(read func([]byte) (int, error)) error {
	var b [16]byte
	n, err := read(b[:])
	if err != nil {
		return err
	}
	return when(string(b[:n]) == "host", "somebody else answered")
}

// stream makes a socket of a protocol, connected to addr by how, and waits for
// the host's greeting.
func stream(addr string, proto int, how func(fd int, to unix.Sockaddr) error) error {
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, proto)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	tv := unix.NsecToTimeval(int64(dialTime))
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv)
	if err := how(fd, &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}); err != nil {
		return err
	}
	return greeted(func(b []byte) (int, error) { return unix.Read(fd, b) })
}

func networkProbes() []Probe {
	var probes []Probe
	add := func(name, how string, stops []string, try func(Target) error) {
		probes = append(probes, Probe{Name: name, Group: Network, How: how, Stops: stops, try: try})
	}
	own := []string{netNS}
	add("connect to a server on the host's loopback", "TCP over IPv4", own, func(t Target) error { return greeting("tcp", t.TCP) })
	add("connect to a server on the host's loopback by IPv6", "TCP over IPv6", own, func(t Target) error { return greeting("tcp", t.TCP6) })
	add("connect through a mapped address", "TCP to ::ffff:127.0.0.1", own, func(t Target) error {
		return stream(t.TCP, 0, func(fd int, to unix.Sockaddr) error {
			six, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(six)
			mapped := &unix.SockaddrInet6{Port: to.(*unix.SockaddrInet4).Port}
			copy(mapped.Addr[10:], []byte{0xff, 0xff, 127, 0, 0, 1})
			if err := unix.Connect(six, mapped); err != nil {
				return err
			}
			return unix.Dup3(six, fd, 0)
		})
	})
	add("connect to the unspecified address", "TCP to 0.0.0.0", own, func(t Target) error {
		return greeting("tcp", strings.Replace(t.TCP, "127.0.0.1", "0.0.0.0", 1))
	})
	add("connect while sending", "MSG_FASTOPEN", []string{netNS, seccomp}, func(t Target) error {
		return stream(t.TCP, 0, func(fd int, to unix.Sockaddr) error {
			return unix.Sendto(fd, []byte("hello"), unix.MSG_FASTOPEN, to)
		})
	})
	add("connect with TCP_FASTOPEN_CONNECT", "setsockopt(2), then connect and write", own, func(t Target) error {
		return stream(t.TCP, 0, func(fd int, to unix.Sockaddr) error {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, 30, 1); err != nil {
				return err
			}
			if err := unix.Connect(fd, to); err != nil {
				return err
			}
			_, err := unix.Write(fd, []byte("hello"))
			return err
		})
	})
	add("connect with MPTCP", "protocol 262", []string{netNS, seccomp}, func(t Target) error {
		return stream(t.TCP, 262, unix.Connect)
	})
	add("connect with SCTP", "protocol 132", []string{netNS, seccomp}, func(t Target) error { return stream(t.TCP, 132, unix.Connect) })
	add("connect again after a disconnect", "connect(AF_UNSPEC), then connect", own, func(t Target) error {
		return stream(t.TCP, 0, func(fd int, to unix.Sockaddr) error {
			_ = sys(unix.SYS_CONNECT, uintptr(fd), uintptr(addr(make([]byte, 16))), 16)
			return unix.Connect(fd, to)
		})
	})
	add("bind to the host's device and connect", "SO_BINDTODEVICE", own, func(t Target) error {
		return stream(t.TCP, 0, func(fd int, to unix.Sockaddr) error {
			_ = unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "lo")
			return unix.Connect(fd, to)
		})
	})
	add("mark packets to pass the routes", "SO_MARK", []string{caps}, func(Target) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 1)
	})
	add("be a transparent proxy", "IP_TRANSPARENT", []string{caps}, func(Target) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1)
	})
	add("send a datagram to the host's loopback", "UDP, as QUIC and DNS would", own, func(t Target) error { return greeting("udp", t.UDP) })
	add("see a network interface of the host", "netlink: list links", own, func(t Target) error {
		ifs, err := net.Interfaces()
		if err != nil {
			return err
		}
		return when(len(ifs) > 1, "only lo")
	})
	add("see the connections of the host", "/proc/net/tcp", own, func(t Target) error {
		b, err := os.ReadFile("/proc/net/tcp")
		if err != nil {
			return err
		}
		a, err := netip.ParseAddrPort(t.TCP)
		if err != nil {
			return err
		}
		const hex = "0123456789ABCDEF"
		p := a.Port()
		port := ":" + string([]byte{hex[p>>12], hex[p>>8&15], hex[p>>4&15], hex[p&15]}) + " 00000000:0000 0A"
		return when(bytes.Contains(b, []byte(port)), "the host's listener is not there")
	})
	add("change a network interface", "SIOCSIFFLAGS", []string{caps}, func(Target) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		ifr, err := unix.NewIfreq("lo")
		if err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
			return err
		}
		// The same flags again: it changes nothing, and takes the right to.
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
	})
	add("bind a privileged port", "bind(2) to 81", []string{caps}, func(Target) error {
		ln, err := net.Listen("tcp", "127.0.0.1:81")
		if err == nil {
			ln.Close()
		}
		return err
	})
	add("see packets", "packet socket", []string{seccomp, caps}, func(Target) error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err
	})
	add("forge packets", "raw IP socket", []string{seccomp, caps}, func(Target) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
		if err == nil {
			unix.Close(fd)
		}
		return err
	})
	return probes
}
