package credential

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/twinward-dev/twinward/audit"
)

// What goes on from an agent's request to the origin.

// smallBody is how long a body may be to be kept, so that it can be sent again.
const smallBody = 64 << 10

// Headers that are not passed on. The first are about one connection (RFC 9110,
// 7.6.1); then, in requests, what names somebody, what servers may take for
// another method, path or host than authorize has seen, and what cuts an answer
// so that a secret in it could not be found.
var (
	hopHeaders = []string{
		"Connection", "Proxy-Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	}
	requestHeaders = append([]string{
		"Authorization", "Proxy-Authorization", "Cookie", "Cookie2",
		"X-Http-Method-Override", "X-Http-Method", "X-Method-Override",
		"X-Original-Url", "X-Original-Uri", "X-Rewrite-Url", "X-Override-Url",
		"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip", "X-Forwarded-Prefix",
		"Range", "If-Range", "Expect", "Accept-Encoding", "Content-Length",
	}, hopHeaders...)
	answerHeaders = append([]string{
		"Set-Cookie", "Set-Cookie2", "Www-Authenticate", "Proxy-Authenticate", "Authentication-Info", "Proxy-Authentication-Info",
		"Alt-Svc", "Strict-Transport-Security", "Refresh", "Accept-Ranges",
	}, hopHeaders...)
)

// A refusal is why a request does not go on, whatever authorize says of it: guard
// is for the record, the rest is the answer.
type refusal struct {
	guard         string
	status        int
	code, message string
}

// refusalOf returns why the request could be more or other than authorize has seen,
// or nil.
func refusalOf(r *http.Request) *refusal {
	const plain = "Plain requests only: no upgrade, no CONNECT, no TRACE."
	switch {
	case r.Method == http.MethodConnect || r.Method == http.MethodTrace:
		return &refusal{audit.GuardHTTPMethod, http.StatusMethodNotAllowed, "method", plain}
	case r.Header.Get("Upgrade") != "":
		return &refusal{audit.GuardUpgrade, http.StatusMethodNotAllowed, "method", plain}
	case !straight(r.URL.Path):
		return &refusal{audit.GuardAmbiguousPath, http.StatusBadRequest, "path",
			`The path must begin with a slash and have no backslash and no "." or ".." in it.`}
	}
	return nil
}

// straight reports whether a decoded path means the same to everybody.
func straight(path string) bool {
	if !strings.HasPrefix(path, "/") || strings.ContainsAny(path, "\\\x00") {
		return false
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == "." || part == ".." {
			return false
		}
	}
	return true
}

// request makes the request to the origin. The error is one of reading the
// agent's.
func (x *exchange) request(ctx context.Context) (*http.Request, error) {
	// HTTP/1.1 may answer before it has read the whole request, as git does.
	_ = http.NewResponseController(x.w).EnableFullDuplex()
	out := x.r.Clone(ctx)
	out.RequestURI, out.Close, out.Trailer, out.TransferEncoding = "", false, nil, nil
	out.Header = without(x.r.Header, requestHeaders)
	at, _ := url.Parse(x.origin) // it was an origin when the proxy was made
	out.URL = &url.URL{
		Scheme: at.Scheme, Host: at.Host,
		Path: x.r.URL.Path, RawPath: x.r.URL.RawPath, RawQuery: x.r.URL.RawQuery,
	}
	switch n := x.r.ContentLength; {
	case n == 0:
		out.Body = http.NoBody
	case n > 0 && n <= smallBody:
		b, err := io.ReadAll(x.r.Body)
		if err != nil {
			return nil, err
		}
		out.Body = io.NopCloser(bytes.NewReader(b))
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
	}
	return out, nil
}

// without returns a copy of h without some headers, however they are spelled (many
// servers take _ for -), and those that Connection names.
func without(h http.Header, names []string) http.Header {
	out := make(http.Header, len(h))
	for name, values := range h {
		if !slices.Contains(names, http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))) {
			out[name] = slices.Clone(values)
		}
	}
	for _, v := range h.Values("Connection") {
		for name := range strings.SplitSeq(v, ",") {
			out.Del(strings.TrimSpace(name))
		}
	}
	return out
}
