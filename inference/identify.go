package inference

import (
	"context"
	"errors"
	"net/http"
	"slices"
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
// Bearer", "X-Api-Key", "X-Goog-Api-Key" or, for Gemini, the query's "key".
// Several that differ are an error. The token
// stays here: no header of the agent that could carry it reaches a backend. A
// nil v or an empty audience refuses every request.
func IdentifyToken(v Verifier, audience string) func(*http.Request) (audit.Actor, error) {
	return func(r *http.Request) (audit.Actor, error) {
		if v == nil || audience == "" {
			return audit.Actor{}, errors.New("inference: IdentifyToken needs a Verifier and the audience that tokens must have")
		}
		token, err := bearer(r)
		if err != nil {
			return audit.Actor{}, err
		}
		actor, _, err := v.Verify(r.Context(), token, audience)
		return actor, err
	}
}

var errTwoTokens = errors.New("inference: the request carries different tokens, or one of them twice")

func bearer(r *http.Request) (string, error) {
	auths := r.Header.Values("Authorization")
	tokens := slices.Concat(r.Header.Values("X-Api-Key"), r.Header.Values("X-Goog-Api-Key"))
	if classify(r).protocol == Gemini {
		tokens = append(tokens, r.URL.Query()["key"]...)
	}
	if len(auths) > 1 {
		return "", errTwoTokens
	}
	if len(auths) == 1 {
		scheme, rest, ok := strings.Cut(auths[0], " ")
		if !ok || !strings.EqualFold(scheme, "Bearer") {
			return "", audit.ErrNoActor
		}
		tokens = append(tokens, strings.TrimSpace(rest))
	}
	if len(tokens) == 0 || tokens[0] == "" {
		return "", audit.ErrNoActor
	}
	for _, other := range tokens[1:] {
		if other != tokens[0] {
			return "", errTwoTokens
		}
	}
	return tokens[0], nil
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
