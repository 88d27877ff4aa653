package credential

import (
	"encoding/base64"
	"net/http"
	"strings"
)

// A Scheme puts a secret on a request that is about to be sent. Apply owns r,
// a copy made for this one hop, and may change its headers, its query and, as
// [Form] does, its body; it must not keep secret, nor put it anywhere but on r,
// nor name it in an error. It is safe for concurrent use.
//
// A scheme whose secret is traded for a token is an [Exchanger] as well; one
// that hands the secret to a child process is a [ProcessScheme]; one whose
// secret is made of parts is a [Divider].
type Scheme interface {
	Apply(r *http.Request, secret []byte) error
}

// A Divider is a [Scheme] whose stored secret is a document, such as AWS's key
// id and key. Parts returns what in it must not come back: the vault's
// scrubber looks for each of them.
type Divider interface {
	Scheme
	Parts(secret []byte) ([]Secret, error)
}

// Bearer sends "Authorization: Bearer <secret>" (RFC 6750).
func Bearer() Scheme { return Header("Authorization", "Bearer ") }

// Header sends the secret, after prefix, in the named header; for example
// Header("X-Api-Key", ""). It replaces what the request carried there.
func Header(name, prefix string) Scheme { return header{name, prefix, ""} }

// secretMark stands for the secret in formats.
const secretMark = "{secret}"

// HeaderFormat sends a header whose value holds the secret somewhere inside,
// where format says {secret}; for example HeaderFormat("Authorization",
// "Token token={secret}"). A format that does not hold it exactly once makes
// every request fail with [ErrScheme].
func HeaderFormat(name, format string) Scheme {
	prefix, suffix, ok := strings.Cut(format, secretMark)
	if !ok || strings.Contains(suffix, secretMark) {
		name = "" // no header has that name
	}
	return header{name, prefix, suffix}
}

// Basic sends "Authorization: Basic" with the user's name and the secret as
// password (RFC 7617).
func Basic(user string) Scheme { return basic{user} }

type header struct{ name, prefix, suffix string }

func (h header) Apply(r *http.Request, secret []byte) error {
	if !validName(h.name) || !validValue([]byte(h.prefix+h.suffix)) || !validValue(secret) {
		return ErrScheme
	}
	dropHeader(r.Header, h.name)
	r.Header.Set(h.name, h.prefix+string(secret)+h.suffix)
	return nil
}

// dropHeader removes a header, also where whoever wrote to the map has spelled it in
// another way.
func dropHeader(h http.Header, name string) {
	name = http.CanonicalHeaderKey(name)
	for spelled := range h {
		if http.CanonicalHeaderKey(spelled) == name {
			delete(h, spelled)
		}
	}
}

type basic struct{ user string }

func (s basic) Apply(r *http.Request, secret []byte) error {
	pair := make([]byte, 0, len(s.user)+1+len(secret))
	defer func() { clear(pair) }()
	for _, c := range []byte(s.user) {
		if c == ':' || c < ' ' || c == 0x7f {
			return ErrScheme // a colon ends the user's name
		}
	}
	pair = append(append(append(pair, s.user...), ':'), secret...)
	r.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString(pair))
	return nil
}

// validName reports whether s is a token, and so a header's name (RFC 9110,
// 5.6.2).
func validName(s string) bool {
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return s != ""
}

// validValue reports whether b can stand in a header's value.
func validValue(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
