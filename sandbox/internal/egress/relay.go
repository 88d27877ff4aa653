package egress

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

const (
	resolveTimeout = 10 * time.Second
	dialTimeout    = 15 * time.Second
	// maxDials bounds the addresses of one name that are tried.
	maxDials = 4
)

// relay dials the real host of f and copies bytes both ways until either side
// is done. first are bytes of the program that were read already.
func (d *Door) relay(c net.Conn, first []byte, f *flow) (out audit.Outcome, sent int64) {
	up, private, code := d.dial(f)
	if code != "" {
		if code == CausePrivate {
			d.rec.deny(d.ctx, f.target, d.now().refusal(CausePrivate), denialsEach)
		}
		return d.failed(code), 0
	}
	if !d.holdReal(up, f, private) {
		reset(up)
		return d.failed("broken"), 0
	}
	defer d.release(up)
	down := make(chan error, 1)
	var received int64
	go func() {
		n, err := d.pipe(c, up, f, d.receiving())
		received = n
		down <- err
	}()
	sent, code, err := d.forth(up, c, first, f)
	err = errors.Join(err, <-down)
	switch {
	case code != "":
		out = d.failed(code)
	case err != nil:
		out = d.failed("broken")
	default:
		out.Status = audit.StatusOK
	}
	out.Bytes = received
	return out, sent
}

// forth copies what the program sends. A program that speaks TLS first, on a
// port where it need not, must speak it for the name of the connection too; a
// first byte of 22 counts as TLS.
func (d *Door) forth(up, c net.Conn, first []byte, f *flow) (sent int64, code string, err error) {
	if first == nil {
		first = make([]byte, 2048)
		n, err := c.Read(first)
		first = first[:n]
		if n > 0 && first[0] == 22 {
			rest := io.MultiReader(bytes.NewReader(bytes.Clone(first)), c)
			c.SetReadDeadline(time.Now().Add(helloTimeout))
			raw, h, err := readHello(rest)
			c.SetReadDeadline(time.Time{})
			cause := wrongName(h, f.host, err)
			if cause != "" {
				d.rec.deny(d.ctx, f.target, d.now().refusal(cause), denialsEach, "sni", short(h.name))
				reset(up)
				reset(c)
				return 0, cause, nil
			}
			if len(raw) > n {
				first = raw
			}
		} else if err != nil && err != io.EOF {
			reset(up)
			reset(c)
			return 0, "", err
		}
	}
	may := d.sending()
	if may.take(int64(len(first))) < int64(len(first)) {
		d.spent(f)
		return 0, CauseBytes, nil
	}
	n, err := up.Write(first)
	if err != nil {
		reset(up)
		reset(c)
		return int64(n), "", err
	}
	more, err := d.pipe(up, c, f, may)
	return int64(n) + more, "", err
}

// failed is the outcome of a connection that did not end well by itself. A
// refusal is one also when the session ends in the same moment.
func (d *Door) failed(code string) audit.Outcome {
	switch code {
	case "broken", "name-not-found", "unreachable":
		if d.ctx.Err() != nil {
			return audit.Outcome{Status: audit.StatusCancelled}
		}
	}
	return audit.Outcome{Status: audit.StatusFailed, ErrorCode: code}
}

// pipe copies from src to dst until the end, and passes the end on. After an
// error it resets both, which ends the other direction as well: what was cut
// must not look complete. Between two TCP
// connections the kernel moves the bytes.
func (d *Door) pipe(dst, src net.Conn, f *flow, may *allowance) (int64, error) {
	n, err := may.copy(dst, src)
	if err == errSpent {
		d.spent(f)
	}
	if err == nil {
		if w, ok := dst.(interface{ CloseWrite() error }); ok {
			w.CloseWrite() // when dst is broken, the other direction finds out
		} else {
			dst.Close() // it has one end only
		}
		return n, nil
	}
	reset(dst)
	reset(src)
	return n, err
}

// dial connects to the first address of f that may be dialled and answers. The
// address that was checked is the one that is dialled: no name is resolved
// twice. private says what kind of address it is; code is "" or says why there
// is no connection.
func (d *Door) dial(f *flow) (up net.Conn, private bool, code string) {
	ctx, cancel := context.WithTimeout(f.ctx, resolveTimeout)
	host := f.host
	if strings.Contains(host, ".") {
		host += "." // as it is: the host's search list is not the agent's business
	}
	addrs, err := d.conf.Resolver.LookupNetIP(ctx, "ip", host)
	cancel()
	if err != nil || len(addrs) == 0 {
		return nil, false, "name-not-found"
	}
	allowed, err := permitted(addrs, f.rule.Private)
	if err != nil {
		return nil, false, CausePrivate
	}
	for _, a := range allowed[:min(len(allowed), maxDials)] {
		ctx, cancel := context.WithTimeout(f.ctx, dialTimeout)
		up, err = d.conf.Dial(ctx, netip.AddrPortFrom(a.Addr, f.port))
		cancel()
		if err == nil {
			return up, a.private, ""
		}
	}
	return nil, false, "unreachable"
}

var errNoAddress = errors.New("no address that may be dialled")

// A destination is an address that may be dialled.
type destination struct {
	netip.Addr
	private bool
}

// permitted returns the addresses that may be dialled, in order. An address of
// this machine is as private as loopback, whatever range it is in.
func permitted(addrs []netip.Addr, privateToo bool) ([]destination, error) {
	own, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var out []destination
	for _, a := range addrs {
		a = a.Unmap()
		k := classify(a)
		if k == public && isOwn(own, a) {
			k = private
		}
		if k == public || k == private && privateToo {
			out = append(out, destination{a, k == private})
		}
	}
	if len(out) == 0 {
		return nil, errNoAddress
	}
	return out, nil
}

func isOwn(own []net.Addr, a netip.Addr) bool {
	for _, o := range own {
		if n, ok := o.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() == a {
				return true
			}
		}
	}
	return false
}
