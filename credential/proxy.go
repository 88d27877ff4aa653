package credential

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"github.com/twinward-dev/twinward/audit"
)

// Proxy returns a handler that serves the API at origin to agents: it puts the
// secret on each request and takes it out of what comes back, so that git, gh
// and npm work where no token is. Serve it inside a sandbox session under the
// API's own name:
//
//	box.Handle("api.github.com", credential.Proxy("https://api.github.com", vault, authorize))
//
// What an agent may do there is the question of authorize, which is asked for
// every request before anything is sent: see [Use].
//
// The request goes to origin with the method, path, query, headers and body
// that authorize has seen, less what could name somebody else or get around
// authorize or the search: Authorization, Cookie, Range and the like, and
// whatever concerns only one connection. Paths with dot segments or a backslash,
// upgrades, CONNECT and TRACE are refused, whatever authorize says of them: it is
// asked all the same, so that they are on record. Bodies stream both ways.
//
// The answer comes without cookies, challenges and advice to go elsewhere. A
// redirect within origin is passed on as a path; any other is refused, for what
// it leads to is another name to serve. 401 becomes 502, because the agent has
// no token that could be wrong. Answers in gzip are asked for and
// decoded; any other coding, and several at once, are refused.
// What is compressed inside the body, such as the objects of a git pack, is not
// searched.
//
// A GET, HEAD or OPTIONS whose connection breaks before an answer may be sent once
// more within the same call (RFC 9110, section 9.2.2): the origin may have seen two
// requests where one is on record. No other method is, unless the agent says by an
// Idempotency-Key that it may be.
//
// An answer of at most 256 KiB whose length is known is held until it is
// searched and its outcome is on record. A longer one streams; if its outcome
// cannot be recorded, or what it held must not go out, it is cut off before its
// end, so that no client takes it for whole.
//
// Answers of the proxy itself are JSON with "code" and "message".
func Proxy(origin string, vault Vault, authorize Authorize) *ProxyHandler {
	p := &ProxyHandler{vault: vault, authorize: authorize}
	p.origin, p.err = bareOrigin(origin)
	if p.err == nil && (vault == nil || authorize == nil) {
		p.err = errors.New("credential: a proxy needs a vault and an authorize")
	}
	return p
}

// An Authorize decides on one request and puts it on record. An error refuses
// the request; its text goes to the logger only. The agent is told 403, or 503
// for an error that wraps [ErrNoAudit]. It must not read the body, unless it puts
// an equal one in its place.
type Authorize func(r *http.Request) (Use, error)

// A Use is one request that was allowed.
type Use struct {
	// Lease is what the vault is asked for: Credential, and Decision to name the
	// permission. An Actor that is zero is the one of the request's context, as a
	// session's door sets it. Origin is the proxy's.
	Lease LeaseRequest
	// End makes the outcome durable before the end of the answer goes out:
	// the End of the [audit.Call] that authorize has begun, and what else is to be
	// done then. It is called once, also when nothing was sent. Required: without
	// it the request is refused.
	End func(context.Context, audit.Outcome) error
	// Event is what a leak is recorded as, without its kind: Door, Action,
	// Resource and Trace. The actor is the lease's.
	Event audit.Event
	// Log is where leaks are recorded. Without it, an answer that holds a secret
	// is withheld.
	Log audit.Recorder
	// Context ends the request early when it is done, such as that of an agent
	// that can be revoked. Nil means that of the request.
	Context context.Context
}

// A ProxyHandler is made by [Proxy]. Its fields may be set before it is used.
type ProxyHandler struct {
	// Transport reaches the origin. Nil means [http.DefaultTransport]. It must
	// not follow redirects.
	Transport http.RoundTripper
	// Leaks says what happens when a secret comes back, besides that it is taken
	// out and recorded.
	Leaks LeakPolicy
	// Logger hears what operators should see. Nil means silence.
	Logger *slog.Logger

	origin    string
	vault     Vault
	authorize Authorize
	err       error
}

// wholeAnswer is how long an answer may be to be held until it is on record.
const wholeAnswer = 256 << 10

// ServeHTTP implements [http.Handler].
func (p *ProxyHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{ProxyHandler: p, w: w, r: r}
	if p.err != nil {
		x.log("the proxy is not set up", p.err)
		x.say(http.StatusInternalServerError, "not-set-up", "This host's proxy is not set up.")
		return
	}
	use, err := p.authorize(r)
	if err == nil && use.End == nil {
		err = fmt.Errorf("%w: Use.End is missing", ErrNoAudit)
	}
	if err != nil {
		x.log("a request is refused", err)
		if errors.Is(err, ErrNoAudit) {
			x.say(http.StatusServiceUnavailable, "no_audit", "The host cannot record this request, so it is not carried out.")
		} else {
			x.say(http.StatusForbidden, "denied", "This request is not allowed.")
		}
		return
	}
	if x.use = use; use.Lease.Actor.IsZero() {
		x.use.Lease.Actor = audit.ActorFrom(r.Context())
	}
	x.use.Lease.Origin = p.origin
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	if use.Context != nil {
		defer context.AfterFunc(use.Context, cancel)()
	}
	defer x.panicked()
	if no := refusalOf(r); no != nil {
		x.refuse(*no)
		return
	}
	x.serve(ctx)
}

// An exchange is one request on its way.
type exchange struct {
	*ProxyHandler
	w     http.ResponseWriter
	r     *http.Request
	use   Use
	lease *Lease
	out   audit.Outcome
	ended bool
}

// panicked makes durable how a request ended whose vault, scheme or transport
// has panicked, and lets the panic go on.
func (x *exchange) panicked() {
	p := recover()
	if p == nil {
		return
	}
	if !x.ended {
		x.out.Status, x.out.ErrorCode = audit.StatusFailed, audit.GuardPanic
		if err := x.end(nil); err != nil {
			x.log("an outcome could not be recorded", err)
		}
	}
	if p != http.ErrAbortHandler {
		// Whoever prints it must not print a secret.
		x.log("a request has panicked", fmt.Errorf("%T", p))
		p = http.ErrAbortHandler
	}
	panic(p)
}

func (x *exchange) serve(ctx context.Context) {
	lease, err := x.vault.Lease(ctx, x.use.Lease)
	if err != nil || lease == nil {
		x.log("no lease", err)
		x.fail(audit.GuardCredential, "The host has no usable credential for this.")
		return
	}
	defer lease.Release()
	x.lease = lease
	x.out.CredentialVersion = lease.Ref().Version
	out, err := x.request(ctx)
	if err != nil {
		x.cancelled()
		return
	}
	resp, err := lease.Transport(x.Transport).RoundTrip(out)
	switch {
	case err != nil && ctx.Err() != nil:
		x.cancelled()
	case errors.Is(err, ErrCoding):
		x.fail("upstream-encoding", "The server encoded its answer so that it cannot be searched.")
	case err != nil:
		x.log("no answer", err)
		x.fail("upstream-down", "The server cannot be reached now.")
	default:
		defer resp.Body.Close()
		x.answer(ctx, resp)
	}
}

// answer passes the origin's answer on.
func (x *exchange) answer(ctx context.Context, resp *http.Response) {
	header := without(resp.Header, answerHeaders)
	switch status := resp.StatusCode; {
	case status == http.StatusUnauthorized, status == http.StatusProxyAuthRequired:
		x.fail("upstream-unauthorized", "The server does not accept this host's credential. An operator has to renew it.")
		return
	case status < 200: // what is only announced net/http keeps, so this is no answer
		x.fail("upstream-broken", "The server speaks another protocol.")
		return
	case status >= 300 && status < 400 && len(header.Values("Location")) > 0:
		to, err := resp.Request.URL.Parse(header.Get("Location"))
		if err == nil {
			var origin string
			if origin, err = originOf(to); err == nil && origin != x.origin {
				err = ErrOrigin
			}
		}
		if err != nil {
			x.fail("upstream-redirect", "The server points elsewhere, and redirects to another server are not passed on.")
			return
		}
		if to.Path == "" {
			to.Path = "/" // an empty reference would be the page itself
		}
		if strings.HasPrefix(to.EscapedPath(), "//") {
			x.fail("upstream-redirect", "The server points to a path that clients would take for the name of another server.")
			return
		}
		to.Scheme, to.Host = "", ""
		header.Set("Location", to.String())
	}
	if x.out.Status = audit.StatusOK; resp.StatusCode >= 400 {
		x.out.Status, x.out.ErrorCode = audit.StatusFailed, "upstream-"+strconv.Itoa(resp.StatusCode)
	}
	body := x.lease.Scrubber().Reader(resp.Body)
	if x.r.Method == http.MethodHead || resp.ContentLength >= 0 && resp.ContentLength <= wholeAnswer {
		x.whole(ctx, resp, header, body)
	} else {
		x.stream(ctx, resp, header, body)
	}
}

// whole passes an answer on once its outcome is on record.
func (x *exchange) whole(ctx context.Context, resp *http.Response, header http.Header, body *ScrubReader) {
	b, err := io.ReadAll(body)
	switch {
	case err != nil && ctx.Err() != nil:
		x.cancelled()
		return
	case err != nil:
		x.log("the answer broke off", x.lease.clean(err))
		x.fail("upstream-broken", "The server's answer broke off. The request may have been carried out.")
		return
	}
	x.out.Bytes = int64(len(b))
	if err := x.end(body.Found()); err != nil {
		x.withheld(err)
		return
	}
	header.Del("Content-Length")
	if x.r.Method == http.MethodHead {
		if n := resp.ContentLength; n >= 0 {
			header.Set("Content-Length", strconv.FormatInt(n, 10))
		}
	} else if resp.StatusCode != http.StatusNoContent && resp.StatusCode != http.StatusNotModified {
		header.Set("Content-Length", strconv.Itoa(len(b)))
	}
	copyHeader(x.w.Header(), header)
	x.w.WriteHeader(resp.StatusCode)
	_, _ = x.w.Write(b)
}

// stream passes an answer on as it comes. It ends for the client only when its
// outcome is on record.
func (x *exchange) stream(ctx context.Context, resp *http.Response, header http.Header, body *ScrubReader) {
	if found := x.lease.Found(); x.Leaks.Block && len(found) > 0 {
		x.withheld(x.end(nil))
		return
	}
	header.Del("Content-Length") // of the text before it was searched
	copyHeader(x.w.Header(), header)
	x.w.WriteHeader(resp.StatusCode)
	flush := http.NewResponseController(x.w).Flush
	_ = flush()
	buf := make([]byte, 32<<10)
	for {
		n, err := body.Read(buf)
		if x.Leaks.Block && len(body.Found()) > 0 {
			x.abort(body, audit.StatusFailed, "withheld")
		}
		if n > 0 {
			if _, werr := x.w.Write(buf[:n]); werr != nil {
				x.abort(body, audit.StatusCancelled, "cancelled")
			}
			x.out.Bytes += int64(n)
			_ = flush()
		}
		switch {
		case err == io.EOF:
			if err := x.end(body.Found()); err != nil {
				x.log("an answer is cut off", err)
				panic(http.ErrAbortHandler)
			}
			x.trailer(resp)
			return
		case err != nil && ctx.Err() != nil:
			x.abort(body, audit.StatusCancelled, "cancelled")
		case err != nil:
			x.log("the answer broke off", x.lease.clean(err))
			x.abort(body, audit.StatusFailed, "upstream-broken")
		}
	}
}

// trailer passes on the trailers, which are there once the body was read.
func (x *exchange) trailer(resp *http.Response) {
	for name, values := range without(resp.Trailer, answerHeaders) {
		for _, v := range values {
			x.w.Header().Add(http.TrailerPrefix+name, v)
		}
	}
}

func copyHeader(to, from http.Header) {
	for name, values := range from {
		to[name] = values
	}
}

// end makes durable what was found and then the outcome, once. On an error the
// answer, or its end, must not go out.
func (x *exchange) end(found Found) error {
	if x.ended {
		return nil
	}
	x.ended = true
	var leak error
	if x.lease != nil {
		at := x.use.Event
		at.Actor = x.use.Lease.Actor
		head := x.lease.Found()
		leak = errors.Join(
			x.Leaks.Report(x.r.Context(), x.use.Log, at, "headers", head),
			x.Leaks.Report(x.r.Context(), x.use.Log, at, "body", found))
		x.out.Checks = head.Plus(found).Checks()
	}
	if errors.Is(leak, ErrLeak) {
		x.out.Status, x.out.ErrorCode = audit.StatusFailed, "withheld"
	}
	return errors.Join(leak, x.use.End(context.WithoutCancel(x.r.Context()), x.out))
}

// fail ends a request that has no answer to pass on.
func (x *exchange) fail(code, message string) {
	x.refuse(refusal{code, http.StatusBadGateway, code, message})
}

// refuse ends a request with an answer of the proxy's own.
func (x *exchange) refuse(no refusal) {
	x.out.Status, x.out.ErrorCode = audit.StatusFailed, no.guard
	if err := x.end(nil); err != nil {
		x.withheld(err)
		return
	}
	x.say(no.status, no.code, no.message)
}

// withheld answers in place of what end refused to let out.
func (x *exchange) withheld(err error) {
	x.log("an answer is withheld", err)
	if errors.Is(err, ErrLeak) {
		x.say(http.StatusBadGateway, "withheld", "The answer held a secret of this host, so it is withheld.")
		return
	}
	x.say(http.StatusServiceUnavailable, "no_audit", "The host cannot record the outcome, so the answer is withheld.")
}

// cancelled ends a request whose agent has left or was revoked.
func (x *exchange) cancelled() {
	x.out.Status, x.out.ErrorCode = audit.StatusCancelled, "cancelled"
	if err := x.end(nil); err != nil {
		x.log("an outcome could not be recorded", err)
	}
	panic(http.ErrAbortHandler)
}

// abort cuts off an answer of which a part has gone out.
func (x *exchange) abort(body *ScrubReader, status audit.Status, code string) {
	x.out.Status, x.out.ErrorCode = status, code
	if err := x.end(body.Found()); err != nil {
		x.log("an answer is cut off", err)
	}
	panic(http.ErrAbortHandler)
}

// say answers for the proxy itself.
func (x *exchange) say(status int, code, message string) {
	b, _ := json.Marshal(map[string]string{"code": code, "message": message})
	x.w.Header().Set("Content-Type", "application/json")
	x.w.Header().Set("Cache-Control", "no-store")
	x.w.WriteHeader(status)
	fmt.Fprintf(x.w, "%s\n", b)
}

func (x *exchange) log(what string, err error) {
	if x.Logger != nil {
		x.Logger.Warn("credential: proxy: "+what, slog.String("origin", x.origin), slog.String("method", x.r.Method), slog.Any("error", err))
	}
}
