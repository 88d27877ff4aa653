package agentid

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

const (
	tokenPrefix = "agt_"
	tokenLength = len(tokenPrefix) + 43 // 32 bytes in base64url
	// maxTokens is how many live tokens one agent may have.
	maxTokens = 4096
	// maxAsking is how many unknown tokens are asked for at a time, and maxAsk for
	// how long one waits.
	maxAsking, maxAsk = 2, 2 * time.Second
)

var errTooMany = errors.New("agentid: the agent has too many live tokens")

// A clientError is why a client gets no token: for the record, not for the client.
type clientError struct {
	agent string // empty unless registered
	guard string
	what  string // was refused of a client that has proved who it is; empty: that
}

func (e *clientError) Error() string { return "agentid: client refused: " + e.guard }

// A token is what is remembered of one that was issued or seen. It is immutable.
type token struct {
	Grant
	agent  *agent
	chain  []*agent // of Grant.Chain
	issuer string
	// audiences are those of a token that may have several.
	audiences []string
	checked   time.Time // when its signature was verified
}

// recheck is for how long the verdict on an external issuer's signature is good:
// its key may have been withdrawn since, because it was stolen.
const recheck = 10 * time.Minute

// again reports whether the token has to be verified anew for this audience.
func (t *token) again(audience string, now time.Time) bool {
	return t.audiences != nil && (!t.isFor(audience) || now.Sub(t.checked) >= recheck || now.Before(t.checked))
}

// Verify returns the actor that a bearer token of this request stands for, and
// when the token expires. It must be called for each request: a revoked agent's
// token fails at once. The errors are [ErrToken], [ErrExpired], [ErrRevoked],
// [ErrFrozen], [ErrLapsed], [ErrAudience] and [ErrStale].
//
// Audience is the URL of the endpoint that was called, as its operator
// configured it, never as the request says.
func (r *Registry) Verify(ctx context.Context, bearer, audience string) (audit.Actor, time.Time, error) {
	t, err := r.known(bearer)
	if errors.Is(err, errUnseen) || err == nil && t.again(audience, r.now()) {
		t, err = r.find(ctx, bearer, audience)
	}
	if err != nil {
		return audit.Actor{}, time.Time{}, err
	}
	if !t.isFor(audience) {
		return audit.Actor{}, time.Time{}, ErrAudience
	}
	if err := r.prove(ctx, t, bearer, audience); err != nil {
		return audit.Actor{}, time.Time{}, err
	}
	return r.actor(t), t.Expires, nil
}

// isFor reports whether the token was issued for an audience.
func (t *token) isFor(audience string) bool {
	if t.Audience == audience && audience != "" || slices.Contains(t.audiences, audience) {
		return true
	}
	canonical, err := canonicalResource(audience)
	return err == nil && (t.Audience == canonical || slices.Contains(t.audiences, canonical))
}

var errUnseen = errors.New("agentid: this host has not seen the token yet")

// known returns a token that this host has seen and that is good. Any other that
// may be good is errUnseen.
func (r *Registry) known(bearer string) (*token, error) {
	opaque := len(bearer) == tokenLength && strings.HasPrefix(bearer, tokenPrefix)
	if !opaque && (len(bearer) > maxToken || strings.Count(bearer, ".") != 2) {
		return nil, ErrToken
	}
	var buf [1 << 10]byte // most tokens need no more, and then no memory is asked for
	sum := sha256.Sum256(append(buf[:0], bearer...))
	r.mu.RLock()
	defer r.mu.RUnlock()
	t, ok := r.tokens[sum]
	if !ok {
		if err := r.stale(); err != nil {
			return nil, err
		}
		return nil, errUnseen
	}
	return t, r.good(t)
}

// good returns why a token is not good any more, or nil. The caller holds mu.
func (r *Registry) good(t *token) error {
	if err := r.stale(); err != nil {
		return err
	}
	if !r.now().Before(t.Expires) {
		return ErrExpired
	}
	if _, ok := r.dropped[t.Token]; ok {
		return ErrToken
	}
	if err := r.ended(t.agent); err != nil {
		return err
	}
	if t.Life != t.agent.Life {
		return ErrRevoked
	}
	if t.issuer != r.issuer && t.issuer != t.agent.Issuer { // who issued it does not speak for the agent
		return fmt.Errorf("%w: its issuer does not speak for this agent", ErrToken)
	}
	for i, a := range t.chain {
		if r.ended(a) != nil || t.Chain[i].Life != a.Life {
			return fmt.Errorf("%w: %q, through whom the user's authority came", ErrRevoked, a.ID)
		}
	}
	return nil
}

func (r *Registry) actor(t *token) audit.Actor {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return audit.Actor{Agent: t.agent.ID, User: t.User, Issuer: t.issuer, Profile: t.agent.Profile}
}

// find looks for a token that this host has not seen: one that another host has
// issued, or a JWT.
func (r *Registry) find(ctx context.Context, bearer, audience string) (*token, error) {
	if !strings.HasPrefix(bearer, tokenPrefix) {
		t, err := parseJWT(bearer)
		switch {
		case err != nil:
			return nil, err
		case r.issuer != "" && t.claims.Issuer == r.issuer:
			return r.findOwn(ctx, t)
		}
		return r.findForeign(ctx, t, audience)
	}
	if !r.shared {
		return nil, ErrToken
	}
	g, err := r.ask(ctx, sha256.Sum256([]byte(bearer)))
	if err != nil {
		return nil, err
	}
	return r.adopt(ctx, g, r.issuer, nil)
}

// ask gets a token from the store. Anybody can make up tokens that have to be
// asked for, so that only a few questions are put at a time: the store is needed
// for more important ones.
func (r *Registry) ask(ctx context.Context, token Hash) (Grant, error) {
	ctx, cancel := context.WithTimeout(ctx, maxAsk)
	defer cancel()
	select {
	case r.asking <- struct{}{}:
		defer func() { <-r.asking }()
	case <-ctx.Done():
		return Grant{}, fmt.Errorf("agentid: too many unknown tokens at once: %w", ctx.Err())
	}
	g, err := r.store.Grant(ctx, token)
	switch {
	case errors.Is(err, ErrToken):
		return Grant{}, ErrToken
	case err != nil:
		return Grant{}, fmt.Errorf("%w: %w", ErrStale, err)
	}
	return g, nil
}

// adopt remembers a token, unless too many are, and returns it if it is good.
// Whom it names may have been registered on another host a moment ago.
func (r *Registry) adopt(ctx context.Context, g Grant, issuer string, audiences []string) (*token, error) {
	r.mu.Lock()
	t, err := r.remember(g, issuer, audiences)
	r.mu.Unlock()
	if !errors.Is(err, ErrUnknown) || !r.shared {
		return t, err
	}
	if err := r.Sync(ctx); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.remember(g, issuer, audiences)
}

func (r *Registry) remember(g Grant, issuer string, audiences []string) (*token, error) {
	r.forget()
	t := &token{Grant: g, issuer: issuer, audiences: audiences, agent: r.agents[g.Agent], checked: r.now()}
	if t.agent == nil {
		return nil, fmt.Errorf("%w: %q", ErrUnknown, g.Agent)
	}
	for _, l := range g.Chain {
		a := r.agents[l.Agent]
		if a == nil {
			return nil, fmt.Errorf("%w: %q", ErrUnknown, l.Agent)
		}
		t.chain = append(t.chain, a)
	}
	if err := r.good(t); err != nil {
		return nil, err
	}
	if _, again := r.tokens[g.Token]; again {
		r.tokens[g.Token] = t
	} else if t.agent.tokens < maxTokens {
		r.tokens[g.Token] = t
		r.expiry.add(g.Token, g.Expires)
		t.agent.tokens++
	}
	return t, nil
}

// forget forgets expired tokens. The caller holds mu.
func (r *Registry) forget() {
	r.expiry.forget(r.now(), func(h Hash) {
		if t, ok := r.tokens[h]; ok {
			delete(r.tokens, h)
			t.agent.tokens--
		}
	})
}

// authenticate returns the agent behind a client id and secret, as it is now. An
// unknown client takes the same steps as a wrong secret.
func (r *Registry) authenticate(id, secret string) (Entry, error) {
	sum := sha256.Sum256([]byte(secret))
	r.mu.RLock()
	defer r.mu.RUnlock()
	var want Hash
	a, known := r.agents[id]
	if known {
		want = a.Secret
	}
	same := subtle.ConstantTimeCompare(sum[:], want[:]) == 1
	switch {
	case !known:
		return Entry{}, &clientError{guard: audit.GuardToken}
	case !same:
		return Entry{}, &clientError{agent: id, guard: audit.GuardToken}
	}
	return r.admit(a)
}

// admit returns a client that has proved who it is, if it may act. The caller
// holds mu.
func (r *Registry) admit(a *agent) (Entry, error) {
	if r.stale() != nil {
		return Entry{}, &clientError{agent: a.ID, guard: audit.GuardStale}
	}
	if r.ended(a) != nil {
		return Entry{}, &clientError{agent: a.ID, guard: audit.GuardRevoked}
	}
	return a.Entry, nil
}

// issue records, stores and returns a new token, and when it expires: not after
// the agent, or what the grant's user comes from.
func (r *Registry) issue(ctx context.Context, g Grant, detail map[string]string) (string, time.Time, error) {
	if err := r.room(g); err != nil {
		return "", time.Time{}, err
	}
	g.Expires = r.expires(g)
	if !r.now().Before(g.Expires) {
		return "", time.Time{}, &clientError{agent: g.Agent, guard: audit.GuardToken}
	}
	detail["audience"], detail["ttl"] = g.Audience, g.Expires.Sub(r.now()).String()
	err := r.log.Append(ctx, audit.Event{
		Kind: audit.KindIdentity, Door: audit.DoorAdmin, Action: "issue_token", Resource: agentResource(g.Agent),
		Actor:  audit.Actor{Agent: g.Agent, User: g.User, Issuer: r.issuer, Profile: r.profile(g.Agent)},
		Detail: detail,
	})
	if err != nil {
		return "", time.Time{}, err
	}
	var text string
	if r.jwt {
		if text, err = r.sign(ctx, g); err == nil {
			g.Token, g.Expires = sha256.Sum256([]byte(text)), time.Unix(g.Expires.Unix(), 0)
		}
	} else {
		var b []byte
		b, g.Token = newToken(tokenPrefix)
		text, err = string(b), r.store.AddGrant(ctx, g)
	}
	if err != nil {
		return "", time.Time{}, err
	}
	// It may have been revoked while the record was written.
	if _, err := r.adopt(ctx, g, r.issuer, nil); err != nil {
		return "", time.Time{}, &clientError{agent: g.Agent, guard: audit.GuardRevoked}
	}
	return text, g.Expires, nil
}

func (r *Registry) expires(g Grant) time.Time {
	at := r.now().Add(r.ttl)
	if !g.Expires.IsZero() && g.Expires.Before(at) {
		at = g.Expires
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if a := r.agents[g.Agent]; a != nil && !a.Expires.IsZero() && a.Expires.Before(at) {
		return a.Expires
	}
	return at
}

func (r *Registry) profile(agentID string) string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if a := r.agents[agentID]; a != nil {
		return a.Profile
	}
	return ""
}

// room forgets expired tokens and reports whether the agent may have one more.
func (r *Registry) room(g Grant) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forget()
	a := r.agents[g.Agent]
	switch {
	case a == nil || r.ended(a) != nil || a.Life != g.Life:
		return &clientError{agent: g.Agent, guard: audit.GuardRevoked}
	case a.tokens >= maxTokens:
		return errTooMany
	}
	return nil
}
