package mcpx

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
)

// Tokens returns the lease of a token that stands for the actor at a gateway
// elsewhere: short-lived, and issued for that gateway and nothing else. Bind what
// it is traded for to the gateway's origin, with a scheme of credential/oauth
// such as ClientCredentials or TokenExchange and the gateway's URL as the
// resource; the vault then renews tokens, and trades for a new one at once when
// the gateway refuses the old one:
//
//	func(ctx context.Context, a audit.Actor) (*credential.Lease, error) {
//		return vault.Lease(ctx, credential.LeaseRequest{Actor: a, Credential: a.Agent, Origin: "https://tools.example.com", Purpose: "gateway"})
//	}
//
// An error refuses the request; its text goes to the logger only.
type Tokens func(ctx context.Context, a audit.Actor) (*credential.Lease, error)

// Remote is the door of a sandbox session to a [Gateway] that somebody serves
// elsewhere with [Gateway.Handler]:
//
//	box.Handle("tools.local", mcpx.Remote("https://tools.example.com/mcp", tokens))
//
// Who asks is the actor that the session attached to this very request. The
// token is put on the request here, outside the session, and goes to that URL
// alone. The URL must be https, or http on a loopback address.
//
// Of what the agent sends, the body goes on as it is, with the headers that the
// protocol has and nothing else: no Authorization, no cookie, no claim about whom
// it was forwarded for. Of the answer, the same holds the other way, and it
// streams. A redirect is refused. 401 becomes 502, for the agent has no token
// that could be wrong. An answer that breaks off is cut off, so that no client
// takes it for whole.
//
// Calls are decided and recorded by the gateway, as the agent's.
func Remote(endpoint string, tokens Tokens) *RemoteHandler {
	h := &RemoteHandler{tokens: tokens, url: &url.URL{}}
	u, err := url.Parse(endpoint)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "":
		h.err = errors.New("mcpx: the URL of the gateway must be absolute")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		h.err = errors.New("mcpx: the URL of the gateway must have no password, query or fragment")
	case u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Host)):
		h.err = errors.New("mcpx: the URL of the gateway must be https, or a token could be read on the way")
	case tokens == nil:
		h.err = errors.New("mcpx: Remote needs tokens")
	}
	if h.err == nil {
		h.url = u
	}
	return h
}

// A RemoteHandler is made by [Remote]. Its fields may be set before it is used.
type RemoteHandler struct {
	// Transport reaches the gateway. Nil means [http.DefaultTransport]. It must not
	// follow redirects.
	Transport http.RoundTripper
	// Logger hears what operators should see. Nil discards it.
	Logger *slog.Logger

	url    *url.URL
	tokens Tokens
	err    error
}

// replayable is how long a body may be to be kept, so that it can be sent again
// with a new token.
const replayable = 64 << 10

// remoteHeaders are those that the protocol and its traces have, besides those
// that begin with Mcp-Param-.
var remoteHeaders = []string{
	"Accept", "Allow", "Cache-Control", "Content-Type", "Last-Event-Id", "Retry-After",
	headerVersion, headerMethod, headerName, sessionHeader, "Traceparent", "Tracestate",
}

// ServeHTTP implements [http.Handler].
func (h *RemoteHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.err != nil {
		h.log("the door to the gateway is not set up", h.err)
		sayRemote(w, http.StatusInternalServerError, "not-set-up", "This host's door to the tools is not set up.")
		return
	}
	actor := audit.ActorFrom(r.Context())
	if actor.Validate() != nil {
		sayRemote(w, http.StatusUnauthorized, audit.GuardNoActor, "Nobody vouches for this request.")
		return
	}
	r = r.WithContext(withoutLocalAddr{r.Context()}) // as for a gateway in this process
	if no := checkHeaders(r); no != nil {
		sayRemote(w, no.status, no.guard, no.text)
		return
	}
	switch r.Method {
	case http.MethodPost, http.MethodGet, http.MethodDelete:
	default:
		w.Header().Set("Allow", "GET, POST, DELETE")
		sayRemote(w, http.StatusMethodNotAllowed, audit.GuardMethod, "Method Not Allowed")
		return
	}
	if r.Header.Get("Content-Encoding") != "" {
		sayRemote(w, http.StatusUnsupportedMediaType, audit.GuardMedia, "Content-Encoding is not accepted")
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	lease, err := h.lease(ctx, actor)
	if err != nil {
		h.log("no token", err)
		sayRemote(w, http.StatusBadGateway, audit.GuardCredential, "The host has no usable token for the gateway.")
		return
	}
	defer lease.Release()
	out, err := h.request(ctx, w, r)
	if err != nil {
		sayRemote(w, http.StatusBadRequest, audit.GuardMedia, "The request body could not be read, or exceeds 4 MiB.")
		return
	}
	base := h.Transport
	if base == nil {
		base = http.DefaultTransport
	}
	resp, err := lease.Transport(base).RoundTrip(out)
	var large *http.MaxBytesError
	switch {
	case r.Context().Err() != nil:
		if err == nil {
			resp.Body.Close()
		}
		panic(http.ErrAbortHandler) // nobody is left to answer
	case errors.As(err, &large):
		sayRemote(w, http.StatusRequestEntityTooLarge, audit.GuardSize, "the request body exceeds 4 MiB")
	case err != nil:
		h.log("no answer", err)
		sayRemote(w, http.StatusBadGateway, "upstream-down", "The gateway cannot be reached now.")
	default:
		defer resp.Body.Close()
		h.answer(w, lease, resp)
	}
}

// lease asks the host's code for the token.
func (h *RemoteHandler) lease(ctx context.Context, actor audit.Actor) (lease *credential.Lease, err error) {
	defer func() {
		if p := recover(); p != nil {
			lease, err = nil, fmt.Errorf("mcpx: panic while a token was had: %T", p)
		}
	}()
	if lease, err = h.tokens(ctx, actor); err == nil && lease == nil {
		err = errNoLease
	}
	return lease, err
}

// request makes the request to the gateway.
func (h *RemoteHandler) request(ctx context.Context, w http.ResponseWriter, r *http.Request) (*http.Request, error) {
	out := (&http.Request{Method: r.Method, URL: h.url, Header: protocolHeaders(r.Header), Body: http.NoBody, ContentLength: r.ContentLength}).WithContext(ctx)
	switch body := http.MaxBytesReader(w, r.Body, maxBody); {
	case r.ContentLength == 0:
	case r.ContentLength > 0 && r.ContentLength <= replayable:
		b, err := io.ReadAll(body)
		if err != nil {
			return nil, err
		}
		out.Body = io.NopCloser(bytes.NewReader(b))
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
	default:
		out.Body = body
	}
	return out, nil
}

// protocolHeaders returns a copy of what may pass.
func protocolHeaders(h http.Header) http.Header {
	out := make(http.Header)
	for name, values := range h {
		if slices.Contains(remoteHeaders, name) || strings.HasPrefix(name, "Mcp-Param-") {
			out[name] = slices.Clone(values)
		}
	}
	return out
}

// answer passes the gateway's answer on as it comes.
func (h *RemoteHandler) answer(w http.ResponseWriter, lease *credential.Lease, resp *http.Response) {
	switch status := resp.StatusCode; {
	case status == http.StatusUnauthorized, status == http.StatusProxyAuthRequired:
		h.log("the gateway does not accept the token", fmt.Errorf("status %d", status))
		sayRemote(w, http.StatusBadGateway, "upstream-unauthorized", "The gateway does not accept this host's token. An operator has to look.")
		return
	case status < 200 || status >= 300 && status < 400:
		h.log("the gateway points elsewhere", fmt.Errorf("status %d", status))
		sayRemote(w, http.StatusBadGateway, "upstream-redirect", "The gateway points elsewhere, and redirects are not followed.")
		return
	}
	for name, values := range protocolHeaders(resp.Header) {
		w.Header()[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	flush := http.NewResponseController(w).Flush
	_ = flush()
	body := lease.Scrubber().Reader(resp.Body) // a token that comes back goes no further
	buf := make([]byte, 32<<10)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				panic(http.ErrAbortHandler)
			}
			_ = flush()
		}
		switch {
		case err == io.EOF:
			return
		case err != nil:
			h.log("the answer broke off", err)
			panic(http.ErrAbortHandler)
		}
	}
}

// sayRemote answers for the door itself.
func sayRemote(w http.ResponseWriter, status int, code, text string) {
	b, _ := json.Marshal(map[string]string{"code": code, "message": text})
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	fmt.Fprintf(w, "%s\n", b)
}

func (h *RemoteHandler) log(what string, err error) {
	if h.Logger != nil {
		h.Logger.Warn("mcpx: remote: "+what, "gateway", h.url.Redacted(), "error", err)
	}
}
