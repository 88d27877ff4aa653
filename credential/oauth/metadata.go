package oauth

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twinward-dev/twinward/credential"
)

// metadata is what an authorization server publishes about itself (RFC 8414).
type metadata struct {
	Issuer                string
	TokenEndpoint         string
	AuthorizationEndpoint string
	MTLS                  string   // the token endpoint for clients with certificates
	AuthMethods           []string // nil: not said
	IssParameter          bool     // authorization responses name the issuer (RFC 9207)
	PKCE                  []string
}

// patience is how long a resource may take to say whom it trusts.
const patience = 3 * time.Second

// metadataLife is how long metadata is kept, and askAgain how long what was known
// before is, when a resource does not answer.
const (
	metadataLife = time.Hour
	askAgain     = time.Minute
)

// A server is what a scheme knows of its client's authorization server.
type server struct {
	Client

	mu     sync.Mutex
	known  metadata
	until  time.Time
	trusts map[string]trust // by resource
}

// A trust is in which authorization servers a resource trusts.
type trust struct {
	issuers []string // nil: it does not say
	until   time.Time
}

func newServer(c Client) *server { return &server{Client: c, trusts: make(map[string]trust)} }

// metadata returns what the client's server publishes, or what the client says
// in its place.
func (c *server) metadata(ctx context.Context, x credential.Exchange) (metadata, error) {
	if c.TokenEndpoint != "" {
		m := metadata{Issuer: c.Issuer, TokenEndpoint: c.TokenEndpoint, AuthorizationEndpoint: c.AuthorizationEndpoint}
		return m, m.check(c.Client)
	}
	c.mu.Lock()
	known, until := c.known, c.until
	c.mu.Unlock()
	if x.Now.Before(until) {
		return known, nil
	}
	m, err := discover(ctx, x, c.Issuer)
	if err != nil {
		return metadata{}, err
	}
	if err := m.check(c.Client); err != nil {
		return metadata{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known, c.until = m, x.Now.Add(metadataLife)
	return m, nil
}

// check returns an error unless the client may and can use the endpoints.
func (m metadata) check(c Client) error {
	for _, endpoint := range []string{m.TokenEndpoint, m.AuthorizationEndpoint, m.MTLS} {
		if endpoint == "" {
			continue
		}
		if _, err := credential.Origin(endpoint); err != nil {
			return fmt.Errorf("%w: endpoint of %s: %w", ErrResponse, c.Issuer, err)
		}
	}
	if m.TokenEndpoint == "" {
		return fmt.Errorf("%w: %s has no token endpoint", ErrResponse, c.Issuer)
	}
	method := c.method()
	if m.AuthMethods != nil && !slices.Contains(m.AuthMethods, string(method)) {
		return fmt.Errorf("%w: %s does not support %s", errConfig, c.Issuer, method)
	}
	return nil
}

// discover reads the metadata of an issuer, where RFC 8414 has it and where
// OpenID Connect has it.
func discover(ctx context.Context, x credential.Exchange, issuer string) (metadata, error) {
	u, err := url.Parse(issuer)
	if err != nil || u.RawQuery != "" || u.Fragment != "" {
		return metadata{}, fmt.Errorf("%w: the issuer is no URL without query and fragment", errConfig)
	}
	path := strings.TrimSuffix(u.Path, "/")
	at := func(p string) string { return u.Scheme + "://" + u.Host + p }
	var m members
	for _, place := range []string{
		at("/.well-known/oauth-authorization-server" + path),
		at("/.well-known/openid-configuration" + path),
		at(path + "/.well-known/openid-configuration"),
	} {
		got, status, err := fetch(ctx, x, place)
		if err != nil {
			return metadata{}, err
		}
		if status == http.StatusOK {
			m = got
			break
		}
		if status >= 500 {
			return metadata{}, &Error{Issuer: issuer, Status: status}
		}
	}
	if m == nil {
		return metadata{}, fmt.Errorf("%w: %s publishes no metadata: set TokenEndpoint", ErrResponse, issuer)
	}
	var out metadata
	var aliases struct {
		TokenEndpoint string `json:"token_endpoint"`
	}
	for name, v := range map[string]any{
		"issuer": &out.Issuer, "token_endpoint": &out.TokenEndpoint, "authorization_endpoint": &out.AuthorizationEndpoint,
		"token_endpoint_auth_methods_supported": &out.AuthMethods, "authorization_response_iss_parameter_supported": &out.IssParameter,
		"code_challenge_methods_supported": &out.PKCE, "mtls_endpoint_aliases": &aliases,
	} {
		if err := m.read(name, v); err != nil {
			return metadata{}, err
		}
	}
	out.MTLS = aliases.TokenEndpoint
	if out.Issuer != issuer { // exactly: RFC 8414, 3.3
		return metadata{}, fmt.Errorf("%w: its metadata says it is another issuer than %s", ErrIssuer, issuer)
	}
	return out, nil
}

// trusted returns an error if the resource says which authorization servers it
// trusts (RFC 9728), and the client's is not among them: it may have moved, and
// the credential must not move with it.
func (c *server) trusted(ctx context.Context, x credential.Exchange) error {
	resource := c.resource(x)
	if resource == "" {
		return nil
	}
	c.mu.Lock()
	kept, ok := c.trusts[resource]
	c.mu.Unlock()
	if !ok || !x.Now.Before(kept.until) {
		issuers, answered, err := resourceIssuers(ctx, x, resource)
		if err != nil {
			return err
		}
		if kept.until = x.Now.Add(askAgain); answered {
			kept = trust{issuers, x.Now.Add(metadataLife)}
		}
		c.mu.Lock()
		c.trusts[resource] = kept
		c.mu.Unlock()
	}
	if kept.issuers != nil && !slices.Contains(kept.issuers, c.Issuer) {
		return fmt.Errorf("%w: %s does not trust %s (any more): register there and put a new credential", ErrIssuer, resource, c.Issuer)
	}
	return nil
}

// resourceIssuers returns which authorization servers a resource trusts, nil if it
// does not say, and whether it has answered.
func resourceIssuers(ctx context.Context, x credential.Exchange, resource string) (issuers []string, answered bool, err error) {
	u, err := url.Parse(resource)
	if err != nil {
		return nil, false, fmt.Errorf("%w: the resource is no URL", errConfig)
	}
	origin, err := credential.Origin(resource)
	if err != nil {
		return nil, true, nil // such as an urn: nothing is published about it
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m, status, err := fetch(ctx, x, origin+"/.well-known/oauth-protected-resource"+strings.TrimSuffix(u.EscapedPath(), "/"))
	if err != nil || status != http.StatusOK {
		return nil, err == nil && status < 500, nil // it need not publish anything, nor be up
	}
	if err := m.read("authorization_servers", &issuers); err != nil {
		return nil, false, err
	}
	return issuers, true, nil
}

// fetch gets a JSON object.
func fetch(ctx context.Context, x credential.Exchange, place string) (members, int, error) {
	if _, err := credential.Origin(place); err != nil {
		return nil, 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, place, nil)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: no URL", errConfig)
	}
	return exchange(client(x), req)
}
