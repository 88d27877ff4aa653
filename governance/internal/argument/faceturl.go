package argument

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
	"golang.org/x/text/unicode/norm"
)

// A urlParts is what of a URL says where a request goes.
type urlParts struct {
	scheme, host string
	port         int // 0: neither given nor known
}

var urlScheme = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*$`)

var schemePorts = map[string]int{
	"http": 80, "https": 443, "ws": 80, "wss": 443, "ftp": 21, "ssh": 22, "git": 9418,
	"postgres": 5432, "postgresql": 5432, "mysql": 3306, "redis": 6379, "mongodb": 27017, "amqp": 5672, "ldap": 389, "ldaps": 636, "smtp": 25,
}

func urlFacet(of func(urlParts) (types.Value, error)) func(string) (types.Value, error) {
	return func(s string) (types.Value, error) {
		u, err := parseURL(s)
		if err != nil {
			return nil, err
		}
		return of(u)
	}
}

func (u urlParts) number() (types.Value, error) {
	if u.port == 0 {
		return nil, fmt.Errorf("a URL without a port, and scheme %q has none", u.scheme)
	}
	return types.Long(u.port), nil
}

// parseURL reads a URL as every reader would, or not at all. net/url alone is
// not enough: browsers, curl and other languages disagree with it.
func parseURL(s string) (u urlParts, err error) {
	if len(s) > 8<<10 {
		return u, errors.New("a URL of more than 8 KiB")
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f || s[i] == '\\' {
			return u, errors.New("a URL with white space, a control character or a backslash")
		}
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || !urlScheme.MatchString(scheme) {
		return u, errors.New("not a URL of the form scheme://host")
	}
	u.scheme = strings.ToLower(scheme)
	authority := rest
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority = rest[:i]
	}
	if strings.ContainsAny(authority, "@%") {
		return u, errors.New("a URL with a user, password or escape before its host")
	}
	host, port := authority, ""
	hasPort := false
	if strings.HasPrefix(authority, "[") {
		end := strings.IndexByte(authority, ']')
		if end < 0 {
			return u, errors.New("a URL with half an IPv6 address")
		}
		host = authority[:end+1]
		if port, hasPort = strings.CutPrefix(authority[end+1:], ":"); !hasPort && authority[end+1:] != "" {
			return u, errors.New("a URL with something after its IPv6 address")
		}
	} else if host, port, hasPort = strings.Cut(authority, ":"); strings.Contains(port, ":") {
		return u, errors.New("a URL with two ports")
	}
	if u.host, err = CanonicalHost(host); err != nil {
		return u, err
	}
	if !hasPort {
		u.port = schemePorts[u.scheme]
		return u, nil
	}
	if u.port, err = strconv.Atoi(port); err != nil || u.port < 1 || u.port > math.MaxUint16 || strconv.Itoa(u.port) != port {
		return u, errors.New("a URL with an odd port")
	}
	return u, nil
}

var hostLabel = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?$`)

// hostName reports whether host is made of labels as in RFC 1035 §2.3.4, the
// underscore besides.
func hostName(host string) bool {
	for label := range strings.SplitSeq(host, ".") {
		if len(label) > 63 || !hostLabel.MatchString(label) {
			return false
		}
	}
	return len(host) <= 253
}

// CanonicalHost is the one form of a host: a name in lower case, or an address.
func CanonicalHost(s string) (string, error) {
	if inner, ok := strings.CutPrefix(s, "["); ok {
		a, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		if err != nil || !a.Is6() || a.Zone() != "" {
			return "", errors.New("an odd IPv6 address")
		}
		return a.Unmap().String(), nil
	}
	host := strings.ToLower(s)
	for i := range len(s) {
		if s[i] >= 0x80 {
			host = strings.ReplaceAll(strings.ToLower(norm.NFKC.String(s)), "\u3002", ".")
			break
		}
	}
	for i := range len(host) {
		if host[i] >= 0x80 {
			return "", errors.New("a host name that is not ASCII; send it as xn--")
		}
	}
	host = strings.TrimSuffix(host, ".")
	if !hostName(host) {
		return "", errors.New("an odd host name")
	}
	if !endsInNumber(host) {
		return host, nil
	}
	return numericHost(host)
}

// endsInNumber reports whether the last part of a host makes it an IPv4 address.
func endsInNumber(host string) bool {
	last := host[strings.LastIndexByte(host, '.')+1:]
	return isHex(last) || last != "" && strings.Trim(last, "0123456789") == ""
}

func isHex(s string) bool {
	digits, ok := strings.CutPrefix(s, "0x")
	return ok && strings.Trim(digits, "0123456789abcdef") == ""
}

// numericHost reads the forms of an IPv4 address that inet_aton takes: one to
// four parts, decimal or hexadecimal, the last of which fills the rest. A part
// with a leading zero is octal to some and decimal to others, so only one that
// both read alike is taken.
func numericHost(s string) (string, error) {
	odd := errors.New("a host that could be several IP addresses, or none")
	parts := strings.Split(s, ".")
	if len(parts) > 4 {
		return "", odd
	}
	var ip uint64
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 32)
		if isHex(p) {
			n, err = strconv.ParseUint("0"+p[2:], 16, 32)
		} else if len(p) > 1 && p[0] == '0' && n > 7 {
			return "", odd
		}
		limit := uint64(256)
		if i == len(parts)-1 {
			limit = 1 << (8 * (4 - i))
		}
		if err != nil || n >= limit {
			return "", odd
		}
		if i < len(parts)-1 {
			n <<= 8 * (3 - i)
		}
		ip |= n
	}
	return netip.AddrFrom4([4]byte{byte(ip >> 24), byte(ip >> 16), byte(ip >> 8), byte(ip)}).String(), nil
}

// IsAddress reports whether a host is an IP address, which is below no domain.
func IsAddress(host string) bool {
	return strings.Contains(host, ":") || endsInNumber(host)
}
