package inference

import (
	"fmt"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// maxHeader bounds the value of a header that is passed on.
const maxHeader = 4 << 10

// requestHeaders are what a backend gets of the agent's headers. Everything
// else stays behind: cookies, the agent's own keys, organisation and session
// ids, and whatever else could carry data out. Anthropic-Beta is not among them
// because policy decides it: see betas.
var requestHeaders = map[Protocol][]string{
	OpenAI:          {"Accept"},
	OpenAIResponses: {"Accept"},
	Anthropic:       {"Accept", "Anthropic-Version"},
	Gemini:          {"Accept"},
}

const betaHeader = "Anthropic-Beta"

// maxBetas bounds the features that one request may turn on. Claude Code asks
// for 8.
const maxBetas = 32

var betaRE = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// betas are the features of Anthropic's that a request turns on. Policy sees them
// as context.betas, and exactly these go to the backend.
func betas(p Protocol, h http.Header) (names []string, err error) {
	if p != Anthropic {
		return nil, nil
	}
	for _, line := range h.Values(betaHeader) {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.Trim(name, " \t"); name == "" {
				continue
			}
			if !betaRE.MatchString(name) || len(names) == maxBetas {
				return nil, fmt.Errorf("%s must be at most %d names of letters, digits, '.', '_' and '-'", strings.ToLower(betaHeader), maxBetas)
			}
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names, nil
}

// sessionHeaders are where agent programs say which of their conversations a
// request belongs to.
var sessionHeaders = [...]string{"X-Claude-Code-Session-Id", "Session-Id", "Session_id", "X-Session-Id"}

var sessionRE = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,128}$`)

// clientSession is what the client calls its conversation. It is for people who
// read the log; anybody can write anything there, so that nothing is decided by
// it.
func clientSession(h http.Header) string {
	for _, name := range sessionHeaders {
		if id := h[name]; len(id) == 1 && sessionRE.MatchString(id[0]) {
			return id[0]
		}
	}
	return ""
}

// responseHeaders are what an agent gets of the backend's headers. Not among
// them: cookies, the host's organisation, and the state of the rate limits that
// all agents share.
var responseHeaders = []string{"Content-Type", "Retry-After", "Retry-After-Ms", "X-Should-Retry", "X-Request-Id", "Request-Id"}

// backendHeader makes the headers of the request to the backend. The key is not
// among them: the lease's transport adds it when the request is sent.
func backendHeader(p Protocol, in http.Header, betas []string) http.Header {
	out := http.Header{
		"Content-Type":    {"application/json"},
		"Accept-Encoding": {"identity"},
		"User-Agent":      {"twinward"},
	}
	copyHeaders(out, in, requestHeaders[p])
	if p == Anthropic && len(betas) > 0 {
		out.Set(betaHeader, strings.Join(betas, ","))
	}
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
