package agentid

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

const (
	grantExchange   = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeAccessToken = "urn:ietf:params:oauth:token-type:access_token"
	typeJWT         = "urn:ietf:params:oauth:token-type:jwt"
	typeIDToken     = "urn:ietf:params:oauth:token-type:id_token"
)

var errSubject = errors.New("agentid: the subject token is not good for this")

// onBehalf fills in the user of a token exchange (RFC 8693): the client acts for
// the user whom the subject token is of. That is a token of an external issuer's
// user for this registry, or one with which another agent, acting for a user,
// hands that on: a token of this registry whose audience is its own issuer.
func (r *Registry) onBehalf(ctx context.Context, form url.Values, g *Grant) error {
	subject, kind := form.Get("subject_token"), form.Get("subject_token_type")
	requested := form.Get("requested_token_type")
	switch {
	case subject == "" || !slices.Contains([]string{typeAccessToken, typeJWT, typeIDToken}, kind):
		return fmt.Errorf("%w: of no known type", errSubject)
	case requested != "" && requested != typeAccessToken:
		return fmt.Errorf("%w: only access tokens are issued", errSubject)
	case form.Has("actor_token") || form.Has("actor_token_type"):
		return fmt.Errorf("%w: the actor is the client, who has authenticated", errSubject)
	}
	if t, err := parseJWT(subject); err == nil && t.claims.Issuer != r.issuer {
		return r.ofUser(ctx, t, g)
	}
	return r.handedOn(ctx, subject, g)
}

// ofUser takes the user from a token of an external issuer.
func (r *Registry) ofUser(ctx context.Context, t *jwt, g *Grant) error {
	f := r.from(t)
	if f == nil || !f.Users {
		return fmt.Errorf("%w: its issuer is none that is accepted", errSubject)
	}
	if err := f.check(ctx, t, r.now()); err != nil {
		return fmt.Errorf("%w: %w", errSubject, err)
	}
	c := &t.claims
	switch {
	case !slices.Contains(c.Audience, r.issuer) && !slices.Contains(c.Audience, r.issuer+"/token"):
		return fmt.Errorf("%w: it is for another audience", errSubject)
	case c.Confirm != nil:
		return fmt.Errorf("%w: it is bound to somebody else's key", errSubject)
	case c.MayAct != nil && c.MayAct.Subject != g.Agent:
		return fmt.Errorf("%w: another agent may act for its user", errSubject)
	case c.Act != nil || c.Subject == "":
		return fmt.Errorf("%w: it is not one of the user's own", errSubject)
	}
	user, err := f.user(t)
	if err != nil {
		return fmt.Errorf("%w: %w", errSubject, err)
	}
	g.User = user
	g.Expires = c.Expires.time()
	return nil
}

// handedOn takes the user from a token with which another agent acts for them.
func (r *Registry) handedOn(ctx context.Context, subject string, g *Grant) error {
	t, err := r.known(subject)
	if errors.Is(err, errUnseen) {
		t, err = r.find(ctx, subject, r.issuer)
	}
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errSubject, err)
	case t.issuer != r.issuer || t.Audience != r.issuer:
		return fmt.Errorf("%w: it is for another audience", errSubject)
	case t.User == "":
		return fmt.Errorf("%w: its agent acts for no user", errSubject)
	case t.KeyID != "" || t.Cert != "":
		return fmt.Errorf("%w: it is bound to somebody else's key", errSubject)
	case len(t.Chain)+1 >= maxActs:
		return fmt.Errorf("%w: it has been handed on too often", errSubject)
	}
	g.User = t.User
	g.Chain = append([]Link{{t.Agent, t.Life}}, t.Chain...)
	g.Expires = t.Expires
	return nil
}

func chainText(chain []Link) string {
	var names []string
	for _, l := range chain {
		names = append(names, l.Agent)
	}
	return strings.Join(names, " ")
}
