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
const maxForm = 8 << 10

// Handler serves the token endpoint, at <issuer>/token, and the issuer's
// metadata (RFC 8414), at /.well-known/oauth-authorization-server followed by
// the issuer's path. It must be served at the issuer's origin.
//
// The token endpoint grants client_credentials (RFC 6749, 4.4) to clients that
// authenticate with client_secret_basic, for exactly one resource (RFC 8707),
// which becomes the token's audience. There are no scopes: what an agent may do
// is decided by policy, when it does it.
func (r *Registry) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch {
		case r.issuer == "":
			fail(w, http.StatusServiceUnavailable, "server_error", "this registry issues no tokens: set Options.Issuer")
		case req.URL.Path == r.path+"/token":
			r.serveToken(w, req)
		case req.URL.Path == "/.well-known/oauth-authorization-server"+r.path:
			r.serveMetadata(w, req)
		default:
			http.NotFound(w, req)
		}
	})
}

func (r *Registry) serveMetadata(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "GET only", http.StatusMethodNotAllowed)
		return
	}
	reply(w, http.StatusOK, map[string]any{
		"issuer":                                r.issuer,
		"token_endpoint":                        r.issuer + "/token",
		"grant_types_supported":                 []string{"client_credentials"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_basic"},
		// Required, though there is no authorization endpoint.
		"response_types_supported": []string{},
		// Of no use without one either, but MCP clients insist on it.
		"code_challenge_methods_supported": []string{"S256"},
	})
}

func (r *Registry) serveToken(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		fail(w, http.StatusMethodNotAllowed, "invalid_request", "POST only")
		return
	}
	form, err := readForm(w, req)
	if err != nil {
		fail(w, http.StatusBadRequest, "invalid_request", err.Error())
		return
	}
	client, err := r.client(req, form)
	if err != nil {
		r.refuse(w, req, err)
		return
	}
	if form.Get("grant_type") != "client_credentials" {
		fail(w, http.StatusBadRequest, "unsupported_grant_type", "grant_type must be client_credentials")
		return
	}
	if form.Get("scope") != "" {
		fail(w, http.StatusBadRequest, "invalid_scope", "there are no scopes here")
		return
	}
	audience := r.resource
	if form.Get("resource") != "" || audience == "" {
		audience, err = canonicalResource(form.Get("resource"))
	}
	if err != nil {
		fail(w, http.StatusBadRequest, "invalid_target", "resource must be the URL of the one endpoint that the token is for: https, or http on a loopback address, without fragment")
		return
	}
	token, err := r.issue(req.Context(), Grant{Agent: client.ID, Life: client.Life, Audience: audience}, map[string]string{})
	var refused *clientError
	switch {
	case errors.Is(err, errTooMany):
		w.Header().Set("Retry-After", "60")
		fail(w, http.StatusTooManyRequests, "slow_down", "too many live tokens: use one until it expires")
	case errors.As(err, &refused):
		r.refuse(w, req, err)
	case err != nil:
		fail(w, http.StatusServiceUnavailable, "temporarily_unavailable", "the token cannot be put on record, so it is not issued")
	default:
		reply(w, http.StatusOK, map[string]any{
			"access_token": token,
			"token_type":   "Bearer",
			"expires_in":   int(r.ttl.Seconds()),
		})
	}
}

// refuse answers a client that is not authenticated, always with the same
// words, and records the true reason. It answers first: what is recorded
// depends on the reason, and the time that takes must not tell.
func (r *Registry) refuse(w http.ResponseWriter, req *http.Request, err error) {
	w.Header().Set("WWW-Authenticate", `Basic realm="token", charset="UTF-8"`)
	fail(w, http.StatusUnauthorized, "invalid_client", "authenticate with client_secret_basic as a registered, live agent")
	_ = http.NewResponseController(w).Flush()

	why := &clientError{guard: audit.GuardToken}
	errors.As(err, &why)
	if ev, first := r.refused.note(why, r.now()); first {
		// The refusal stands whether or not it gets on record, and is recorded
		// whether or not the client still listens.
		_ = r.log.Append(context.WithoutCancel(req.Context()), ev)
	}
}

// client authenticates the request.
func (r *Registry) client(req *http.Request, form url.Values) (Entry, error) {
	id, secret, ok := req.BasicAuth()
	if !ok || len(req.Header.Values("Authorization")) != 1 {
		return Entry{}, &clientError{guard: audit.GuardToken}
	}
	// Both are form-encoded before they are put together (RFC 6749, 2.3.1).
	id, errID := url.QueryUnescape(id)
	secret, errSecret := url.QueryUnescape(secret)
	if errID != nil || errSecret != nil || form.Has("client_id") && form.Get("client_id") != id {
		return Entry{}, &clientError{guard: audit.GuardToken}
	}
	return r.authenticate(id, secret)
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
	if form.Has("client_secret") || form.Has("client_assertion") {
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
