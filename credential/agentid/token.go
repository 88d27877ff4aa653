package agentid

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"strconv"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

const (
	tokenPrefix = "agt_"
	tokenLength = len(tokenPrefix) + 43 // 32 bytes in base64url
	// maxTokens is how many live tokens one agent may have.
	maxTokens = 4096
)

var errTooMany = errors.New("agentid: the agent has too many live tokens")

// A clientError is why a client was not authenticated: for the record, not for
// the client.
type clientError struct {
	agent string // empty unless registered
	guard string
}

func (e *clientError) Error() string { return "agentid: client refused: " + e.guard }

// A token is what is remembered of one that was issued. It is immutable but
// for dead.
type token struct {
	hash     hash
	agent    *agent
	life     uint64
	audience string
	expires  time.Time
}

// Verify returns the actor that a bearer token of this request stands for, and
// when the token expires. It must be called for each request: a revoked agent's
// token fails at once. The errors are [ErrToken], [ErrExpired], [ErrRevoked]
// and [ErrAudience].
//
// Audience is the URL of the endpoint that was called, as its operator
// configured it, never as the request says.
func (r *Registry) Verify(_ context.Context, bearer, audience string) (audit.Actor, time.Time, error) {
	if len(bearer) != tokenLength || bearer[:len(tokenPrefix)] != tokenPrefix {
		return audit.Actor{}, time.Time{}, ErrToken
	}
	sum := sha256.Sum256([]byte(bearer))
	r.mu.RLock()
	defer r.mu.RUnlock()
	t, ok := r.tokens[sum]
	switch {
	case !ok:
		return audit.Actor{}, time.Time{}, ErrToken
	case !r.now().Before(t.expires):
		return audit.Actor{}, time.Time{}, ErrExpired
	case t.agent.revoked || t.life != t.agent.life:
		return audit.Actor{}, time.Time{}, ErrRevoked
	}
	if t.audience != audience {
		if canonical, err := canonicalResource(audience); err != nil || t.audience != canonical {
			return audit.Actor{}, time.Time{}, ErrAudience
		}
	}
	return audit.Actor{Agent: t.agent.ID, Issuer: r.issuer, Profile: t.agent.Profile}, t.expires, nil
}

// authenticate returns the agent behind a client id and secret, and its life.
// An unknown client takes the same steps as a wrong secret.
func (r *Registry) authenticate(id, secret string) (a *agent, life uint64, err error) {
	sum := sha256.Sum256([]byte(secret))
	r.mu.RLock()
	defer r.mu.RUnlock()
	var want hash
	a, known := r.agents[id]
	if known {
		want = a.secret
	}
	same := subtle.ConstantTimeCompare(sum[:], want[:]) == 1
	switch {
	case !known:
		return nil, 0, &clientError{guard: audit.GuardToken}
	case !same:
		return nil, 0, &clientError{agent: id, guard: audit.GuardToken}
	case a.revoked:
		return nil, 0, &clientError{agent: id, guard: audit.GuardRevoked}
	}
	return a, a.life, nil
}

// issue records and returns a new token for an agent that was authenticated in
// the given life.
func (r *Registry) issue(ctx context.Context, a *agent, life uint64, audience string) (string, error) {
	if err := r.room(a, life); err != nil {
		return "", err
	}
	err := r.log.Append(ctx, audit.Event{
		Kind: audit.KindIdentity, Door: audit.DoorAdmin, Action: "issue_token",
		Resource: "Agent::" + strconv.Quote(a.ID),
		Actor:    audit.Actor{Agent: a.ID, Issuer: r.issuer, Profile: a.Profile},
		Detail:   map[string]string{"audience": audience, "ttl": r.ttl.String()},
	})
	if err != nil {
		return "", err
	}
	text, sum := newToken(tokenPrefix)
	r.mu.Lock()
	defer r.mu.Unlock()
	if a.revoked || a.life != life { // revoked while the record was written
		return "", &clientError{agent: a.ID, guard: audit.GuardRevoked}
	}
	t := &token{hash: sum, agent: a, life: life, audience: audience, expires: r.now().Add(r.ttl)}
	r.tokens[sum] = t
	r.queue = append(r.queue, t)
	a.tokens++
	return string(text), nil
}

// room forgets expired tokens and reports whether the agent may have one more.
func (r *Registry) room(a *agent, life uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, n := r.now(), 0
	// All tokens live equally long, so the oldest expire first.
	for ; n < len(r.queue) && !now.Before(r.queue[n].expires); n++ {
		t := r.queue[n]
		delete(r.tokens, t.hash)
		t.agent.tokens--
		r.queue[n] = nil
	}
	r.queue = r.queue[n:]
	switch {
	case a.revoked || a.life != life:
		return &clientError{agent: a.ID, guard: audit.GuardRevoked}
	case a.tokens >= maxTokens:
		return errTooMany
	}
	return nil
}
