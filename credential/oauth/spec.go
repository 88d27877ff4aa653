package oauth

import (
	"fmt"

	"github.com/twinward-dev/twinward/credential"
)

// Tokens are where the tokens come from that stand for users and agents. A
// scheme that needs one which is nil fails.
type Tokens struct {
	User  TokenFunc // an access token of the actor's user, for [TokenExchange]
	Agent TokenFunc // the agent's own, for [TokenExchange]; may be nil
	ID    TokenFunc // the ID token of the actor's user, for [IDJAG]
}

// Binding makes the binding of a spec of any type. Nil tokens are enough for
// those that stand for nobody else. It fits credential.BrokerOptions.Binding.
func Binding(spec credential.BindingSpec, tokens *Tokens) (credential.Binding, error) {
	if err := spec.Validate(); err != nil {
		return credential.Binding{}, err
	}
	if tokens == nil {
		tokens = &Tokens{}
	}
	c := Client{
		Issuer: spec.Issuer, ID: spec.ClientID, Auth: AuthMethod(spec.Auth), Resource: spec.Resource,
		TokenEndpoint: spec.TokenEndpoint, AuthorizationEndpoint: spec.AuthorizationEndpoint,
	}
	switch c.method() {
	case SecretBasic, SecretPost, PrivateKeyJWT, TLSClientAuth, None:
	default:
		return credential.Binding{}, fmt.Errorf("%w: auth %.40q", credential.ErrSpec, spec.Auth)
	}
	b := credential.Binding{Origin: spec.Origin, Scopes: spec.Scopes}
	oauth := true
	switch spec.Type {
	case credential.TypeOAuthClientCredentials:
		b.Scheme = ClientCredentials(c)
	case credential.TypeOAuthRefreshToken:
		b.Scheme = RefreshToken(c)
	case credential.TypeOAuthAuthorizationCode:
		b.Scheme = AuthorizationCode(c)
	case credential.TypeOAuthTokenExchange:
		b.Scheme = TokenExchange(c, tokens.User, tokens.Agent)
	case credential.TypeOAuthJWTBearer:
		b.Scheme = JWTBearer(c, nil)
	case credential.TypeOAuthIDJAG:
		provider := c
		provider.Issuer, provider.TokenEndpoint, provider.AuthorizationEndpoint = spec.IdentityProvider, "", ""
		b.Scheme = IDJAG(provider, c, tokens.ID)
	case credential.TypeGitHubApp:
		b.Scheme, oauth = GitHubApp(spec.AppID, spec.InstallationID, nil), false
	case credential.TypeGoogleServiceAccount:
		b.Scheme, oauth = GoogleServiceAccount(&GoogleOptions{User: spec.User}), false
	default:
		return spec.Binding()
	}
	if oauth {
		if err := c.check(); err != nil {
			return credential.Binding{}, fmt.Errorf("%w: %w", credential.ErrSpec, err)
		}
	}
	return b, nil
}
