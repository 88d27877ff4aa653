package inference

import (
	"mime"
	"net/http"
	"strings"
)

// maxHeader bounds the value of a header that is passed on.
const maxHeader = 4 << 10

// requestHeaders are what a backend gets of the agent's headers. Everything
// else stays behind: cookies, the agent's own keys, organisation and session
// ids, and whatever else could carry data out.
var requestHeaders = map[Protocol][]string{
	OpenAI:    {"Accept"},
	Anthropic: {"Accept", "Anthropic-Version", "Anthropic-Beta"},
}

// responseHeaders are what an agent gets of the backend's headers. Not among
// them: cookies, the host's organisation, and the state of the rate limits that
// all agents share.
var responseHeaders = []string{"Content-Type", "Retry-After", "Retry-After-Ms", "X-Should-Retry", "X-Request-Id", "Request-Id"}

// backendHeader makes the headers of the request to the backend. The key is not
// among them: the lease's transport adds it when the request is sent.
func backendHeader(p Protocol, in http.Header) http.Header {
	out := http.Header{
		"Content-Type":    {"application/json"},
		"Accept-Encoding": {"identity"},
		"User-Agent":      {"twinward"},
	}
	copyHeaders(out, in, requestHeaders[p])
	if p == Anthropic && out.Get("Anthropic-Version") == "" {
		out.Set("Anthropic-Version", "2023-06-01")
	}
	return out
}

func copyHeaders(to, from http.Header, names []string) {
	for _, name := range names {
		for _, v := range from[name] {
			if len(v) <= maxHeader {
				to.Add(name, v)
			}
		}
	}
}

// plainJSON reports whether the request's body is what the scanner will take it
// for: JSON in UTF-8, not encoded further.
func plainJSON(h http.Header) bool {
	if !identity(h) {
		return false
	}
	types := h.Values("Content-Type")
	switch len(types) {
	case 0:
		return true
	case 1:
	default:
		return false
	}
	media, params, err := mime.ParseMediaType(types[0])
	charset := params["charset"]
	return err == nil && media == "application/json" && (charset == "" || strings.EqualFold(charset, "utf-8"))
}

// identity reports whether a body is not encoded.
func identity(h http.Header) bool {
	for _, v := range h.Values("Content-Encoding") {
		if v != "" && !strings.EqualFold(v, "identity") {
			return false
		}
	}
	return true
}

// eventStream reports whether a response is a stream of server-sent events.
func eventStream(resp *http.Response) bool {
	media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return err == nil && media == "text/event-stream"
}

// upgrade reports whether a request wants to leave HTTP.
func upgrade(r *http.Request) bool {
	return r.Header.Get("Upgrade") != "" || r.Method == http.MethodConnect
}
