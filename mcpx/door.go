package mcpx

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/oauthex"

	"github.com/twinward-dev/twinward/audit"
)

const wellKnown = "/.well-known/oauth-protected-resource"

// ServeHTTP is a sandbox session's own door. Who asks is the actor that the
// session attached to this very request ([audit.WithActor]); without one the
// request is refused. An Authorization header is not looked at and goes no
// further: an agent behind this door needs no credential, and one that it
// brings proves nothing here.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if g.unavailable(w) {
		return
	}
	// The session's network is private, and its addresses may well be loopback
	// ones; the SDK's guard against rebinding would take every name for an attack.
	r = r.WithContext(withoutLocalAddr{r.Context()})
	r.Header = r.Header.Clone()
	r.Header.Del("Authorization")
	g.serve(w, r, audit.ActorFrom(r.Context()), time.Time{})
}

// Handler is the endpoint for agents elsewhere, who present bearer tokens that
// were issued for [GatewayOptions.Resource]. A request without a valid one is
// answered 401 with the place of the protected-resource metadata (RFC 9728),
// which the same handler serves: mount it at the resource's path and at
// "/.well-known/oauth-protected-resource" followed by that path, or at "/".
//
// A stream ends with the token that it was asked for with, and the client comes
// again with another one. A call that has begun goes on.
//
// A request that also comes through a session's door must name the same actor.
func (g *Gateway) Handler(v Verifier) http.Handler {
	meta := auth.ProtectedResourceMetadataHandler(&oauthex.ProtectedResourceMetadata{
		Resource: g.opts.Resource, AuthorizationServers: g.opts.AuthorizationServers,
		BearerMethodsSupported: []string{"header"},
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.unavailable(w) {
			return
		}
		if r.URL.Path == wellKnown || strings.HasPrefix(r.URL.Path, wellKnown+"/") {
			meta.ServeHTTP(w, r)
			return
		}
		if no := checkHeaders(r); no != nil {
			g.turnAway(w, r, audit.Actor{}, no)
			return
		}
		actor, until, no := g.bearer(r, v)
		if no != nil {
			if no.status == http.StatusUnauthorized {
				w.Header().Set("WWW-Authenticate", g.challenge(no.guard))
			}
			g.turnAway(w, r, audit.ActorFrom(r.Context()), no)
			return
		}
		g.serve(w, r, actor, until)
	})
}

// bearer returns the actor of a request with a token, and until when that is good.
func (g *Gateway) bearer(r *http.Request, v Verifier) (audit.Actor, time.Time, *httpRefusal) {
	if v == nil || g.opts.Resource == "" {
		no := deny(http.StatusInternalServerError, audit.GuardToken, "this endpoint is not set up")
		no.detail = "Handler needs a Verifier, and GatewayOptions.Resource must be the endpoint's canonical URL"
		g.gov.logger.Error("mcpx: " + no.detail)
		return audit.Actor{}, time.Time{}, no
	}
	header := r.Header.Get("Authorization")
	if header == "" {
		return audit.Actor{}, time.Time{}, deny(http.StatusUnauthorized, audit.GuardNoActor, "a bearer token is required")
	}
	scheme, token, ok := strings.Cut(header, " ")
	token = strings.TrimSpace(token)
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" || strings.ContainsAny(token, " ,\t") {
		return audit.Actor{}, time.Time{}, deny(http.StatusUnauthorized, audit.GuardToken, "the token is not valid here")
	}
	actor, until, err := v.Verify(r.Context(), token, g.opts.Resource)
	if err != nil {
		guard := audit.GuardToken
		if errors.Is(err, audit.ErrRevoked) {
			guard = audit.GuardRevoked
		}
		no := deny(http.StatusUnauthorized, guard, "the token is not valid here")
		no.detail = strings.ReplaceAll(err.Error(), token, "[token]")
		return audit.Actor{}, time.Time{}, no
	}
	both, err := audit.Reconcile(audit.ActorFrom(r.Context()), actor)
	if err != nil {
		no := deny(http.StatusForbidden, audit.GuardActor, "the token and the session name different agents")
		no.detail = err.Error()
		return audit.Actor{}, time.Time{}, no
	}
	return both, until, nil
}

// challenge is the WWW-Authenticate header of RFC 6750 and RFC 9728. A request
// that brought no token gets no error code.
func (g *Gateway) challenge(guard string) string {
	c := "Bearer "
	if guard != audit.GuardNoActor {
		c += `error="invalid_token", `
	}
	return c + `resource_metadata="` + metadataURL(g.opts.Resource) + `"`
}

// metadataURL is where RFC 9728 §3.1 puts a resource's metadata.
func metadataURL(resource string) string {
	u, err := url.Parse(resource)
	if err != nil {
		return wellKnown
	}
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	return (&url.URL{Scheme: u.Scheme, Host: u.Host}).String() + wellKnown + path
}

// unavailable answers while nothing can be governed.
func (g *Gateway) unavailable(w http.ResponseWriter) bool {
	err := g.gov.broken
	if err == nil && g.closed.Load() {
		err = ErrClosed
	}
	if err == nil {
		return false
	}
	http.Error(w, err.Error(), http.StatusServiceUnavailable)
	return true
}

// withoutLocalAddr hides the address at which a connection was accepted.
type withoutLocalAddr struct{ context.Context }

func (c withoutLocalAddr) Value(key any) any {
	if key == http.LocalAddrContextKey {
		return nil
	}
	return c.Context.Value(key)
}
