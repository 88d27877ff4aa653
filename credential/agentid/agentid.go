package agentid

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
)

// An Agent is a registered non-human identity.
type Agent struct {
	// ID is stable and unique, and is the client id at the token endpoint: 1 to
	// 128 letters, digits and ._:/@- that begin with a letter or digit.
	ID string
	// Owner is who answers for the agent. Required.
	Owner string
	// Profile is the profile it is registered with, if any.
	Profile string
	// Keys is a JWK Set (RFC 7517) of the public keys that the agent signs with
	// to authenticate at the token endpoint (private_key_jwt). Empty means that it
	// has none.
	Keys []byte
	// CertName is the one DNS name or URI, such as a SPIFFE ID, of its client
	// certificate (RFC 8705, 2.1: tls_client_auth), which the TLS server has
	// verified. Empty means that it authenticates in no such way.
	CertName string
	// Issuer is the external issuer, one of [Options.Issuers], that vouches for
	// the agent. Empty means none: nobody else can speak for it.
	Issuer string
	// Expires is when the agent ends by itself. Zero means never.
	Expires time.Time
}

func (a Agent) validate() error {
	if !validID(a.ID) {
		return fmt.Errorf("agentid: %q is no agent id: 1 to 128 letters, digits and ._:/@- that begin with a letter or digit", a.ID)
	}
	if a.Owner == "" {
		return fmt.Errorf("agentid: agent %q has no owner: name the person or team that answers for it", a.ID)
	}
	if _, err := parsePublicKeys(a.Keys); err != nil {
		return fmt.Errorf("agentid: keys of agent %q: %w", a.ID, err)
	}
	return nil
}

func validID(id string) bool {
	for i, c := range []byte(id) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case i > 0 && strings.IndexByte("._:/@-", c) >= 0:
		default:
			return false
		}
	}
	return id != "" && len(id) <= 128
}

// Options of a [Registry]. The zero value is usable.
type Options struct {
	// Issuer is the URL of the token endpoint's issuer: https, or http on a
	// loopback address. It may have a path. Empty means that this registry
	// issues no tokens; sessions work all the same.
	Issuer string
	// Resource is the audience of tokens whose request names none, canonical or
	// not. The MCP specification demands that clients name it, and some do not.
	// Empty means that such requests are refused.
	Resource string
	// TokenTTL is how long a token lives. Zero means 5 minutes; more than an
	// hour is an error.
	TokenTTL time.Duration
	// Issuers are those besides this registry whose tokens count.
	Issuers []Issuer
	// HTTP is what their keys are had with, over https or from a loopback address,
	// without redirects. Nil means a plain client.
	HTTP *http.Client
	// JWT makes tokens signed ones (RFC 9068), which others can verify by the keys
	// at <issuer>/jwks, instead of opaque ones. They live at most 5 minutes; here
	// they end with their agent all the same.
	JWT bool
	// Store is what hosts share. Nil means one in this process's memory. With a
	// store, the registry denies everything with [ErrStale] until
	// [Registry.Follow], or [Registry.Sync], has read it.
	Store Store
	// MaxStale bounds for how long this host goes on without the store: counted
	// from the last question that the store answered, by the monotonic and by the
	// wall clock, whichever says more. Then everything is denied, and contexts end,
	// with [ErrStale]. Zero means 10 seconds.
	MaxStale time.Duration
	// Poll is how often Follow asks the store, besides being told by it. Zero means
	// half a second; more than half of MaxStale is an error.
	Poll time.Duration
	// Clock tells the time. Nil means time.Now.
	Clock func() time.Time
	// Logger is told what fails while following a store. Nil means nobody.
	Logger *slog.Logger
}

var (
	// ErrUnknown is returned for an agent that is not registered.
	ErrUnknown = errors.New("agentid: no such agent: register it first")
	// ErrExists is returned for an agent that is registered already.
	ErrExists = errors.New("agentid: the agent is registered already")
	// ErrRevoked is returned for an agent that was revoked, and for tokens from
	// before. It is also the cause with which its contexts are cancelled. It
	// wraps [audit.ErrRevoked].
	ErrRevoked = fmt.Errorf("agentid: %w", audit.ErrRevoked)
	// ErrFrozen is returned for an agent that was frozen, and is the cause with
	// which its contexts are cancelled: what it left behind is to be kept. It
	// matches [audit.ErrFrozen] and [audit.ErrRevoked].
	ErrFrozen = fmt.Errorf("agentid: %w", audit.ErrFrozen)
	// ErrLapsed is returned for an agent whose registration has expired. It
	// matches [audit.ErrRevoked].
	ErrLapsed error = lapsed{}
	// ErrStale is returned while this host cannot confirm what the store holds, so
	// that it may have missed a revocation.
	ErrStale = errors.New("agentid: the registry's store has not been reached for too long, so everything is denied: is Follow running, and the store up?")
	// ErrActor is returned for an actor that names a registered agent but is
	// not as registered.
	ErrActor = errors.New("agentid: the actor's profile or issuer is not the one its agent is registered with")
	// ErrToken is returned for what is not a live token of this registry.
	ErrToken = errors.New("agentid: not a valid token: get a new one from the token endpoint")
	// ErrExpired is returned for a token that was valid and is too old. Once
	// forgotten, such a token is ErrToken.
	ErrExpired = errors.New("agentid: the token has expired: get a new one from the token endpoint")
	// ErrAudience is returned for a valid token that was issued for another
	// resource.
	ErrAudience = errors.New("agentid: the token is for another audience: ask for one with this endpoint's URL as resource")
	// ErrNotRecorded is returned by an act that took effect without getting on
	// record, because the log is down.
	ErrNotRecorded = errors.New("agentid: done, but not on record: repair the log and repeat the call")
	// ErrNotShared is returned by an act that took effect on this host only,
	// because the store is down. While [Registry.Follow] runs it is repeated until
	// the store has it.
	ErrNotShared = errors.New("agentid: done on this host, but the other hosts are not told yet: repair the store, or repeat the call on another host")
)

// lapsed is ErrLapsed: ended like a revoked agent, but by itself.
type lapsed struct{}

func (lapsed) Error() string        { return "agentid: the agent's registration has expired" }
func (lapsed) Is(target error) bool { return target == audit.ErrRevoked }

// canonicalResource returns the one spelling of a resource, which is what an
// audience is compared by: scheme and host in lower case, no default port, no
// lone slash. Queries and paths count as they are; fragments are refused (RFC
// 8707, 2).
func canonicalResource(raw string) (string, error) {
	if len(raw) > 2048 || strings.Contains(raw, "#") {
		return "", errResource
	}
	u, err := url.Parse(raw)
	if err != nil {
		return "", errResource
	}
	origin, err := credential.Origin(raw)
	if err != nil {
		return "", errResource
	}
	path := u.EscapedPath()
	if path == "/" {
		path = ""
	}
	if u.RawQuery != "" || u.ForceQuery {
		path += "?" + u.RawQuery
	}
	return origin + path, nil
}

var errResource = errors.New("agentid: a resource is an absolute https URL without fragment, or http on a loopback address")
