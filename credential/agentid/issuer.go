package agentid

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/twinward-dev/twinward/credential"
)

// An Issuer is somebody else's OAuth authorization server, OpenID provider or
// SPIFFE trust domain, whose JWTs [Registry.Verify] takes for the agents that
// name it as their [Agent.Issuer].
//
// A token stands for an agent, and perhaps for a user whom it acts for: with an
// act claim (RFC 8693) the outermost actor is the agent and sub the user; with a
// client_id or azp that is not sub, that is the agent and sub the user;
// otherwise sub is the agent.
//
// Users have one name space, whoever names them. So an issuer names them only if
// [Issuer.Users] says that it may: it can then have its agents act for any user,
// and use what that user has granted to agents (oauth.AuthorizationCode).
type Issuer struct {
	// URL is the token's iss, exactly; https, or http on a loopback address. Or it
	// is a trust domain, as in "spiffe://example.org": the tokens are JWT-SVIDs,
	// whose sub begins with it, and which need have no iss.
	URL string
	// JWKS is the URL of its keys. Empty means that its metadata says where they
	// are. Trust domains need it.
	JWKS string
	// Algorithms are those it signs with, of ES256, ES384, EdDSA, RS256 and PS256.
	// Empty means all of them; a key that names its algorithm is only for that.
	Algorithms []string
	// Types are the values of the header typ that its access tokens have. Empty
	// means at+jwt (RFC 9068) alone, and for a trust domain JWT, JOSE or none. To
	// accept "JWT" from an issuer of ID tokens is to accept those too.
	Types []string
	// MaxTTL is how far in the future a token may expire. Zero means an hour.
	MaxTTL time.Duration
	// UserClaim is the claim that names users, in the words of the policies. Empty
	// means sub. An "email" counts only with email_verified.
	UserClaim string
	// Users says that it may speak for all users: its tokens may name the user whom
	// the agent acts for, and its users' tokens may be exchanged at the token
	// endpoint for ones with which an agent acts for them (RFC 8693; their audience
	// has to be this registry's issuer). Without it, a token that names a user
	// besides the agent is refused.
	Users bool
}

// spiffeScheme begins a trust domain.
const spiffeScheme = "spiffe://"

// A foreign is an Issuer that is ready to use.
type foreign struct {
	Issuer
	algorithms []jose.SignatureAlgorithm
	types      []string
	keys       *keySource
}

func newForeign(i Issuer, client *http.Client, now func() time.Time) (*foreign, error) {
	f := &foreign{Issuer: i, keys: &keySource{issuer: i.URL, url: i.JWKS, client: noRedirects(client), now: now}}
	if domain, ok := strings.CutPrefix(i.URL, spiffeScheme); ok {
		f.types, f.keys.use = []string{"JWT", "JOSE", ""}, "jwt-svid"
		switch {
		case domain == "" || strings.ContainsAny(domain, "/?#@:"):
			return nil, fmt.Errorf("agentid: issuer %q is no trust domain: want spiffe://domain", i.URL)
		case i.JWKS == "":
			return nil, fmt.Errorf("agentid: trust domain %q needs JWKS, the URL of its bundle", i.URL)
		case i.Users:
			return nil, fmt.Errorf("agentid: trust domain %q has no users", i.URL)
		}
	} else {
		f.types = []string{"at+jwt"}
		if _, err := credential.Origin(i.URL); err != nil {
			return nil, fmt.Errorf("agentid: issuer %q: %w", i.URL, err)
		}
	}
	if i.JWKS != "" {
		if _, err := credential.Origin(i.JWKS); err != nil {
			return nil, fmt.Errorf("agentid: keys of issuer %q: %w", i.URL, err)
		}
	}
	if len(i.Types) > 0 {
		f.types = i.Types
	}
	f.algorithms = algorithms
	if len(i.Algorithms) > 0 {
		f.algorithms = nil
		for _, a := range i.Algorithms {
			if !slices.Contains(algorithms, jose.SignatureAlgorithm(a)) {
				return nil, fmt.Errorf("agentid: issuer %q: algorithm %q is none of %v", i.URL, a, algorithms)
			}
			f.algorithms = append(f.algorithms, jose.SignatureAlgorithm(a))
		}
	}
	if f.MaxTTL == 0 {
		f.MaxTTL = time.Hour
	}
	if f.MaxTTL < 0 {
		return nil, fmt.Errorf("agentid: issuer %q: a negative MaxTTL", i.URL)
	}
	return f, nil
}

// noRedirects returns a client that stays where it was sent.
func noRedirects(c *http.Client) *http.Client {
	if c == nil {
		c = &http.Client{}
	}
	copied := *c
	copied.CheckRedirect = func(*http.Request, []*http.Request) error {
		return errors.New("a redirect, which is not followed")
	}
	return &copied
}

// from returns the issuer that a token says it is of.
func (r *Registry) from(t *jwt) *foreign {
	if f := r.foreign[t.claims.Issuer]; f != nil && !strings.HasPrefix(f.URL, spiffeScheme) {
		return f
	}
	if rest, ok := strings.CutPrefix(t.claims.Subject, spiffeScheme); ok {
		domain, path, _ := strings.Cut(rest, "/")
		if path != "" {
			return r.foreign[spiffeScheme+domain]
		}
	}
	return nil
}

// check returns an error unless the token is a good one of this issuer, whoever
// it is for.
func (f *foreign) check(ctx context.Context, t *jwt, now time.Time) error {
	typ := strings.TrimPrefix(strings.ToLower(t.header.Type), "application/")
	if !slices.ContainsFunc(f.types, func(want string) bool { return strings.EqualFold(want, typ) }) {
		return fmt.Errorf("%w: it is not of a type that is accepted from there", ErrToken)
	}
	// Cheap ones first, and before a key is asked for.
	if err := t.claims.times(now, f.MaxTTL); err != nil {
		return err
	}
	if !slices.Contains(f.algorithms, jose.SignatureAlgorithm(t.header.Algorithm)) {
		return fmt.Errorf("%w: signed with an algorithm that is not accepted from there", ErrToken)
	}
	k, err := f.keys.key(ctx, t.header.KeyID)
	if err != nil {
		return err
	}
	return t.verify(k, f.algorithms)
}

// parties returns the agent and the user that a token names.
func (f *foreign) parties(t *jwt) (agent, user string, err error) {
	c := &t.claims
	if c.Subject == "" {
		return "", "", fmt.Errorf("%w: it has no subject", ErrToken)
	}
	client := c.ClientID
	switch {
	case client == "":
		client = c.Party
	case c.Party != "" && c.Party != client:
		return "", "", fmt.Errorf("%w: its client_id and azp differ", ErrToken)
	}
	switch {
	case c.Act != nil:
		if c.Act.Subject == "" || c.Act.Issuer != "" && c.Act.Issuer != f.URL || depth(c.Act) > maxActs {
			return "", "", fmt.Errorf("%w: its actor is not understood", ErrToken)
		}
		agent = c.Act.Subject
	case client == "" || client == c.Subject:
		return c.Subject, "", nil
	default:
		agent = client
	}
	if !f.Users {
		return "", "", fmt.Errorf("%w: it names a user, which its issuer may not (Issuer.Users)", ErrToken)
	}
	user, err = f.user(t)
	return agent, user, err
}

func depth(a *act) int {
	n := 0
	for ; a != nil; a = a.Act {
		n++
	}
	return n
}

// user returns the name of the user that a token is of.
func (f *foreign) user(t *jwt) (string, error) {
	if f.UserClaim == "" || f.UserClaim == "sub" {
		return t.claims.Subject, nil
	}
	var all map[string]jsontext.Value
	if err := json.Unmarshal(t.payload, &all); err != nil {
		return "", ErrToken
	}
	var user string
	verified := f.UserClaim != "email"
	if !verified {
		_ = json.Unmarshal(all["email_verified"], &verified) // false if it is not there
	}
	if err := json.Unmarshal(all[f.UserClaim], &user); err != nil || user == "" || !verified {
		return "", fmt.Errorf("%w: it does not name its user by a %s that counts", ErrToken, f.UserClaim)
	}
	return user, nil
}

// findForeign verifies a token of an external issuer.
func (r *Registry) findForeign(ctx context.Context, t *jwt, audience string) (*token, error) {
	f := r.from(t)
	if f == nil {
		return nil, fmt.Errorf("%w: its issuer is none that is accepted", ErrToken)
	}
	now := r.now()
	if err := f.check(ctx, t, now); err != nil {
		return nil, err
	}
	agentID, user, err := f.parties(t)
	if err != nil {
		return nil, err
	}
	keyID, cert, err := t.claims.bound()
	if err != nil {
		return nil, err
	}
	var canonical []string
	for _, a := range t.claims.Audience {
		if c, err := canonicalResource(a); err == nil {
			canonical = append(canonical, c)
		}
	}
	if want, err := canonicalResource(audience); err != nil || !slices.Contains(canonical, want) {
		return nil, ErrAudience
	}
	r.mu.RLock()
	a, err := r.live(agentID)
	var life uint64
	if a != nil {
		life = a.Life
		if err == nil && !a.Ended.IsZero() && (t.claims.IssuedAt == nil || !t.claims.IssuedAt.time().After(a.Ended.Add(skew))) {
			err = ErrRevoked // it may be from before
		}
	}
	r.mu.RUnlock()
	if err != nil {
		return nil, err
	}
	g := Grant{
		Token: sha256.Sum256([]byte(t.compact)), Agent: agentID, Life: life, User: user,
		Expires: t.claims.Expires.time().Add(skew), KeyID: keyID, Cert: cert,
	}
	return r.adopt(ctx, g, f.URL, canonical)
}
