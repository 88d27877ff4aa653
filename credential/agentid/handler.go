package agentid

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/twinward-dev/twinward/audit"
)

// maxForm is the largest token request that is read, in bytes.
const maxForm = 48 << 10

// Handler serves, below the issuer's URL, the token endpoint (/token), the
// public keys of JWTs (/jwks), introspection and revocation of a client's own
// tokens (/introspect, RFC 7662, and /revoke, RFC 7009), and the issuer's
// metadata (RFC 8414), at /.well-known/oauth-authorization-server followed by the
// issuer's path. It must be served at the issuer's origin, and, for clients with
// certificates, on the server that terminates TLS.
//
// The token endpoint grants client_credentials (RFC 6749, 4.4), and token
// exchange (RFC 8693) with which an agent acts for a user, to clients that
// authenticate with client_secret_basic, private_key_jwt or tls_client_auth, for
// exactly one resource (RFC 8707), which becomes the token's audience. With a
// DPoP proof the token is bound to its key, with a client certificate to that.
// There are no scopes: what an agent may do is decided by policy, when it does
// it.
func (r *Registry) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch {
		case r.issuer == "":
			fail(w, http.StatusServiceUnavailable, "server_error", "this registry issues no tokens: set Options.Issuer")
		case req.URL.Path == r.path+"/token":
			r.serveToken(w, req)
		case req.URL.Path == r.path+"/introspect":
			r.serveIntrospect(w, req)
		case req.URL.Path == r.path+"/revoke":
			r.serveRevoke(w, req)
		case req.URL.Path == r.path+"/jwks":
			r.serveKeys(w, req)
		case req.URL.Path == "/.well-known/oauth-authorization-server"+r.path:
			r.serveMetadata(w, req)
		default:
			http.NotFound(w, req)
		}
	})
}

func onlyGet(w http.ResponseWriter, req *http.Request) bool {
	if req.Method == http.MethodGet || req.Method == http.MethodHead {
		return true
	}
	w.Header().Set("Allow", "GET, HEAD")
	http.Error(w, "GET only", http.StatusMethodNotAllowed)
	return false
}

func (r *Registry) serveMetadata(w http.ResponseWriter, req *http.Request) {
	if !onlyGet(w, req) {
		return
	}
	methods := []string{methodBasic, methodJWT, methodTLS}
	reply(w, http.StatusOK, map[string]any{
		"issuer":                                r.issuer,
		"token_endpoint":                        r.issuer + "/token",
		"jwks_uri":                              r.issuer + "/jwks",
		"introspection_endpoint":                r.issuer + "/introspect",
		"revocation_endpoint":                   r.issuer + "/revoke",
		"grant_types_supported":                 []string{"client_credentials", grantExchange},
		"token_endpoint_auth_methods_supported": methods,
		"introspection_endpoint_auth_methods_supported":    methods,
		"revocation_endpoint_auth_methods_supported":       methods,
		"token_endpoint_auth_signing_alg_values_supported": algorithms,
		"dpop_signing_alg_values_supported":                algorithms,
		"tls_client_certificate_bound_access_tokens":       true,
		// Required, though there is no authorization endpoint.
		"response_types_supported": []string{},
		// Of no use without one either, but MCP clients insist on it.
		"code_challenge_methods_supported": []string{"S256"},
	})
}

// post reads a form and authenticates who sends it, or answers and returns false.
func (r *Registry) post(w http.ResponseWriter, req *http.Request) (form url.Values, client Entry, method string, ok bool) {
	if req.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		fail(w, http.StatusMethodNotAllowed, "invalid_request", "POST only")
		return nil, Entry{}, "", false
	}
	form, err := readForm(w, req)
	if err != nil {
		fail(w, http.StatusBadRequest, "invalid_request", err.Error())
		return nil, Entry{}, "", false
	}
	client, method, err = r.client(req, form)
	if err != nil {
		r.refuse(w, req, err)
		return nil, Entry{}, "", false
	}
	return form, client, method, true
}

func (r *Registry) serveToken(w http.ResponseWriter, req *http.Request) {
	form, client, method, ok := r.post(w, req)
	if !ok {
		return
	}
	kind := form.Get("grant_type")
	if kind != "client_credentials" && kind != grantExchange {
		fail(w, http.StatusBadRequest, "unsupported_grant_type", "grant_type must be client_credentials, or that of token exchange")
		return
	}
	if form.Get("scope") != "" {
		fail(w, http.StatusBadRequest, "invalid_scope", "there are no scopes here")
		return
	}
	var err error
	audience := r.resource
	if form.Get("resource") != "" || audience == "" {
		audience, err = canonicalResource(form.Get("resource"))
	}
	if err != nil {
		fail(w, http.StatusBadRequest, "invalid_target", "resource must be the URL of the one endpoint that the token is for: https, or http on a loopback address, without fragment")
		return
	}
	g := Grant{Agent: client.ID, Life: client.Life, Audience: audience}
	if kind == grantExchange {
		if err := r.onBehalf(req.Context(), form, &g); err != nil {
			r.logger.Info("agentid: a token exchange was refused", "agent", client.ID, "error", err)
			fail(w, http.StatusBadRequest, "invalid_request", "the subject token is not a good one for this")
			r.noteRefusal(req, &clientError{client.ID, audit.GuardToken, "subject token"})
			return
		}
	}
	detail := map[string]string{"method": method}
	if p := newProof(req); len(p.dpop) > 0 {
		if g.KeyID, err = r.dpop(req.Context(), p, r.issuer+"/token", ""); err != nil {
			fail(w, http.StatusBadRequest, "invalid_dpop_proof", "the DPoP proof is not a good one for this")
			r.noteRefusal(req, &clientError{client.ID, audit.GuardToken, "proof"})
			return
		}
		detail["bound"] = "key " + g.KeyID
	} else if method == methodTLS {
		g.Cert = p.cert
		detail["bound"] = "certificate " + g.Cert
	}
	if len(g.Chain) > 0 {
		detail["chain"] = chainText(g.Chain)
	}
	token, expires, err := r.issue(req.Context(), g, detail)
	var refused *clientError
	switch {
	case errors.Is(err, errTooMany):
		w.Header().Set("Retry-After", "60")
		fail(w, http.StatusTooManyRequests, "slow_down", "too many live tokens: use one until it expires")
		r.noteRefusal(req, &clientError{client.ID, audit.GuardLimit, "one more token"})
	case errors.As(err, &refused):
		r.refuse(w, req, err)
	case err != nil:
		r.logger.Error("agentid: a token cannot be issued", "agent", client.ID, "error", err)
		fail(w, http.StatusServiceUnavailable, "temporarily_unavailable", "the token cannot be put on record or stored, so it is not issued")
	default:
		answer := map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": int(expires.Sub(r.now()).Seconds())}
		if g.KeyID != "" {
			answer["token_type"] = "DPoP"
		}
		if kind == grantExchange {
			answer["issued_token_type"] = typeAccessToken
		}
		reply(w, http.StatusOK, answer)
	}
}

// refuse answers a client that is not authenticated, always with the same
// words, and records the true reason. It answers first: what is recorded
// depends on the reason, and the time that takes must not tell.
func (r *Registry) refuse(w http.ResponseWriter, req *http.Request, err error) {
	w.Header().Set("WWW-Authenticate", `Basic realm="token", charset="UTF-8"`)
	fail(w, http.StatusUnauthorized, "invalid_client", "authenticate in one way, as a registered, live agent")
	_ = http.NewResponseController(w).Flush()

	why := &clientError{guard: audit.GuardToken}
	errors.As(err, &why)
	r.noteRefusal(req, why)
}

// noteRefusal records a refusal, or counts it. It stands whether or not it gets on
// record, and is recorded whether or not the client still listens.
func (r *Registry) noteRefusal(req *http.Request, why *clientError) {
	if ev, first := r.refused.note(why, r.now()); first {
		_ = r.log.Append(context.WithoutCancel(req.Context()), ev)
	}
}

// readForm reads the parameters. Each may be there once (RFC 6749, 3.2), and
// none in the URL, where it would be logged.
func readForm(w http.ResponseWriter, req *http.Request) (url.Values, error) {
	if req.URL.RawQuery != "" {
		return nil, errors.New("parameters belong into the body")
	}
	if kind, _, err := mime.ParseMediaType(req.Header.Get("Content-Type")); err != nil || kind != "application/x-www-form-urlencoded" {
		return nil, errors.New("the body must be application/x-www-form-urlencoded")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxForm))
	if err != nil {
		return nil, errors.New("the body cannot be read or is too large")
	}
	return parseForm(string(body))
}

func parseForm(body string) (url.Values, error) {
	if strings.Count(body, "&") > 32 {
		return nil, errors.New("too many parameters")
	}
	form, err := url.ParseQuery(body)
	if err != nil {
		return nil, errors.New("the body is not a form")
	}
	for _, values := range form {
		if len(values) > 1 {
			return nil, errors.New("a parameter is there twice")
		}
	}
	if form.Has("client_secret") {
		return nil, errors.New("authenticate with client_secret_basic, not in the body")
	}
	return form, nil
}

// fail answers with an error (RFC 6749, 5.2). The description never quotes the
// request.
func fail(w http.ResponseWriter, status int, code, description string) {
	reply(w, status, map[string]any{"error": code, "error_description": description})
}

func reply(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil { // maps of strings and numbers cannot fail
		status, body = http.StatusInternalServerError, []byte(`{"error":"server_error"}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	h.Set("Pragma", "no-cache")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
