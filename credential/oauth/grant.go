package oauth

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
)

// AuthorizationCode is access to the accounts of users, each of whom has
// consented in a browser (RFC 6749, 4.1; PKCE; RFC 9207): see [Grants]. A call
// for a user uses what that user granted and nothing else; without it the lease
// fails with a [*credential.GrantError].
func AuthorizationCode(c Client) credential.GrantExchanger {
	return userGrant{credential.Bearer(), newServer(c)}
}

type userGrant struct {
	credential.Scheme
	*server
}

func (userGrant) UsesGrant() {}

// Subject is the user: their agents share the grant.
func (userGrant) Subject(a audit.Actor) string { return a.User }

func (s userGrant) Exchange(ctx context.Context, x credential.Exchange) (credential.Token, error) {
	if x.Actor.User == "" {
		return credential.Token{}, fmt.Errorf("%w: the agent acts for no user", credential.ErrNoGrant)
	}
	return s.refresh(ctx, x, x.Actor.User)
}

// RefreshToken is access by one refresh token that all actors share, such as
// that of a service's own account. The secret is the client's; the token is put
// with [credential.Broker.PutGrant] for the subject "".
func RefreshToken(c Client) credential.GrantExchanger {
	return sharedGrant{credential.Bearer(), newServer(c)}
}

type sharedGrant struct {
	credential.Scheme
	*server
}

func (sharedGrant) UsesGrant()                   {}
func (sharedGrant) Subject(a audit.Actor) string { return everybody(a) }

func (s sharedGrant) Exchange(ctx context.Context, x credential.Exchange) (credential.Token, error) {
	return s.refresh(ctx, x, "")
}

// A grant is what is stored of a consent. It names for whom, from whom and to
// whom it was given, so that it is of no use in another place.
type grant struct {
	Issuer   string    `json:"issuer"`
	ClientID string    `json:"client_id"`
	User     string    `json:"user"`
	Resource string    `json:"resource"`
	Refresh  string    `json:"refresh_token,omitempty"`
	Access   string    `json:"access_token,omitempty"`
	Expires  time.Time `json:"expires,omitzero"`
	Scope    string    `json:"scope,omitempty"`
}

func (s *server) empty(x credential.Exchange, user string) grant {
	return grant{Issuer: s.Issuer, ClientID: s.ID, User: user, Resource: s.resource(x)}
}

// read reads the stored grant, or a bare refresh token.
func (s *server) read(x credential.Exchange, user string) (g grant, err error) {
	err = x.Grant.Use(func(b []byte) error {
		if b[0] != '{' { // as somebody has put it who had nothing more
			g = s.empty(x, user)
			g.Refresh = string(b)
			return nil
		}
		m, err := object(b)
		if err != nil || json.Unmarshal(b, &g) != nil || len(m) > 8 {
			return fmt.Errorf("%w: the stored grant cannot be read", credential.ErrReauth)
		}
		return nil
	})
	if err != nil {
		return grant{}, err
	}
	if want := s.empty(x, user); g.Issuer != want.Issuer || g.ClientID != want.ClientID || g.User != want.User || g.Resource != want.Resource {
		return grant{}, fmt.Errorf("%w: the stored grant is for another user, client, resource or server: %w", ErrIssuer, credential.ErrReauth)
	}
	for _, t := range []string{g.Refresh, g.Access} {
		x.Learn(credential.NewSecret([]byte(t)))
	}
	return g, nil
}

// keep makes a grant of an answer, to be stored.
func (g grant) keep(a answer, x credential.Exchange) (credential.Secret, error) {
	g.Access, g.Expires = "", time.Time{}
	_ = a.access.Use(func(b []byte) error { g.Access = string(b); return nil })
	_ = a.refresh.Use(func(b []byte) error { g.Refresh = string(b); return nil })
	x.Learn(a.refresh)
	x.Learn(a.access)
	if a.life > 0 {
		g.Expires = x.Now.Add(a.life)
	}
	if a.scopes != nil {
		g.Scope = strings.Join(a.scopes, " ")
	}
	b, err := json.Marshal(g)
	if err != nil {
		return credential.Secret{}, fmt.Errorf("oauth: grant: %w", err)
	}
	return credential.NewSecret(b), nil
}

// early is how long before its end a stored access token is not used any more.
const early = time.Minute

// refresh returns the access token that is stored with the grant, or a new one.
func (s *server) refresh(ctx context.Context, x credential.Exchange, user string) (credential.Token, error) {
	g, err := s.read(x, user)
	if err != nil {
		return credential.Token{}, err
	}
	stored := credential.NewSecret([]byte(g.Access))
	fresh := g.Expires.IsZero() && g.Refresh == "" || x.Now.Add(early).Before(g.Expires)
	if g.Access != "" && fresh && !stored.Equal(x.Held) {
		return credential.Token{Value: stored, Expires: g.Expires, Scopes: strings.Fields(g.Scope)}, nil
	}
	if g.Refresh == "" {
		return credential.Token{}, fmt.Errorf("%w: the access token has ended, and there is no refresh token", credential.ErrReauth)
	}
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {g.Refresh}}
	if g.Resource != "" {
		form.Set("resource", g.Resource)
	}
	a, err := s.token(ctx, x, form)
	if err != nil {
		return credential.Token{}, notOurSecret(err)
	}
	t, err := a.asToken(x)
	if err != nil {
		return credential.Token{}, err
	}
	next, err := g.keep(a, x)
	if err != nil {
		return credential.Token{}, err
	}
	t.Replace = &next
	return t, nil
}

// redeem trades an authorization code for a grant.
func (s *server) redeem(ctx context.Context, x credential.Exchange, user, code, verifier, redirect string) (credential.Secret, error) {
	form := url.Values{
		"grant_type": {"authorization_code"}, "code": {code}, "code_verifier": {verifier}, "redirect_uri": {redirect},
	}
	if r := s.resource(x); r != "" {
		form.Set("resource", r)
	}
	a, err := s.token(ctx, x, form)
	if err != nil {
		return credential.Secret{}, notOurSecret(err)
	}
	if _, err := a.asToken(x); err != nil {
		return credential.Secret{}, err
	}
	return s.empty(x, user).keep(a, x)
}
