package oauth

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
)

// ClientCredentials is the client's own access, for no user (RFC 6749, 4.4).
// The secret is that of the client's [AuthMethod].
func ClientCredentials(c Client) credential.Exchanger {
	return clientCredentials{credential.Bearer(), newServer(c)}
}

type clientCredentials struct {
	credential.Scheme
	*server
}

func (clientCredentials) Subject(a audit.Actor) string { return everybody(a) }

func (s clientCredentials) Exchange(ctx context.Context, x credential.Exchange) (credential.Token, error) {
	a, err := s.token(ctx, x, s.form(x, "client_credentials"))
	if err != nil {
		return credential.Token{}, err
	}
	return a.asToken(x)
}

// TokenExchange trades a token of the actor's user for one that is good for the
// resource (RFC 8693). With actorToken, which stands for the agent, the server
// can say in the new token that the agent acts for the user (claim act); nil
// leaves that out.
func TokenExchange(c Client, subject, actorToken TokenFunc) credential.Exchanger {
	return tokenExchange{credential.Bearer(), newServer(c), subject, actorToken}
}

type tokenExchange struct {
	credential.Scheme
	*server
	subject, actor TokenFunc
}

func (tokenExchange) Subject(a audit.Actor) string { return agentAndUser(a) }

const (
	grantExchange  = "urn:ietf:params:oauth:grant-type:token-exchange"
	grantJWTBearer = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	typeAccess     = "urn:ietf:params:oauth:token-type:access_token"
	typeJWT        = "urn:ietf:params:oauth:token-type:jwt"
	typeID         = "urn:ietf:params:oauth:token-type:id_token"
	typeIDJAG      = "urn:ietf:params:oauth:token-type:id-jag"
)

func (s tokenExchange) Exchange(ctx context.Context, x credential.Exchange) (credential.Token, error) {
	form := s.form(x, grantExchange)
	form.Set("requested_token_type", typeAccess)
	if err := s.subject.put(ctx, x, form, "subject_token", typeAccess); err != nil {
		return credential.Token{}, err
	}
	if s.actor != nil {
		if err := s.actor.put(ctx, x, form, "actor_token", typeJWT); err != nil {
			return credential.Token{}, err
		}
	}
	a, err := s.token(ctx, x, form)
	if err != nil {
		return credential.Token{}, err
	}
	if a.issued != typeAccess && a.issued != typeJWT {
		return credential.Token{}, fmt.Errorf("%w: the issued token is no access token", ErrResponse)
	}
	return a.asToken(x)
}

// put puts the token of somebody into a form.
func (f TokenFunc) put(ctx context.Context, x credential.Exchange, form url.Values, name, kind string) error {
	if f == nil {
		return fmt.Errorf("%w: nothing says where the %s comes from", errConfig, name)
	}
	t, err := f(ctx, x.Actor)
	if err != nil {
		return fmt.Errorf("oauth: %s: %w", name, err)
	}
	x.Learn(t)
	form.Set(name+"_type", kind)
	return t.Use(func(b []byte) error {
		form.Set(name, string(b))
		return nil
	})
}

// JWTBearer trades an assertion for a token (RFC 7523): one that assertion
// returns, such as the workload identity token of the platform, or with nil one
// that the client signs for itself with the secret, a private key. Such an
// assertion says by itself who asks: then an empty Client.Auth means [None].
func JWTBearer(c Client, assertion TokenFunc) credential.Exchanger {
	if assertion == nil {
		c.Auth = cmp.Or(c.Auth, None)
	}
	return jwtBearer{credential.Bearer(), newServer(c), assertion}
}

type jwtBearer struct {
	credential.Scheme
	*server
	assertion TokenFunc
}

// Subject tells actors apart if the assertion does.
func (s jwtBearer) Subject(a audit.Actor) string {
	if s.assertion == nil {
		return everybody(a)
	}
	return agentAndUser(a)
}

func (s jwtBearer) Exchange(ctx context.Context, x credential.Exchange) (credential.Token, error) {
	form := s.form(x, grantJWTBearer)
	if s.assertion != nil {
		if err := s.assertion.put(ctx, x, form, "assertion", ""); err != nil {
			return credential.Token{}, err
		}
		form.Del("assertion_type") // it has none here
	} else {
		jwt, err := sign(x, s.KeyID, map[string]any{
			"iss": s.ID, "sub": s.ID, "aud": cmp.Or(s.Audience, s.Issuer), "jti": rand.Text(),
			"iat": x.Now.Unix(), "exp": x.Now.Add(assertionLife).Unix(),
		})
		if err != nil {
			return credential.Token{}, err
		}
		form.Set("assertion", jwt)
	}
	a, err := s.token(ctx, x, form)
	if err != nil {
		return credential.Token{}, err
	}
	return a.asToken(x)
}

// IDJAG is access that an enterprise's identity provider manages: it trades the
// ID token of the actor's user at the provider for an assertion (Identity
// Assertion JWT Authorization Grant), and that at the resource's authorization
// server for a token. Both clients authenticate with the one secret; either may
// be public.
func IDJAG(provider, c Client, idToken TokenFunc) credential.Exchanger {
	provider.NoResource = true // it is the other server that the resource trusts
	return idJAG{credential.Bearer(), newServer(provider), newServer(c), idToken}
}

type idJAG struct {
	credential.Scheme
	provider, server *server
	idToken          TokenFunc
}

func (idJAG) Subject(a audit.Actor) string { return agentAndUser(a) }

func (s idJAG) Exchange(ctx context.Context, x credential.Exchange) (credential.Token, error) {
	form := s.server.form(x, grantExchange)
	form.Set("requested_token_type", typeIDJAG)
	form.Set("audience", s.server.Issuer)
	if err := s.idToken.put(ctx, x, form, "subject_token", typeID); err != nil {
		return credential.Token{}, err
	}
	if err := s.server.check(); err != nil {
		return credential.Token{}, err
	}
	a, err := s.provider.token(ctx, x, form)
	if err != nil {
		return credential.Token{}, err
	}
	if a.issued != typeIDJAG {
		return credential.Token{}, fmt.Errorf("%w: the identity provider issued no ID-JAG", ErrResponse)
	}
	x.Learn(a.access)
	form = s.server.form(x, grantJWTBearer)
	err = a.access.Use(func(b []byte) error {
		form.Set("assertion", string(b))
		return nil
	})
	if err == nil {
		a, err = s.server.token(ctx, x, form)
	}
	if err != nil {
		return credential.Token{}, err
	}
	return a.asToken(x)
}

// notOurSecret makes an error about the client one that does not say that the
// grant has ended.
func notOurSecret(err error) error {
	var e *Error
	if errors.As(err, &e) && e.Code != "invalid_grant" {
		e.reauth = false
	}
	return err
}
