package agentid

import (
	"errors"
	"net/http"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// own returns a client's own token. Of anybody else's it learns nothing.
func (r *Registry) own(req *http.Request, bearer string, client Entry) *token {
	t, err := r.known(bearer)
	if errors.Is(err, errUnseen) {
		t, err = r.find(req.Context(), bearer, "")
	}
	if err != nil || t.Agent != client.ID || t.issuer != r.issuer {
		return nil
	}
	return t
}

// serveIntrospect tells a client whether its token is good (RFC 7662).
func (r *Registry) serveIntrospect(w http.ResponseWriter, req *http.Request) {
	form, client, _, ok := r.post(w, req)
	if !ok {
		return
	}
	t := r.own(req, form.Get("token"), client)
	if t == nil {
		reply(w, http.StatusOK, map[string]any{"active": false})
		return
	}
	answer := map[string]any{
		"active": true, "iss": r.issuer, "client_id": t.Agent, "sub": t.Agent, "aud": t.Audience, "exp": t.Expires.Unix(), "token_type": "Bearer",
	}
	if t.User != "" {
		answer["sub"] = t.User
	}
	if t.KeyID != "" || t.Cert != "" {
		answer["cnf"] = confirm{KeyID: t.KeyID, Cert: t.Cert}
	}
	if t.KeyID != "" {
		answer["token_type"] = "DPoP"
	}
	reply(w, http.StatusOK, answer)
}

// serveRevoke makes a client's token void, on all hosts (RFC 7009). It ends no
// call that is under way with it: that is what [Registry.Revoke] is for.
func (r *Registry) serveRevoke(w http.ResponseWriter, req *http.Request) {
	form, client, _, ok := r.post(w, req)
	if !ok {
		return
	}
	t := r.own(req, form.Get("token"), client)
	if t == nil { // as if it were gone already
		reply(w, http.StatusOK, map[string]any{})
		return
	}
	d := Dropped{Token: t.Token, Expires: t.Expires}
	r.apply(Changes{Dropped: []Dropped{d}}, time.Time{})
	err := r.store.Drop(req.Context(), d)
	if err == nil {
		err = r.log.Append(req.Context(), audit.Event{
			Kind: audit.KindIdentity, Door: audit.DoorAdmin, Action: "drop_token", Resource: agentResource(t.Agent), Actor: r.actor(t),
		})
	}
	if err != nil {
		r.logger.Error("agentid: a token was made void on this host only, or is not on record", "agent", client.ID, "error", err)
		fail(w, http.StatusServiceUnavailable, "temporarily_unavailable", "repeat the request")
		return
	}
	reply(w, http.StatusOK, map[string]any{})
}
