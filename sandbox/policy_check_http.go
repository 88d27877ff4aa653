package sandbox

import (
	"fmt"
	"slices"
	"strings"

	"github.com/twinward-dev/twinward/sandbox/internal/egress"
)

// checkRequests reports what is wrong with the part of a rule that judges
// requests.
func (r *Rule) checkRequests(field string, bad report) {
	judged := r.Protocol == ProtocolHTTP || r.Protocol == ProtocolHTTPS
	switch {
	case r.Protocol != "" && r.Protocol != ProtocolTCP && !judged:
		bad(field+".protocol", fmt.Sprintf("%q is not a protocol", r.Protocol), "write tcp, https or http")
		return
	case !judged && r.Access != "":
		bad(field+".access", "without a protocol, requests are not seen", "add protocol: https, or leave it out")
	case !judged && r.Rules != nil:
		bad(field+".rules", "without a protocol, requests are not seen", "add protocol: https, or leave it out")
	case !judged && r.Deny != nil:
		bad(field+".deny", "without a protocol, requests are not seen", "add protocol: https, or leave it out")
	case judged && r.Access != "" && r.Rules != nil:
		bad(field+".access", "both access and rules say what is allowed", "keep one of them")
	case judged && r.Access == "" && r.Rules == nil:
		bad(field+".protocol", "nothing says which requests are allowed", "add access: read-only (or read-write, full), or rules")
	}
	switch r.Access {
	case "", AccessReadOnly, AccessReadWrite, AccessFull:
	default:
		bad(field+".access", fmt.Sprintf("%q is not an access", r.Access), "write read-only, read-write or full")
	}
	if n := len(r.Rules) + len(r.Deny); n > maxRequests {
		bad(field+".rules", fmt.Sprintf("%d rules about requests", n), fmt.Sprintf("list at most %d, with those of deny", maxRequests))
		return
	}
	found := false
	note := func(field, problem, fix string) {
		found = true
		bad(field, problem, fix)
	}
	checkHTTPRules(field+".rules", r.Rules, note)
	checkHTTPRules(field+".deny", r.Deny, note)
	if _, known := presets[r.Access]; judged && !found && (known && r.Rules == nil || r.Access == "" && len(r.Rules) > 0) {
		// What the door would not take is no policy.
		if _, err := egress.NewHTTPRules(string(r.Access), requestRules(r.Rules), requestRules(r.Deny)); err != nil {
			bad(field, err.Error(), "write it in another way")
		}
	}
}

func checkHTTPRules(field string, list []HTTPRule, bad report) {
	if list != nil && len(list) == 0 {
		bad(field, "it is an empty list", "list some, or leave it out")
	}
	for i, h := range list {
		at := fmt.Sprintf("%s[%d]", field, i)
		if h.Methods == nil && h.Path == "" {
			bad(at, "it matches every request", "write methods or path; the path /** is any")
		}
		checkMethods(at+".methods", h.Methods, bad)
		if problem, fix := checkGlob(h.Path); problem != "" {
			bad(at+".path", fmt.Sprintf("%q %s", h.Path, problem), fix)
		}
	}
}

func checkMethods(field string, list []string, bad report) {
	if list != nil && len(list) == 0 {
		bad(field, "it is an empty list", `list some, or leave methods out for any`)
	}
	if len(list) > maxMethods {
		bad(field, fmt.Sprintf("%d methods", len(list)), fmt.Sprintf("list at most %d", maxMethods))
		return
	}
	for i, m := range list {
		at := fmt.Sprintf("%s[%d]", field, i)
		switch {
		case m == "*":
			if len(list) > 1 {
				bad(at, "* is every method already", "keep it alone")
			}
		case !isMethod(m):
			bad(at, fmt.Sprintf("%q is not a method", m), "write one such as GET")
		case strings.ToUpper(m) != m:
			bad(at, fmt.Sprintf("%q is not GET, POST or the like: letter case counts", m), fmt.Sprintf("write %s", strings.ToUpper(m)))
		case m == "CONNECT":
			bad(at, "CONNECT makes a tunnel, in which nothing is judged", "leave it out")
		case slices.Contains(list[:i], m):
			bad(at, fmt.Sprintf("%q is listed twice", m), "remove one")
		}
	}
}

// isMethod reports whether s is made of what the names of methods are made of.
func isMethod(s string) bool {
	return s != "" && len(s) <= 32 && strings.Trim(strings.ToUpper(s), "ABCDEFGHIJKLMNOPQRSTUVWXYZ-_") == ""
}

// checkGlob reports why a path glob could never match, or not what is meant:
// it is compared with the canonical path, see [HTTPRule].
func checkGlob(g string) (problem, fix string) {
	if g == "" {
		return "", ""
	}
	switch {
	case len(g) > maxGlob:
		return "is too long", fmt.Sprintf("globs have at most %d bytes", maxGlob)
	case g[0] != '/':
		return "does not begin with /, as paths do", fmt.Sprintf("write %q", "/"+g)
	case strings.Contains(g, "?"):
		return "has a query, which is not part of the path", "leave it out; queries are not judged"
	case strings.Contains(g, "#"):
		return "has a fragment, which is never sent", "leave it out"
	case strings.Contains(g, "//"):
		return "has a doubled slash, which paths are freed of", "write one"
	case strings.Contains(g, "***"):
		return "has three stars in a row", "write * for a part of one segment, or ** for anything"
	case strings.Count(g, "*") > 32:
		return "has too many stars", "write at most 32"
	}
	for _, seg := range strings.Split(g, "/") {
		if seg == "." || seg == ".." {
			return fmt.Sprintf("has the segment %q, which paths are freed of", seg), "write where it leads to"
		}
	}
	for i := 0; i < len(g); i++ {
		switch c := g[i]; {
		case c >= 0x7f:
			return "has a byte beyond ASCII, which paths have only as an escape", fmt.Sprintf("write it as %%%02X", c)
		case c <= ' ' || c == '\\':
			return fmt.Sprintf("has %q, which paths have only as an escape", c), fmt.Sprintf("write %%%02X", c)
		case c == '%':
			if i+2 >= len(g) || !upperHex(g[i+1]) || !upperHex(g[i+2]) {
				return "has % without two upper-case hexadecimal digits", "write a literal percent sign as %25"
			}
			switch e := unhex(g[i+1])<<4 | unhex(g[i+2]); {
			case e == '/' || e == '\\':
				return "has an escaped slash; a request with one is judged by each way to read it", "write / for it, and a rule for each reading"
			case unreserved(e):
				return fmt.Sprintf("has an escape for %q, which paths are freed of", e), fmt.Sprintf("write %c", e)
			}
		}
	}
	if err := egress.CheckGlob(g); err != nil {
		return "is not one glob for canonical paths: " + err.Error(), "write it as the error says"
	}
	return "", ""
}

func upperHex(c byte) bool { return '0' <= c && c <= '9' || 'A' <= c && c <= 'F' }

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c - 'A' + 10
}

// unreserved reports whether c never needs an escape (RFC 3986, section 2.3).
func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0
}
