package credential

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Origin returns the canonical origin, scheme://host[:port], of the URL of a
// server: lower case, without a default port, path, query or fragment. It is
// what [LeaseRequest.Origin] takes.
//
// Only https is accepted, or http to a literal loopback address: a secret in
// clear text may not leave the machine, and the name localhost means whatever
// a resolver says. User information in the URL, host names that are not ASCII
// (use their xn-- form) and names that end in a dot are refused. All errors
// match [ErrOrigin].
func Origin(rawURL string) (string, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		// The parser's error quotes the URL, which may hold a secret.
		return "", fmt.Errorf("%w: not a URL", ErrOrigin)
	}
	return originOf(u)
}

// processScheme is that of the origins of child processes. No request can go
// there.
const processScheme = "stdio"

// ProcessOrigin is the origin of a server that is a child process and speaks
// on its standard streams; server is its name, [a-z0-9-]{1,32}.
func ProcessOrigin(server string) string { return processScheme + "://" + server }

// bareOrigin is Origin for what must be an origin and nothing more.
func bareOrigin(raw string) (string, error) {
	if raw == "" {
		return "", fmt.Errorf("%w: empty, want scheme://host[:port]", ErrOrigin)
	}
	if server, ok := strings.CutPrefix(raw, processScheme+"://"); ok {
		if server == "" || len(server) > 32 || strings.Trim(server, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return "", fmt.Errorf("%w: the server's name after stdio:// is not [a-z0-9-]{1,32}", ErrOrigin)
		}
		return raw, nil
	}
	u, err := url.Parse(raw)
	if err != nil {
		return "", fmt.Errorf("%w: not a URL", ErrOrigin)
	}
	if u.Path != "" || u.RawQuery != "" || u.ForceQuery || strings.Contains(raw, "#") {
		return "", fmt.Errorf("%w: an origin has no path, query or fragment; use Origin to cut them off", ErrOrigin)
	}
	return originOf(u)
}

func originOf(u *url.URL) (string, error) {
	if u.User != nil {
		return "", fmt.Errorf("%w: user information in the URL", ErrOrigin)
	}
	if u.Opaque != "" || u.Host == "" {
		return "", fmt.Errorf("%w: the URL names no host", ErrOrigin)
	}
	host, loopback, err := canonicalHost(u.Hostname())
	if err != nil {
		return "", err
	}
	scheme, standard := strings.ToLower(u.Scheme), "443"
	switch {
	case scheme == "https":
	case scheme == "http" && loopback:
		standard = "80"
	case scheme == "http":
		return "", fmt.Errorf("%w: http://%s is not a loopback address; use https", ErrOrigin, host)
	default:
		return "", fmt.Errorf("%w: the scheme is neither https nor http", ErrOrigin)
	}
	port := u.Port()
	if port == "" {
		if strings.HasSuffix(u.Host, ":") {
			return "", fmt.Errorf("%w: a colon without a port", ErrOrigin)
		}
		return scheme + "://" + host, nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", fmt.Errorf("%w: the port is not 1 to 65535", ErrOrigin)
	}
	port = strconv.FormatUint(n, 10)
	if port == standard {
		return scheme + "://" + host, nil
	}
	return scheme + "://" + host + ":" + port, nil
}

// canonicalHost returns the host as it stands in a URL.
func canonicalHost(host string) (canonical string, loopback bool, err error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.Zone() != "" {
			return "", false, fmt.Errorf("%w: an address with a zone", ErrOrigin)
		}
		ip = ip.Unmap()
		if ip.Is6() {
			return "[" + ip.String() + "]", ip.IsLoopback(), nil
		}
		return ip.String(), ip.IsLoopback(), nil
	}
	host = strings.ToLower(host)
	if host == "" || len(host) > 253 || strings.HasSuffix(host, ".") {
		return "", false, fmt.Errorf("%w: the host name is empty, too long or ends in a dot", ErrOrigin)
	}
	for _, c := range []byte(host) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return "", false, fmt.Errorf("%w: the host name has characters other than a-z, 0-9, dot, dash and underscore", ErrOrigin)
		}
	}
	return host, false, nil
}
