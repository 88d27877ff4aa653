package oauth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
)

// Grants gets the consent of users: it is the host's http.Handler for the two
// pages that a browser visits on the way, <base>/start and <base>/callback/ with
// the name of the credential. That is the redirect URI to register at its
// authorization server: see [Grants.RedirectURI]. Each has its own, so that no
// server can send users on to another one and be brought the code of that (RFC
// 9700, 4.4).
//
// A server has to say in its metadata that it does PKCE with S256. For one that
// does and does not say so, set the client's endpoints by hand.
//
// Who sits before the browser is for the host to say, by its own session: a
// page that was begun for one user is refused to all others, or a user could be
// led to grant another's agent the use of their account.
//
// A grant is its user's by the name alone ([audit.Actor].User), whoever has named
// the user: so every agentid.Issuer that the host lets name users (Issuer.Users)
// must mean the same person by a name as the host's own session does.
type Grants struct {
	broker *credential.Broker
	base   string
	user   func(*http.Request) (string, error)
	opts   GrantsOptions

	mu      sync.Mutex
	pending map[string]*Consent // by state, until they expire
}

// GrantsOptions are what can be changed about [Grants].
type GrantsOptions struct {
	// Life is how long a user may take. Zero means 10 minutes.
	Life time.Duration
	// Now is the clock. Nil means [time.Now].
	Now func() time.Time
	// Logger hears of consents that failed. Nil means silence.
	Logger *slog.Logger
}

// A Consent is what a user was asked for and has not answered yet.
type Consent struct {
	// URL is the page of the host that the user has to open.
	URL string
	// ID is hard to guess; it names the consent in protocols.
	ID string

	credential string
	issuer     string // whose answer is awaited, whatever the credential is bound to by then
	actor      audit.Actor
	verifier   string
	expires    time.Time
	sent       bool // to the authorization server
	taken      bool // its answer has come, or is too late
	done       chan struct{}
	err        error // before done is closed
}

// Limits of what is pending.
const (
	maxConsents     = 10_000
	maxUserConsents = 16
)

var (
	// ErrConsent is returned when a user has refused, or the consent failed.
	ErrConsent = errors.New("oauth: the user has not consented")
	// ErrTooMany is returned when too many consents are pending.
	ErrTooMany = errors.New("oauth: too many consents are pending")
)

// NewGrants returns a handler whose pages are at base, an absolute URL without
// query. User says who is signed in at the host; it must not be nil.
func NewGrants(broker *credential.Broker, base string, user func(*http.Request) (string, error), opts *GrantsOptions) (*Grants, error) {
	if broker == nil || user == nil {
		return nil, fmt.Errorf("%w: Grants needs a broker and a function that says who is signed in", errConfig)
	}
	if _, err := credential.Origin(base); err != nil || strings.ContainsAny(base, "?#") {
		return nil, fmt.Errorf("%w: the base must be a URL with https and without query", errConfig)
	}
	g := &Grants{broker: broker, base: strings.TrimSuffix(base, "/"), user: user, pending: make(map[string]*Consent)}
	if opts != nil {
		g.opts = *opts
	}
	if g.opts.Life <= 0 {
		g.opts.Life = 10 * time.Minute
	}
	if g.opts.Now == nil {
		g.opts.Now = time.Now
	}
	if g.opts.Logger == nil {
		g.opts.Logger = slog.New(slog.DiscardHandler)
	}
	return g, nil
}

// RedirectURI is what to register at the authorization server of a credential.
func (g *Grants) RedirectURI(credential string) string { return g.base + callback + credential }

const callback = "/callback/"

// Begin asks for the consent of the actor's user. Several may be asked for at
// the same time; one is enough.
func (g *Grants) Begin(ctx context.Context, a audit.Actor, name string) (*Consent, error) {
	if a.User == "" {
		return nil, fmt.Errorf("%w: agent %q acts for no user", credential.ErrNoGrant, a.Agent)
	}
	s, _, err := g.scheme(ctx, name)
	if err != nil {
		return nil, err
	}
	c := &Consent{
		ID: random(), credential: name, issuer: s.Issuer, actor: a, verifier: random(),
		expires: g.opts.Now().Add(g.opts.Life), done: make(chan struct{}),
	}
	c.URL = g.base + "/start?" + url.Values{"state": {c.ID}}.Encode()
	g.mu.Lock()
	defer g.mu.Unlock()
	mine := 0
	for state, old := range g.pending {
		switch {
		case !g.opts.Now().Before(old.expires):
			delete(g.pending, state)
			if !old.taken {
				old.taken, old.err = true, fmt.Errorf("%w: it took too long", ErrConsent)
				close(old.done)
			}
		case old.taken:
			// Of use only to who has not asked yet how it ended.
			if len(g.pending) >= maxConsents {
				delete(g.pending, state)
			}
		case old.actor.User == a.User:
			mine++
		}
	}
	if len(g.pending) >= maxConsents || mine >= maxUserConsents {
		return nil, ErrTooMany
	}
	g.pending[c.ID] = c
	return c, nil
}

// Ask is [Grants.Begin] for doors that hand ids around.
func (g *Grants) Ask(ctx context.Context, a audit.Actor, credential string) (id, url string, err error) {
	c, err := g.Begin(ctx, a, credential)
	if err != nil {
		return "", "", err
	}
	return c.ID, c.URL, nil
}

// Await waits as [Consent.Wait] does for the consent of that id, which must have
// been begun for that very actor. How it ended is remembered for as long as the
// user might have taken, for the browser may be back before the call is.
func (g *Grants) Await(ctx context.Context, a audit.Actor, id string) error {
	g.mu.Lock()
	c := g.pending[id]
	g.mu.Unlock()
	if c == nil || c.actor != a {
		return fmt.Errorf("%w: there is no such page", ErrConsent)
	}
	return c.Wait(ctx)
}

// Wait returns when the user has consented, or an error that matches
// [ErrConsent] when they have not, or the context's.
func (c *Consent) Wait(ctx context.Context) error {
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// random returns 43 characters that nobody can guess (RFC 7636, 4.1).
func random() string {
	b := make([]byte, 32)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

func (g *Grants) scheme(ctx context.Context, name string) (userGrant, credential.Binding, error) {
	b, err := g.broker.Binding(ctx, name)
	if err != nil {
		return userGrant{}, b, err
	}
	s, ok := b.Scheme.(userGrant)
	if !ok {
		return userGrant{}, b, fmt.Errorf("%w: %q is not bound with AuthorizationCode", errConfig, name)
	}
	return s, b, nil
}

// ServeHTTP implements http.Handler.
func (g *Grants) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	switch {
	case r.Method != http.MethodGet:
		say(w, http.StatusMethodNotAllowed, "Open this page in a browser.")
	case g.calledBack(r) != "":
		g.callback(w, r)
	case strings.HasSuffix(r.URL.Path, "/start"):
		g.start(w, r)
	default:
		say(w, http.StatusNotFound, "There is no such page.")
	}
}

// calledBack returns the credential whose redirect URI a request is for, if any.
func (g *Grants) calledBack(r *http.Request) string {
	path := r.URL.Path
	if u, err := url.Parse(g.base); err == nil {
		path = strings.TrimPrefix(path, u.Path) // unless somebody has done that already
	}
	_, name, _ := strings.Cut(path, callback)
	return name
}

func say(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintln(w, text)
}

const stale = "This page has expired or was used already. Ask your agent again."

// of returns the pending consent that a request is about, if the request comes
// from its user, and whether there is one. With take, no request finds it again.
func (g *Grants) of(w http.ResponseWriter, r *http.Request, take bool) (*Consent, bool) {
	states := r.URL.Query()["state"]
	user, err := g.user(r)
	if err != nil || user == "" {
		say(w, http.StatusUnauthorized, "Sign in first, then open this page again.")
		return nil, false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	var c *Consent
	if len(states) == 1 {
		c = g.pending[states[0]]
	}
	switch {
	case c == nil || c.taken || !g.opts.Now().Before(c.expires) || take && !c.sent:
		say(w, http.StatusBadRequest, stale)
		return nil, false
	case user != c.actor.User:
		// Not taken: its user may still come.
		g.opts.Logger.Warn("oauth: a consent page was opened by somebody else", "credential", c.credential, "user", c.actor.User, "opened_by", user)
		say(w, http.StatusForbidden, "This page is for another user. Somebody may want to use your account: do not go on.")
		return nil, false
	}
	if take {
		c.taken = true
	} else {
		c.sent = true
	}
	return c, true
}

// start sends the browser to the authorization server.
func (g *Grants) start(w http.ResponseWriter, r *http.Request) {
	c, ok := g.of(w, r, false)
	if !ok {
		return
	}
	to, err := g.authorize(r.Context(), c)
	if err != nil {
		g.opts.Logger.Error("oauth: a consent cannot be asked for", "credential", c.credential, "error", err)
		say(w, http.StatusBadGateway, "The service cannot be reached now. Try again later.")
		return
	}
	http.Redirect(w, r, to, http.StatusFound)
}

// authorize returns the authorization request (RFC 6749, 4.1.1).
func (g *Grants) authorize(ctx context.Context, c *Consent) (string, error) {
	s, b, m, err := g.server(ctx, c)
	if err != nil {
		return "", err
	}
	if s.TokenEndpoint == "" && !slices.Contains(m.PKCE, "S256") {
		return "", fmt.Errorf("%w: %s does not say that it does PKCE with S256, without which codes can be stolen", ErrResponse, s.Issuer)
	}
	x := g.exchange(b)
	u, err := url.Parse(m.AuthorizationEndpoint)
	if err != nil || m.AuthorizationEndpoint == "" {
		return "", fmt.Errorf("%w: %s has no authorization endpoint", ErrResponse, s.Issuer)
	}
	challenge := sha256.Sum256([]byte(c.verifier))
	q := u.Query()
	for name, v := range map[string]string{
		"response_type": "code", "client_id": s.ID, "redirect_uri": g.RedirectURI(c.credential), "state": c.ID,
		"code_challenge": base64.RawURLEncoding.EncodeToString(challenge[:]), "code_challenge_method": "S256",
		"scope": strings.Join(b.Scopes, " "), "resource": s.resource(x),
	} {
		if v != "" {
			q.Set(name, v)
		}
	}
	u.RawQuery = q.Encode()
	return u.String(), nil
}

// server returns what there is to know of the server that a consent is asked of.
func (g *Grants) server(ctx context.Context, c *Consent) (userGrant, credential.Binding, metadata, error) {
	s, b, err := g.scheme(ctx, c.credential)
	if err != nil {
		return s, b, metadata{}, err
	}
	if s.Issuer != c.issuer {
		return s, b, metadata{}, fmt.Errorf("%w: %q has been bound to another one meanwhile", ErrIssuer, c.credential)
	}
	m, err := s.metadata(ctx, g.exchange(b))
	return s, b, m, err
}

// exchange is enough to find a server.
func (g *Grants) exchange(b credential.Binding) credential.Exchange {
	return credential.Exchange{Origin: b.Origin, Scopes: b.Scopes, Client: g.broker.Client(), Now: g.opts.Now(), Learn: func(credential.Secret) {}}
}

// callback receives the answer of the authorization server.
func (g *Grants) callback(w http.ResponseWriter, r *http.Request) {
	c, ok := g.of(w, r, true)
	if !ok {
		return
	}
	err := g.finish(r, c)
	c.err = err
	close(c.done)
	if err != nil {
		g.opts.Logger.Warn("oauth: a consent failed", "credential", c.credential, "user", c.actor.User, "error", err)
		say(w, http.StatusBadRequest, "Access was not granted. You can close this page.")
		return
	}
	say(w, http.StatusOK, "Access is granted. You can close this page.")
}

func (g *Grants) finish(r *http.Request, c *Consent) error {
	ctx, q := r.Context(), r.URL.Query()
	// Whose answer it is comes first (RFC 9207, 2.4): the code of another
	// server must not be sent anywhere.
	if g.calledBack(r) != c.credential {
		return fmt.Errorf("%w: the answer to the browser came to the redirect URI of %q", ErrIssuer, g.calledBack(r))
	}
	s, _, m, err := g.server(ctx, c)
	if err != nil {
		return err
	}
	if iss := q["iss"]; len(iss) > 1 || len(iss) == 1 && iss[0] != s.Issuer || len(iss) == 0 && m.IssParameter {
		return fmt.Errorf("%w: the answer to the browser names another issuer, or none", ErrIssuer)
	}
	if q.Has("error") {
		code := q.Get("error")
		if len(code) > 64 || strings.Trim(code, "abcdefghijklmnopqrstuvwxyz_") != "" {
			code = "unreadable"
		}
		return fmt.Errorf("%w: %s", ErrConsent, code)
	}
	if len(q["code"]) != 1 || q.Get("code") == "" {
		return fmt.Errorf("%w: the answer has no code", ErrConsent)
	}
	return g.broker.Redeem(ctx, c.credential, c.actor, func(ctx context.Context, x credential.Exchange) (credential.Secret, error) {
		x.Learn(credential.NewSecret([]byte(q.Get("code"))))
		return s.redeem(ctx, x, c.actor.User, q.Get("code"), c.verifier, g.RedirectURI(c.credential))
	}, audit.Change{By: c.actor.User, Reason: "consent for agent " + c.actor.Agent + " at " + s.Issuer})
}
