package egress

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// An HTTPRule is about some requests. No methods, or "*", are all methods; no
// path is every path. See [NewHTTPRules].
type HTTPRule struct {
	Methods []string
	Path    string
}

// The presets that stand for a list of methods, on every path.
const (
	AccessReadOnly  = "read-only"  // GET, HEAD, OPTIONS
	AccessReadWrite = "read-write" // and POST, PUT, PATCH
	AccessFull      = "full"
)

// HTTPRules say which requests of a host are allowed. They are not changed
// after they were made. Nil allows all.
type HTTPRules struct {
	allow, deny []httpRule
	methods     bool // some rule tells methods apart
	paths       bool // some rule tells paths apart
}

type httpRule struct {
	id      string
	methods []string // nil is any
	path    glob
}

// NewHTTPRules compiles rules: a preset or a list of what is allowed, and a list
// of what is denied all the same.
//
// A path is a glob in which "*" stands for any part of a segment and "**" for
// any number of segments. It is compared with the canonical path of a request.
// What is allowed is compared exactly. What is denied is taken widely, because
// servers differ: the case of ASCII letters does not matter, nor does a slash at
// the end, and /x/** covers /x too.
func NewHTTPRules(access string, allow, deny []HTTPRule) (*HTTPRules, error) {
	h := new(HTTPRules)
	switch {
	case access == "" && len(allow) == 0:
		return nil, fmt.Errorf("nothing is allowed: say access or rules")
	case access != "" && len(allow) > 0:
		return nil, fmt.Errorf("access and rules exclude each other")
	}
	switch access {
	case "":
	case AccessReadOnly:
		allow = []HTTPRule{{Methods: []string{"GET", "HEAD", "OPTIONS"}}}
	case AccessReadWrite:
		allow = []HTTPRule{{Methods: []string{"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH"}}}
	case AccessFull:
		allow = []HTTPRule{{}}
	default:
		return nil, fmt.Errorf("access %q is none of %s, %s, %s", access, AccessReadOnly, AccessReadWrite, AccessFull)
	}
	for i, r := range allow {
		id := "rules[" + strconv.Itoa(i) + "]"
		if access != "" {
			id = "access:" + access
		}
		c, err := h.compile(id, r)
		if err != nil {
			return nil, err
		}
		h.allow = append(h.allow, c)
	}
	for i, r := range deny {
		c, err := h.compile("deny["+strconv.Itoa(i)+"]", r)
		if err != nil {
			return nil, err
		}
		c.path = c.path.lower()
		h.deny = append(h.deny, c)
	}
	return h, nil
}

func (h *HTTPRules) compile(id string, r HTTPRule) (c httpRule, err error) {
	c.id = id
	if c.path, err = parseGlob(r.Path); err != nil {
		return c, fmt.Errorf("%s: %w", id, err)
	}
	if !slices.Contains(r.Methods, "*") {
		c.methods = slices.Clone(r.Methods)
	}
	for _, m := range c.methods {
		if !isMethod(m) {
			return c, fmt.Errorf("%s: %q is not the name of a method, which is in capital letters", id, m)
		}
	}
	h.methods = h.methods || c.methods != nil
	h.paths = h.paths || r.Path != "" && r.Path != "/**"
	return c, nil
}

// isMethod accepts the names that methods have; CONNECT makes a tunnel and is
// never one of them.
func isMethod(m string) bool {
	return m != "" && len(m) <= 32 && m != "CONNECT" && strings.Trim(m, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-_") == ""
}

// A verdict is what rules say about a request.
type verdict struct {
	cause string // why not; "" is yes
	rule  string // that decided, if one did
}

// judge says whether a request is allowed: no reading of its path may be
// denied, and each must be allowed.
func (h *HTTPRules) judge(method string, p path) (v verdict) {
	if h == nil {
		return v
	}
	for i := -1; len(h.deny) > 0 && i < len(p.more); i++ {
		if id := h.denied(method, p.reading(i)); id != "" {
			return verdict{CauseDeny, id}
		}
	}
	for i := len(p.more) - 1; i >= -1; i-- { // ends with the spelling that is sent
		if v = h.allowed(method, p.reading(i)); v.cause != "" {
			break
		}
	}
	return v
}

// denied returns the rule that denies a request, or "".
func (h *HTTPRules) denied(method, path string) (id string) {
	method, path = strings.ToUpper(method), lower(path)
	other := path + "/"
	if n := len(path) - 1; n > 0 && path[n] == '/' {
		other = path[:n]
	}
	for i := range h.deny {
		if r := &h.deny[i]; r.covers(method) && (r.path.match(path) || r.path.match(other)) {
			return r.id
		}
	}
	return ""
}

func (h *HTTPRules) allowed(method, path string) verdict {
	cause := CauseMethod
	for i := range h.allow {
		r := &h.allow[i]
		if !r.covers(method) {
			continue
		}
		if r.path.match(path) {
			return verdict{"", r.id}
		}
		cause = CausePath
	}
	return verdict{cause, ""}
}

func (r *httpRule) covers(method string) bool {
	return r.methods == nil || slices.Contains(r.methods, method)
}

// equal reports whether two sets of rules say the same.
func (h *HTTPRules) equal(o *HTTPRules) bool {
	if h == nil || o == nil {
		return h == o
	}
	same := func(a, b httpRule) bool {
		return a.path.text == b.path.text && slices.Equal(a.methods, b.methods)
	}
	return slices.EqualFunc(h.allow, o.allow, same) && slices.EqualFunc(h.deny, o.deny, same)
}

// lower is strings.ToLower for ASCII letters only.
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, s)
}
