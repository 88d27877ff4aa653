package inference

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// A Verifier checks a short-lived token that was issued for one audience. An
// agentid.Registry implements it.
type Verifier interface {
	Verify(ctx context.Context, token, audience string) (audit.Actor, time.Time, error)
}

// IdentifyToken returns a function for [Options.Identify] that takes the
// agent's token from where model SDKs send their API key: "Authorization:
// Bearer", or "X-Api-Key". Both present and different is an error. The token
// stays here: no header of the agent that could carry it reaches a backend. A
// nil v or an empty audience refuses every request.
func IdentifyToken(v Verifier, audience string) func(*http.Request) (audit.Actor, error) {
	return func(r *http.Request) (audit.Actor, error) {
		if v == nil || audience == "" {
			return audit.Actor{}, errors.New("inference: IdentifyToken needs a Verifier and the audience that tokens must have")
		}
		token, err := bearer(r.Header)
		if err != nil {
			return audit.Actor{}, err
		}
		actor, _, err := v.Verify(r.Context(), token, audience)
		return actor, err
	}
}

var errTwoTokens = errors.New("inference: Authorization and X-Api-Key carry different tokens, or one of them more than one")

func bearer(h http.Header) (string, error) {
	auths, keys := h.Values("Authorization"), h.Values("X-Api-Key")
	if len(auths) > 1 || len(keys) > 1 {
		return "", errTwoTokens
	}
	var token string
	if len(auths) == 1 {
		scheme, rest, ok := strings.Cut(auths[0], " ")
		if !ok || !strings.EqualFold(scheme, "Bearer") {
			return "", audit.ErrNoActor
		}
		token = strings.TrimSpace(rest)
	}
	if len(keys) == 1 {
		if token != "" && token != keys[0] {
			return "", errTwoTokens
		}
		token = keys[0]
	}
	if token == "" {
		return "", audit.ErrNoActor
	}
	return token, nil
}

// identify finds out who is asking. A session's door has attached the actor;
// then the keys that the client sends mean nothing, because SDKs insist on
// sending one.
func (c *call) identify() (audit.Actor, string, error) {
	if actor := audit.ActorFrom(c.req.Context()); !actor.IsZero() {
		return actor, audit.GuardNoActor, actor.Validate()
	}
	if c.opts.Identify == nil {
		return audit.Actor{}, audit.GuardNoActor, audit.ErrNoActor
	}
	actor, err := c.opts.Identify(c.req)
	switch {
	case err == nil:
		return actor, audit.GuardNoActor, actor.Validate()
	case errors.Is(err, audit.ErrNoActor):
		return audit.Actor{}, audit.GuardNoActor, err
	case errors.Is(err, audit.ErrActorConflict):
		return audit.Actor{}, audit.GuardActor, err
	case errors.Is(err, audit.ErrRevoked):
		return audit.Actor{}, audit.GuardRevoked, err
	}
	return audit.Actor{}, audit.GuardToken, err
}
