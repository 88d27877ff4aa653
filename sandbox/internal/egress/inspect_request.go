package egress

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// A request is what is judged of a request, and then sent in the same words.
type request struct {
	target           // with method and path
	canon     path   // of the target
	query     string // as the program wrote it
	mark      bool   // there is a "?" and no query
	authority string // the Host header that is sent
	valid     bool   // the above could be read
	grpc      bool
	major     int // version of HTTP that the program speaks
}

// readRequest reads the target of a request, and refuses what not every server
// reads alike. net/http has read the message itself before: it refuses unclear
// lengths, lines and names, and what is sent on is written anew by it.
func readRequest(r *http.Request, f *flow) (q *request, cause, detail string) {
	q = &request{target: f.target}
	q.proto, q.method = f.scheme(), r.Method
	q.path = short(r.RequestURI)
	q.major = r.ProtoMajor
	q.grpc = r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
	if asked, ok := f.misdirected(r); !ok {
		return q, CauseHost, asked
	}
	q.authority = f.host
	if i := strings.LastIndexByte(r.Host, ':'); i >= 0 {
		q.authority += r.Host[i:] // it was compared with the port
	}
	if len(r.Method) > 32 || !httpguts.ValidHeaderFieldName(r.Method) {
		return q, CauseRequest, "the method is not one"
	}
	raw, query, mark := strings.Cut(r.RequestURI, "?")
	q.query, q.mark = query, mark && query == ""
	if !strings.HasPrefix(raw, "/") {
		return q, CauseRequest, "the target is not a path"
	}
	for i := range len(query) {
		if c := query[i]; c <= ' ' || c == 0x7f || c == '#' {
			return q, CauseRequest, "the query contains a character that must be encoded"
		}
	}
	var err error
	if q.canon, err = canonicalPath(raw); err != nil {
		return q, CauseSpelling, err.Error()
	}
	q.path, q.valid = q.canon.text, true
	return q, "", ""
}

// judge says whether rules allow the request, once by its line and once by what
// servers may take for another line.
func (q *request) judge(r *http.Request, h *HTTPRules, engine bool) (v verdict, detail string) {
	if v = h.judge(q.method, q.canon); v.cause != "" {
		return v, ""
	}
	methods, paths := engine, engine
	if h != nil {
		methods, paths = methods || h.methods, paths || h.paths
	}
	for name := range r.Header {
		// Gateways turn - into _, and back.
		switch lower(strings.ReplaceAll(name, "_", "-")) {
		case "x-http-method-override", "x-http-method", "x-method-override":
			if methods {
				return verdict{cause: CauseOverride}, name
			}
		case "x-original-url", "x-original-uri", "x-rewrite-url", "x-override-url":
			if paths {
				return verdict{cause: CauseOverride}, name
			}
		case "content-length", "transfer-encoding", "host":
			if strings.Contains(name, "_") {
				return verdict{cause: CauseRequest}, name
			}
		}
	}
	if methods && q.overridden() {
		return verdict{cause: CauseOverride}, "_method"
	}
	detail = upgrade(r, &v)
	return v, detail
}

// overridden reports whether a parameter of the query names another method, as
// some frameworks take it.
func (q *request) overridden() bool {
	if !strings.Contains(q.query, "%") && !strings.Contains(lower(q.query), "_method") {
		return false
	}
	for part := range strings.FieldsFuncSeq(q.query, func(r rune) bool { return r == '&' || r == ';' }) {
		key, _, _ := strings.Cut(part, "=")
		if k, err := url.QueryUnescape(key); err == nil {
			key = k
		}
		if k := lower(strings.TrimSpace(key)); k == "_method" || strings.HasPrefix(k, "_method[") {
			return true
		}
	}
	return false
}

// upgrade sees to it that no connection turns into one whose requests cannot be
// seen. WebSocket and the like are let through: they carry messages, and the
// request that begins them was judged. The offer of HTTP/2 that some clients
// make with their first request is passed over, as any server may do (RFC 9110,
// section 7.8).
func upgrade(r *http.Request, v *verdict) (detail string) {
	offers := r.Header.Values("Upgrade")
	if len(offers) == 0 {
		r.Header.Del("Http2-Settings")
		return ""
	}
	if len(offers) == 1 && strings.EqualFold(offers[0], "h2c") {
		r.Header.Del("Upgrade")
		r.Header.Del("Http2-Settings")
		return ""
	}
	name, _, _ := strings.Cut(lower(offers[0]), "/")
	hides := slices.Contains([]string{"h2c", "h2", "http", "tls", "connect-udp", "connect-ip"}, name)
	if len(offers) > 1 || hides || !isToken(offers[0]) || r.Header.Get("Http2-Settings") != "" {
		*v = verdict{cause: CauseUpgrade}
		return offers[0]
	}
	return ""
}

// isToken reports whether s is the name of one protocol, with or without a version.
func isToken(s string) bool {
	name, version, more := strings.Cut(s, "/")
	return httpguts.ValidHeaderFieldName(name) && (!more || httpguts.ValidHeaderFieldName(version))
}

// misdirected compares all that a request says about its host with the name of
// its connection; not ok is a request for another host, or one that only makes
// sense to a proxy.
func (f *flow) misdirected(r *http.Request) (asked string, ok bool) {
	if !f.names(r.Host) {
		return r.Host, false
	}
	if r.URL.Host != "" && !f.names(r.URL.Host) {
		return r.URL.Host, false
	}
	if r.Method == http.MethodConnect || r.URL.Opaque != "" || r.URL.User != nil {
		return r.Method + " " + r.RequestURI, false
	}
	return "", true
}
