package sandbox

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/twinward-dev/twinward/sandbox/internal/egress"
)

// A governed is one entry of [Options.Governed].
type governed struct {
	text     string
	patterns []egress.Pattern // names that lead there
	port     uint16           // 0: every port
}

// echoes are public DNS zones in which a name holds the address that it
// resolves to: 10.0.0.7.nip.io, 10-0-0-7.sslip.io.
var echoes = []string{"nip.io", "sslip.io", "xip.io", "traefik.me", "backname.io", "ip6.name"}

// parseGoverned reads a host name, a pattern of names or an address, with or
// without a port, or the URL of an origin.
func parseGoverned(text string) (governed, error) {
	g := governed{text: text}
	bad := func(why string) (governed, error) {
		return governed{}, fmt.Errorf("Options.Governed: %q %s: write a host, host:port, or an origin such as https://api.example.com", text, why)
	}
	host := text
	if strings.Contains(text, "://") {
		u, err := url.Parse(text)
		if err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
			return bad("is not an origin")
		}
		switch u.Scheme {
		case "https", "wss":
			g.port = 443
		case "http", "ws":
			g.port = 80
		default:
			return bad("has a scheme without a known port")
		}
		host = u.Host
	}
	if addr, err := netip.ParseAddrPort(host); err == nil {
		host, g.port = addr.Addr().String(), addr.Port()
	} else if name, port, ok := strings.Cut(host, ":"); ok && !strings.Contains(port, ":") {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return bad("has no port after the colon")
		}
		host, g.port = name, uint16(n)
	}
	host = strings.TrimSuffix(strings.Trim(host, "[]"), ".")
	if addr, err := netip.ParseAddr(host); err == nil {
		g.patterns = echoed(addr.Unmap())
		return g, nil
	}
	p, err := egress.ParsePattern(host)
	if err != nil {
		return bad("is not the name of a host: " + err.Error())
	}
	g.patterns = []egress.Pattern{p}
	return g, nil
}

// echoed returns names that are known to lead to an address. Which other names
// do, is known when they are resolved only.
func echoed(addr netip.Addr) (all []egress.Pattern) {
	forms := []string{addr.String(), strings.NewReplacer(".", "-", ":", "-").Replace(addr.String())}
	if addr.Is4() {
		a := addr.As4()
		forms = append(forms, fmt.Sprintf("%02x%02x%02x%02x", a[0], a[1], a[2], a[3]))
	}
	for _, zone := range echoes {
		for _, f := range forms {
			for _, before := range []string{"", "**.", "*-"} {
				if p, err := egress.ParsePattern(before + f + "." + zone); err == nil {
					all = append(all, p)
				}
			}
		}
	}
	return all
}

// checkGoverned returns a [*PolicyError] for every rule by which a program can
// dial a host that is governed by the tool door, past that door. A rule that
// serves the name is none, and neither is one for a broader pattern where a
// narrower rule decides about the name.
func (p *Policy) checkGoverned(list []string) error {
	if p == nil || len(list) == 0 {
		return nil
	}
	var errs []error
	var all []claim
	for i, r := range p.Network.Allow {
		if c, err := newClaim(fmt.Sprintf("network.allow[%d].host", i), r); err == nil {
			all = append(all, c)
		}
	}
	deciding := slices.Clone(all)
	for _, r := range p.normal().rules() {
		if c, err := newClaim("", r); err == nil {
			deciding = append(deciding, c) // those of services and inference as well
		}
	}
	for _, text := range list {
		g, err := parseGoverned(text)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, c := range all {
			if port, open := c.opens(g, deciding); open {
				errs = append(errs, &PolicyError{
					Field:   c.field,
					Problem: fmt.Sprintf("%q on port %d leads to %q past the tool door that governs it", c.Host, port, g.text),
					Fix:     "write served: true and serve the name with Session.Handle, or narrow the rule, or set Options.AllowUngoverned",
				})
			}
		}
	}
	return errors.Join(errs...)
}

// opens reports whether a rule leads straight to g, and on which port.
func (c claim) opens(g governed, deciding []claim) (uint16, bool) {
	if c.served() {
		return 0, false
	}
	for _, port := range c.Ports {
		if g.port != 0 && g.port != port {
			continue
		}
		for _, name := range g.patterns {
			if c.pattern.Overlaps(name) && !slices.ContainsFunc(deciding, func(n claim) bool {
				return n.pattern.String() != c.pattern.String() && c.pattern.Covers(n.pattern) && n.pattern.Covers(name) && slices.Contains(n.Ports, port)
			}) {
				return port, true
			}
		}
	}
	return 0, false
}

// served reports whether the names of a rule are never dialled.
func (r Rule) served() bool {
	return r.Served || strings.HasSuffix(strings.ToLower(r.Host), ".local")
}
