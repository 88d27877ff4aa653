package egress

import "net/url"

// targetURL returns what net/http sends as the target of a request: the very
// text that was judged.
func targetURL(scheme, host string, p path, query string, mark bool) *url.URL {
	decoded, _ := url.PathUnescape(p.text)
	return &url.URL{Scheme: scheme, Host: host, Path: decoded, RawPath: p.text, RawQuery: query, ForceQuery: mark}
}

// scheme is what is spoken with the program.
func (f *flow) scheme() string {
	if f.rule.Protocol != ProtocolTCP {
		return f.rule.Protocol
	}
	return f.target.scheme()
}

// secure reports whether the program must begin with TLS.
func (f *flow) secure() bool { return f.scheme() == "https" }
