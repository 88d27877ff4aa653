package agentid

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/twinward-dev/twinward/audit"
)

const (
	assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	// assertionLife bounds for how long an assertion may be good.
	assertionLife = 5 * time.Minute
)

// Ways in which a client authenticates, as in OAuth's metadata.
const (
	methodBasic = "client_secret_basic"
	methodJWT   = "private_key_jwt"
	methodTLS   = "tls_client_auth"
)

// client authenticates the client of a request, in exactly one way.
func (r *Registry) client(req *http.Request, form url.Values) (Entry, string, error) {
	refused := &clientError{guard: audit.GuardToken}
	auth, assertion := req.Header.Values("Authorization"), form.Has("client_assertion") || form.Has("client_assertion_type")
	switch {
	case len(auth) > 1 || len(auth) == 1 && assertion:
		return Entry{}, "", refused
	case assertion:
		e, err := r.byAssertion(req.Context(), form)
		return e, methodJWT, err
	case len(auth) == 0 && req.TLS != nil && form.Get("client_id") != "":
		e, err := r.byCertificate(req, form.Get("client_id"))
		return e, methodTLS, err
	}
	id, secret, ok := req.BasicAuth()
	if !ok {
		return Entry{}, "", refused
	}
	// Both are form-encoded before they are put together (RFC 6749, 2.3.1).
	id, errID := url.QueryUnescape(id)
	secret, errSecret := url.QueryUnescape(secret)
	if errID != nil || errSecret != nil || form.Has("client_id") && form.Get("client_id") != id {
		return Entry{}, "", refused
	}
	e, err := r.authenticate(id, secret)
	return e, methodBasic, err
}

// byAssertion is private_key_jwt (RFC 7523, 2.2): signed with a registered key,
// for this issuer, for a few minutes, once.
func (r *Registry) byAssertion(ctx context.Context, form url.Values) (Entry, error) {
	refused := &clientError{guard: audit.GuardToken}
	t, err := parseJWT(form.Get("client_assertion"))
	if err != nil || form.Get("client_assertion_type") != assertionType {
		return Entry{}, refused
	}
	c := &t.claims
	id := c.Subject
	if c.Issuer != id || form.Has("client_id") && form.Get("client_id") != id {
		return Entry{}, refused
	}
	r.mu.RLock()
	a := r.agents[id]
	var set []byte
	if a != nil {
		set = a.Keys
	}
	r.mu.RUnlock()
	if a == nil {
		return Entry{}, refused
	}
	refused.agent = id
	k, ok := pick(set, t.header.KeyID)
	if !ok || t.verify(k, algorithms) != nil {
		return Entry{}, refused
	}
	switch {
	case t.header.Type != "" && t.header.Type != "JWT" && t.header.Type != "client-authentication+jwt",
		len(c.Audience) != 1 || c.Audience[0] != r.issuer && c.Audience[0] != r.issuer+"/token",
		c.times(r.now(), assertionLife) != nil,
		c.ID == "" || len(c.ID) > 256:
		return Entry{}, refused
	}
	r.mu.RLock()
	e, err := r.admit(a)
	r.mu.RUnlock()
	if err != nil {
		return Entry{}, err
	}
	if r.once(ctx, c.Expires.time().Add(2*skew), "assertion", id, c.ID) != nil {
		return Entry{}, refused
	}
	return e, nil
}

// pick returns the key with an id, or the only one if the id is empty.
func pick(set []byte, kid string) (jose.JSONWebKey, bool) {
	keys, err := parsePublicKeys(set)
	if err != nil {
		return jose.JSONWebKey{}, false
	}
	for _, k := range keys {
		if k.KeyID == kid || kid == "" && len(keys) == 1 {
			return k, true
		}
	}
	return jose.JSONWebKey{}, false
}

// byCertificate is tls_client_auth (RFC 8705, 2.1). The TLS server has verified
// the certificate, or it does not count.
func (r *Registry) byCertificate(req *http.Request, id string) (Entry, error) {
	refused := &clientError{guard: audit.GuardToken}
	r.mu.RLock()
	defer r.mu.RUnlock()
	a := r.agents[id]
	if a == nil {
		return Entry{}, refused
	}
	refused.agent = id
	if a.CertName == "" || len(req.TLS.VerifiedChains) == 0 || len(req.TLS.PeerCertificates) == 0 {
		return Entry{}, refused
	}
	leaf := req.TLS.PeerCertificates[0]
	names := append([]string{}, leaf.DNSNames...)
	for _, u := range leaf.URIs {
		names = append(names, u.String())
	}
	// One name: another could be somebody else's.
	if len(names) != 1 || names[0] != a.CertName {
		return Entry{}, refused
	}
	return r.admit(a)
}
