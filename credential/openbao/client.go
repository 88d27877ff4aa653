package openbao

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/twinward-dev/twinward/credential"
)

// maxAnswer is how many bytes of an answer are read: more than the largest
// secret in its most wasteful spelling.
const maxAnswer = 1 << 20

// A client does single requests. It knows nothing of tokens but how to send
// one.
type client struct {
	origin    string
	namespace string
	timeout   time.Duration
	http      *http.Client
}

func newClient(address string, o Options) (*client, error) {
	origin, err := credential.Origin(address)
	if err != nil {
		return nil, err
	}
	c := &client{origin: origin, namespace: o.Namespace, timeout: o.Timeout, http: &http.Client{}}
	if o.HTTP != nil {
		c.http.Transport = o.HTTP.Transport
		c.http.Timeout = o.HTTP.Timeout
	} else {
		c.http.Transport = &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout: 5 * time.Second, IdleConnTimeout: 90 * time.Second,
			MaxIdleConnsPerHost: 8, MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: true,
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		}
	}
	c.http.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		// net/http would take our headers along, and the token is one.
		if to, err := credential.Origin(r.URL.String()); err != nil || to != origin || len(via) > 3 {
			return errRedirect
		}
		return nil
	}
	return c, nil
}

var errRedirect = errors.New("redirect")

// An answer is what came back with a status that the caller knows how to read.
type answer struct {
	status int
	body   []byte // may hold secrets: wipe it
}

func (a *answer) wipe() { clear(a.body) }

// decode reads the body strictly: no duplicate names, no invalid UTF-8, nothing
// behind it. Servers add members from release to release, so unknown ones are
// skipped.
func (a *answer) decode(op string, into any) error {
	if err := json.Unmarshal(a.body, into); err != nil {
		// The decoder's error may quote the body.
		return &Error{Op: op, Status: a.status, kind: ErrAnswer}
	}
	return nil
}

// A call is one request.
type call struct {
	op     string // for errors
	method string
	path   string // below /v1/, escaped by its maker
	body   []byte // nil for none; wiped when it was sent
	accept []int  // statuses that are an answer, besides 200 and 204
}

// do sends one request. The error is an *Error.
func (c *client) do(ctx context.Context, token string, r call) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	defer clear(r.body)
	var body io.Reader
	if r.body != nil {
		body = bytes.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, c.origin+"/v1/"+r.path, body)
	if err != nil {
		return nil, &Error{Op: r.op, kind: ErrAnswer}
	}
	// Agents of the vault demand it, against requests that were forged through
	// somebody else.
	req.Header.Set("X-Vault-Request", "true")
	req.Header.Set("Accept-Encoding", "identity") // nothing that grows when it is unpacked
	if token != "" {
		req.Header.Set("X-Vault-Token", token)
	}
	if c.namespace != "" {
		req.Header.Set("X-Vault-Namespace", c.namespace)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, failed(ctx, r.op, err)
	}
	defer func() { _ = resp.Body.Close() }()
	a := &answer{status: resp.StatusCode}
	if a.body, err = readAll(resp.Body); err != nil {
		a.wipe()
		if errors.Is(err, errTooLong) {
			return nil, &Error{Op: r.op, Status: a.status, kind: ErrAnswer, detail: "too long"}
		}
		return nil, failed(ctx, r.op, err)
	}
	if a.status == http.StatusOK || a.status == http.StatusNoContent {
		return a, nil
	}
	for _, s := range r.accept {
		if a.status == s {
			return a, nil
		}
	}
	defer a.wipe()
	return nil, refused(r.op, a)
}

var errTooLong = errors.New("too long")

// readAll is io.ReadAll with a limit, and without leaving copies behind when it
// grows.
func readAll(r io.Reader) ([]byte, error) {
	b := make([]byte, 0, 4096)
	for {
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case err == io.EOF:
			return b, nil
		case err != nil:
			return b, err
		case len(b) > maxAnswer:
			return b, errTooLong
		case len(b) == cap(b):
			grown := append(make([]byte, 0, 4*cap(b)), b...)
			clear(b)
			b = grown
		}
	}
}

// failed says why there was no answer, in words that cannot hold what the other
// side wrote.
func failed(ctx context.Context, op string, err error) *Error {
	e := &Error{Op: op, kind: ErrUnavailable}
	var dial *net.OpError
	var certificate *tls.CertificateVerificationError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, errRedirect):
		e.kind, e.detail = ErrAnswer, "a redirect to another origin"
	case errors.Is(err, context.Canceled) && ctx.Err() == context.Canceled:
		e.cause, e.detail = context.Canceled, "cancelled"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		e.cause, e.detail = context.DeadlineExceeded, "no answer in time"
	case errors.As(err, &dial) && dial.Op == "dial":
		e.detail = dial.Error() // an address and a word of the system
	case errors.As(err, &certificate):
		e.kind, e.detail = ErrAnswer, "its certificate is not trusted for this name"
	default:
		e.detail = "the connection broke, or it is no HTTP"
	}
	return e
}

// refused turns a status that is no answer into an error.
func refused(op string, a *answer) *Error {
	e := &Error{Op: op, Status: a.status}
	switch {
	case a.status == http.StatusForbidden, a.status == http.StatusUnauthorized:
		e.kind = ErrDenied
	case a.status == http.StatusServiceUnavailable && a.says("is sealed"):
		e.kind = ErrSealed
	case a.status == http.StatusTooManyRequests, a.status >= 500,
		a.status == 412,                  // the token is too new for the replica that was asked
		a.status == 472, a.status == 473: // a standby, asked for its health
		e.kind = ErrUnavailable
	case a.status == http.StatusBadRequest && strings.HasPrefix(op, "login"):
		e.kind = ErrDenied // an unknown role or secret id is a bad request
	case a.status == http.StatusBadRequest:
		e.kind, e.detail = ErrDenied, "a bad request: is a key-value engine of version 2 mounted there?"
	case a.status == http.StatusNotFound:
		e.kind, e.detail = ErrDenied, "nothing there: is a key-value engine of version 2 mounted?"
	default:
		e.kind = ErrAnswer
	}
	return e
}

// says reports whether the server's own errors hold the words.
func (a *answer) says(words string) bool {
	var said struct {
		Errors []string `json:"errors"`
	}
	if json.Unmarshal(a.body, &said) != nil {
		return false
	}
	for _, s := range said.Errors {
		if strings.Contains(s, words) {
			return true
		}
	}
	return false
}
