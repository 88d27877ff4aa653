package audit

import (
	"context"
	"errors"
	"fmt"
)

// An Actor is who acts: the one identity type of this module.
//
// An Actor is made in two ways only. A session's own door attaches the actor
// that was fixed when the session started ([WithActor]), so that an agent
// inside a sandbox holds no credential at all; or a short-lived token, bound to
// this audience, is verified for this one request. It is never taken from
// client headers, from MCP clientInfo, or from the context of the first request
// of a longer session.
type Actor struct {
	// Agent is the id under which the agent is registered. Required.
	Agent string `json:"agent"`
	// Instance tells apart processes of one agent.
	Instance string `json:"instance,omitempty"`
	// Issuer is who vouches for the agent: a token issuer's URL, or "session"
	// for a sandbox session of this host.
	Issuer string `json:"issuer,omitempty"`
	// Session is the sandbox session, shared by all processes inside it.
	Session string `json:"session,omitempty"`
	// User is the person the agent acts for. When set, both agent and user must
	// be allowed.
	User string `json:"user,omitempty"`
	// Profile is the profile the agent is registered with. It decides nothing:
	// memberships come from the policy bundle, which must agree.
	Profile string `json:"profile,omitempty"`
}

// IsZero reports whether nobody is named.
func (a Actor) IsZero() bool { return a == Actor{} }

// Validate returns an error unless the actor names an agent.
func (a Actor) Validate() error {
	if a.Agent == "" {
		return ErrNoActor
	}
	return nil
}

var (
	// ErrNoActor is returned when an act has nobody behind it.
	ErrNoActor = errors.New("audit: no actor: the request came neither through a session's door nor with a verified token")
	// ErrActorConflict is returned when a session's actor and a token disagree.
	ErrActorConflict = errors.New("audit: the session's actor and the token's actor differ")
	// ErrRevoked is wrapped by the errors of a registry about an actor whose
	// agent was revoked, so that every door records the same [GuardRevoked].
	ErrRevoked = errors.New("the agent has been revoked")
	// ErrFrozen is what [ErrRevoked] is for an agent that is to be looked into: it
	// ends like a revoked one, and a host keeps the workspaces of its sessions. It
	// matches [ErrRevoked].
	ErrFrozen error = frozen{}
)

type frozen struct{}

func (frozen) Error() string        { return "the agent has been frozen: keep what it left behind" }
func (frozen) Is(target error) bool { return target == ErrRevoked }

// Reconcile returns the actor of a request that may have been vouched for by
// the session's door, by a verified token, or by both. Zero means "not present".
// Both present and different in agent, user or profile is [ErrActorConflict];
// both absent is [ErrNoActor].
func Reconcile(session, token Actor) (Actor, error) {
	switch {
	case session.IsZero() && token.IsZero():
		return Actor{}, ErrNoActor
	case session.IsZero():
		return token, token.Validate()
	case token.IsZero():
		return session, session.Validate()
	}
	if session.Agent != token.Agent || session.User != token.User || session.Profile != token.Profile {
		return Actor{}, fmt.Errorf("%w: %q and %q", ErrActorConflict, session.Agent, token.Agent)
	}
	return session, session.Validate()
}

type actorKey struct{}

// WithActor returns a context that carries the actor of the one request the
// context belongs to. Only a session's door may call it.
func WithActor(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// ActorFrom returns the actor that a session's door attached, or the zero Actor.
func ActorFrom(ctx context.Context) Actor {
	a, _ := ctx.Value(actorKey{}).(Actor)
	return a
}
