// Package oauth has the schemes whose secret is traded for a token: OAuth 2.1,
// and what GitHub and Google have in its place. Each is a
// [credential.Exchanger] for a [credential.Binding]; the vault caches tokens and
// renews them.
//
//	scheme                 the secret in the vault                   a token for
//	[ClientCredentials]    client secret, private key or certificate all actors
//	[RefreshToken]         as above; grant: a refresh token          all actors
//	[AuthorizationCode]    as above; grants: through [Grants]        each user
//	[TokenExchange]        as above                                  each agent and user
//	[JWTBearer]            private key, or none                      all actors, or each agent and user
//	[IDJAG]                as above                                  each agent and user
//	[GitHubApp]            private key                               all actors
//	[GoogleServiceAccount] key file                                  all actors
//
// # One server, one secret
//
// A [Client] names the authorization server by its issuer identifier. The
// server's endpoints come from its metadata (RFC 8414), which must name that
// very issuer, and the secret goes nowhere else: credentials are never tried on
// a server that a resource or an error points to. If the resource publishes
// which servers it trusts (RFC 9728), the issuer must be among them. Requests
// name the resource (RFC 8707), so that a token is good for it alone.
//
// # What others say
//
// Answers are read up to 1 MiB, as JSON without repeated members. Of an error
// only its code is told on, for servers repeat in their descriptions what they
// were sent. Redirects are never followed. Endpoints are https, or http on
// loopback.
package oauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
)

// An AuthMethod is how a client proves who it is to an authorization server.
type AuthMethod string

// The methods of RFC 8414, and what the secret is for each.
const (
	SecretBasic   AuthMethod = "client_secret_basic" // the client's secret (RFC 6749, 2.3.1)
	SecretPost    AuthMethod = "client_secret_post"  // the client's secret, for servers that take nothing better
	PrivateKeyJWT AuthMethod = "private_key_jwt"     // a private key, PEM or JWK (RFC 7523): ES256, RS256 or EdDSA
	TLSClientAuth AuthMethod = "tls_client_auth"     // a certificate and its private key, PEM (RFC 8705)
	None          AuthMethod = "none"                // no secret: a public client
)

// A Client is who the host is at one authorization server.
type Client struct {
	// Issuer is the server's issuer identifier. Required.
	Issuer string
	// ID is the client's, or the URL of its metadata document. Required.
	ID string
	// Auth is how the client proves that. Empty means [SecretBasic].
	Auth AuthMethod
	// KeyID is the kid of the private key. A JWK has its own.
	KeyID string
	// Audience is that of the client's assertions. Empty means the issuer.
	Audience string
	// Resource is the identifier of the resource that tokens are for (RFC
	// 8707). Empty means the origin that the secret is bound to.
	Resource string
	// NoResource leaves it out, for servers that refuse it. The token may then
	// be good for other resources as well.
	NoResource bool
	// TokenEndpoint and AuthorizationEndpoint are for servers without metadata.
	TokenEndpoint, AuthorizationEndpoint string
}

// check returns an error unless the client is complete.
func (c Client) check() error {
	if c.Issuer == "" {
		return fmt.Errorf("%w: the client names no issuer", errConfig)
	}
	if _, err := credential.Origin(c.Issuer); err != nil {
		return fmt.Errorf("%w: issuer: %w", errConfig, err)
	}
	if c.ID == "" {
		return fmt.Errorf("%w: the client has no id", errConfig)
	}
	return nil
}

func (c Client) resource(x credential.Exchange) string {
	switch {
	case c.NoResource:
		return ""
	case c.Resource != "":
		return c.Resource
	}
	return x.Origin
}

var (
	errConfig = errors.New("oauth: the client is not complete")
	// ErrIssuer is returned when what claims to be an authorization server, or
	// to come from one, is not the one that the secret is for.
	ErrIssuer = errors.New("oauth: not the authorization server that the credential is for")
	// ErrResponse is returned for answers that are no proper ones.
	ErrResponse = errors.New("oauth: the answer cannot be understood")
)

// An Error is an error code that a server answered with. It matches
// [credential.ErrReauth] if it says that the secret is not accepted.
type Error struct {
	Issuer string // or the host
	Status int    // of HTTP
	Code   string // of RFC 6749, 5.2, or "" if there was none that is well formed
	reauth bool
}

// Error implements error.
func (e *Error) Error() string {
	code := e.Code
	if code == "" {
		code = "no error code"
	}
	return fmt.Sprintf("oauth: %s answered %d: %s", e.Issuer, e.Status, code)
}

// Is reports whether target is [credential.ErrReauth] and the error means that.
func (e *Error) Is(target error) bool { return e.reauth && target == credential.ErrReauth }

// everybody is the subject of tokens that all actors share.
func everybody(audit.Actor) string { return "" }

// agentAndUser is the subject of tokens that name both.
func agentAndUser(a audit.Actor) string {
	return strings.Join([]string{a.Issuer, a.Agent, a.User}, "\x00")
}

// A TokenFunc returns a token that stands for somebody: the ID token of the
// actor's user, or the agent's own. It must not return one of another actor.
type TokenFunc func(ctx context.Context, a audit.Actor) (credential.Secret, error)

// timeout bounds each request.
const timeout = 20 * time.Second

// client returns an HTTP client that follows no redirects.
func client(x credential.Exchange) *http.Client {
	c := &http.Client{}
	if x.Client != nil {
		*c = *x.Client
	}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.Jar = nil
	if c.Timeout == 0 || c.Timeout > timeout {
		c.Timeout = timeout
	}
	return c
}

func (c *server) form(x credential.Exchange, grantType string) url.Values {
	v := url.Values{"grant_type": {grantType}}
	if len(x.Scopes) > 0 {
		v.Set("scope", strings.Join(x.Scopes, " "))
	}
	if r := c.resource(x); r != "" {
		v.Set("resource", r)
	}
	return v
}

// token asks the server for a token and returns its answer.
func (c *server) token(ctx context.Context, x credential.Exchange, form url.Values) (answer, error) {
	if err := c.check(); err != nil {
		return answer{}, err
	}
	m, err := c.metadata(ctx, x)
	if err != nil {
		return answer{}, err
	}
	if err := c.trusted(ctx, x); err != nil {
		return answer{}, err
	}
	h := client(x)
	endpoint := m.TokenEndpoint
	if c.Auth == TLSClientAuth {
		if m.MTLS != "" {
			endpoint = m.MTLS
		}
		done, err := withCertificate(h, x.Secret)
		if err != nil {
			return answer{}, err
		}
		defer done()
	}
	req, err := c.authenticate(ctx, x, endpoint, form)
	if err != nil {
		return answer{}, err
	}
	return send(h, req, c.Issuer)
}

// asToken makes a token of an answer.
func (a answer) asToken(x credential.Exchange) (credential.Token, error) {
	if !strings.EqualFold(a.tokenType, "Bearer") {
		return credential.Token{}, fmt.Errorf("%w: it is no bearer token", ErrResponse)
	}
	t := credential.Token{Value: a.access, Scopes: a.scopes}
	if a.life != 0 {
		t.Expires = x.Now.Add(a.life)
	}
	// Scopes that were not asked for mean that the server did not understand.
	for _, s := range a.scopes {
		if len(x.Scopes) > 0 && !slices.Contains(x.Scopes, s) {
			return credential.Token{}, fmt.Errorf("%w: it grants more than was asked for", ErrResponse)
		}
	}
	return t, nil
}
