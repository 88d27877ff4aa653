// Package openbao keeps secrets in OpenBao or HashiCorp Vault: a
// [credential.Store] over their key-value engine, version 2, that speaks its
// HTTP API with net/http alone.
//
// # What lies where
//
// Each secret is one entry of the engine, and each version of the secret is the
// entry's version of the same number:
//
//	<mount>/<folder>/<name>           {"value": "…"}
//	<mount>/<folder>-states/<name>    {"3": {"state": "current", …}, …}
//
// The value can be written and read with other tools too, as in
// "bao kv put secret/twinward/github value=…". Which version is current lies in
// an entry of its own, because it must be changed by compare-and-swap, and the
// engine offers that for entries and not for their metadata. An entry without
// states, as other tools make them, has its newest version as the current one,
// until the first write through this package; from then on a new version is
// pending until it is promoted.
//
// The token needs create, read, update and list below both folders of
// <mount>/data and <mount>/metadata, and update below <mount>/destroy. A host
// that only reads needs read and list.
//
// # When the server is not well
//
// Every error is one of a few that say what to do, see [Error]. None of them
// shows anything that the server wrote: not a token, not a value, not a page of
// a proxy in between. Answers are read up to a limit and decoded strictly, and
// no redirect leads to another origin. The package does not retry; a caller
// that meets [ErrUnavailable] may.
package openbao

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/credential"
)

// Options of a [Store]. The zero value of each field is safe.
type Options struct {
	// Mount is where the key-value engine is mounted. Empty means "secret".
	Mount string
	// Folder is where in the engine the secrets lie. Empty means "twinward".
	Folder string
	// Namespace is sent with every request, for servers that have namespaces.
	Namespace string
	// HTTP sends the requests: its transport decides about TLS and proxies. Its
	// cookie jar and its rule for redirects are not used. Nil means a client of
	// the store's own, with the system's roots.
	HTTP *http.Client
	// Timeout is how long one request may take. Zero means 10 seconds.
	Timeout time.Duration
	// Poll is how often [Store.Watch] looks for changes, give or take a fifth.
	// Zero means 30 seconds.
	Poll time.Duration
	// Log is told about renewals that fail. Nil means nobody.
	Log *slog.Logger
	// Clock tells the time. Nil means time.Now.
	Clock func() time.Time
}

func (o *Options) withDefaults() (Options, error) {
	var out Options
	if o != nil {
		out = *o
	}
	if out.Mount == "" {
		out.Mount = "secret"
	}
	if out.Folder == "" {
		out.Folder = "twinward"
	}
	for _, path := range []string{out.Mount, out.Folder} {
		if !validPath(path) {
			return out, fmt.Errorf("openbao: %q is no path: letters, digits and ._- between slashes", path)
		}
	}
	for _, c := range []byte(out.Namespace) {
		if c <= ' ' || c >= 0x7f {
			return out, errors.New("openbao: the namespace has characters that a header may not")
		}
	}
	if out.Timeout == 0 {
		out.Timeout = 10 * time.Second
	}
	if out.Poll == 0 {
		out.Poll = 30 * time.Second
	}
	if out.Timeout < 0 || out.Poll < 0 {
		return out, errors.New("openbao: Timeout and Poll are no negative times")
	}
	if out.Log == nil {
		out.Log = slog.New(slog.DiscardHandler)
	}
	if out.Clock == nil {
		out.Clock = time.Now
	}
	return out, nil
}

func validPath(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part[0] == '.' {
			return false
		}
		for _, c := range []byte(part) {
			if !plain(c) {
				return false
			}
		}
	}
	return true
}

// plain reports whether c stands for itself in a path.
func plain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-'
}

var (
	// ErrUnavailable is matched when the server is down, sealed, slow, busy or
	// a standby that cannot answer: try again later.
	ErrUnavailable = errors.New("the server cannot answer now: try again later")
	// ErrSealed is matched when the server says that it is sealed: somebody
	// must unseal it. Such an error matches ErrUnavailable too.
	ErrSealed = errors.New("the server is sealed: unseal it")
	// ErrDenied is matched when the login or the token's policies do not allow
	// what was asked.
	ErrDenied = errors.New("the server refuses: check the login and the policies of its token")
	// ErrAnswer is matched when what answered is no such server: its answer is
	// too long, no JSON, or not of the expected form, or it redirects to
	// another origin.
	ErrAnswer = errors.New("the answer is not one of OpenBao or Vault: check the address, and what stands between")
	// ErrClosed is matched after Close.
	ErrClosed = errors.New("the store is closed")
)

// An Error is what went wrong between the store and its server. Its text names
// the operation and the cause, in words of this package.
type Error struct {
	// Op is what was to be done, such as "read" or "login".
	Op string
	// Status is the status of the server's answer, or 0 without one.
	Status int

	kind   error
	detail string
	cause  error // context.Canceled, context.DeadlineExceeded or nil
}

// Error implements error.
func (e *Error) Error() string {
	text := "openbao: " + e.Op + ": " + e.kind.Error()
	if e.Status != 0 {
		text += fmt.Sprintf(" (status %d)", e.Status)
	}
	if e.detail != "" {
		text += " (" + e.detail + ")"
	}
	return text
}

// Is matches the package's sentinels, and the end of the caller's context.
func (e *Error) Is(target error) bool {
	return target == e.kind || e.cause != nil && target == e.cause || e.kind == ErrSealed && target == ErrUnavailable
}

// Retryable reports whether the same call may succeed later without anybody
// changing it: the error matches [ErrUnavailable].
func (e *Error) Retryable() bool { return e.Is(ErrUnavailable) }

// Timeout reports whether time ran out.
func (e *Error) Timeout() bool { return e.cause == context.DeadlineExceeded }

var (
	_ credential.WritableStore = (*Store)(nil)
	_ credential.Watcher       = (*Store)(nil)
)
