package credential

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
)

// carried are the headers by which a request could name somebody else than the
// lease does.
var carried = [...]string{"Authorization", "Proxy-Authorization", "Cookie"}

type transport struct {
	lease *Lease
	base  http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	out, err := t.prepare(req, t.lease.secret, t.lease.use)
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close() // as a RoundTripper must, also on errors
		}
		return nil, err
	}
	resp, err := t.base.RoundTrip(out)
	if err == nil && resp.StatusCode == http.StatusUnauthorized {
		resp, err = t.again(req, resp)
	}
	if err != nil {
		return nil, t.lease.clean(err)
	}
	return t.clean(resp, req)
}

// again sends a request that was refused with another secret, if there is one
// and the request can be repeated; else it returns the refusal.
func (t *transport) again(req *http.Request, refusal *http.Response) (*http.Response, error) {
	l := t.lease
	if l.second == nil || l.over() != nil || req.Body != nil && req.Body != http.NoBody && req.GetBody == nil {
		return refusal, nil
	}
	other, err := l.second(req.Context())
	if err != nil || other == nil {
		return refusal, nil // nothing better is to be had
	}
	twin := *req
	if req.GetBody != nil {
		if twin.Body, err = req.GetBody(); err != nil {
			return refusal, nil
		}
	}
	// The lease was for this request: it may have run out meanwhile, but its call
	// must not be over, for then nobody may send anything any more.
	count := func() error {
		err := l.over()
		if err == nil {
			l.uses.Add(1)
		}
		return err
	}
	out, err := t.prepare(&twin, other.Secret, count)
	if err != nil {
		if twin.Body != nil {
			_ = twin.Body.Close()
		}
		return refusal, nil
	}
	_, _ = io.CopyN(io.Discard, refusal.Body, maxRefusal) // so that the connection can be used again
	_ = refusal.Body.Close()
	resp, err := t.base.RoundTrip(out)
	status := 0
	if err == nil {
		status = resp.StatusCode
	}
	if e := other.Done(status); e != nil {
		if resp != nil {
			_ = resp.Body.Close()
		}
		return nil, e
	}
	return resp, err
}

// maxRefusal is how much of a refusal is read to keep its connection.
const maxRefusal = 64 << 10

// prepare returns the copy of req that carries the secret.
func (t *transport) prepare(req *http.Request, secret Secret, use func() error) (*http.Request, error) {
	l := t.lease
	origin, err := originOf(req.URL)
	if err != nil || origin != l.origin {
		return nil, &OriginError{Credential: l.ref.Name, Bound: l.origin, Got: origin}
	}
	if err := use(); err != nil {
		return nil, err
	}
	out := req.Clone(req.Context())
	if out.Header == nil {
		out.Header = make(http.Header)
	}
	out.Host = out.URL.Host // another virtual host is another origin
	for name := range out.Header {
		// Whoever wrote to the map may have spelled them in another way.
		if c := http.CanonicalHeaderKey(name); c == "Accept-Encoding" || slices.Contains(carried[:], c) {
			delete(out.Header, name)
		}
	}
	err = secret.Use(func(b []byte) error { return l.scheme.Apply(out, b) })
	if err != nil {
		l.uses.Add(-1)
		return nil, l.clean(err)
	}
	// A scheme changes headers; where the request goes was checked above.
	if now, err := originOf(out.URL); err != nil || now != l.origin || out.Host != out.URL.Host {
		l.uses.Add(-1)
		return nil, &OriginError{Credential: l.ref.Name, Bound: l.origin, Got: now}
	}
	// Said by us, or net/http would ask for gzip and, when it has undone that, not
	// say which codings are left.
	out.Header.Set("Accept-Encoding", codingFor(req))
	return out, nil
}

// clean removes what a response shows of the secret besides its body.
func (t *transport) clean(resp *http.Response, req *http.Request) (*http.Response, error) {
	if err := decode(resp, codingFor(req)); err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	s := t.lease.Scrubber()
	resp.Request = req // base has set the copy that carries the secret
	status, found := s.Redact([]byte(resp.Status))
	if len(found) > 0 {
		resp.Status = string(status)
	}
	t.lease.note(found)
	resp.Header, found = s.Header(resp.Header)
	t.lease.note(found)
	resp.Trailer, found = s.Header(resp.Trailer)
	t.lease.note(found)
	if resp.StatusCode != http.StatusSwitchingProtocols && resp.Body != nil {
		resp.Body = &trailerBody{resp.Body, resp, t.lease}
	}
	return resp, nil
}

// A trailerBody scrubs the trailers, which arrive with the end of the body.
type trailerBody struct {
	io.ReadCloser
	resp  *http.Response
	lease *Lease
}

func (b *trailerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		var found Found
		b.resp.Trailer, found = b.lease.Scrubber().Header(b.resp.Trailer)
		b.lease.note(found)
		return n, err
	}
	if err != nil {
		err = b.lease.clean(err)
	}
	return n, err
}

// note remembers what the transport took out.
func (l *Lease) note(found Found) {
	if len(found) > 0 {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.found = l.found.Plus(found)
	}
}

// Found returns the secrets that the lease's transports have taken out so far:
// of status lines, headers and trailers. What is in bodies is found by whoever
// reads them. A door reports both: see [LeakPolicy.Report].
func (l *Lease) Found() Found {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.found)
}

// clean returns err scrubbed.
func (l *Lease) clean(err error) error { return l.Scrubber().err(err) }

// Header returns h, or a copy with every known secret replaced if there was
// one, and what was found. A header whose name holds a secret is dropped.
func (s *Scrubber) Header(h http.Header) (http.Header, Found) {
	var found Found
	clean := make(http.Header, len(h))
	for name, values := range h {
		if _, in := s.Redact([]byte(name)); len(in) > 0 {
			found = found.Plus(in)
			continue
		}
		kept := slices.Clone(values)
		for i, v := range values {
			if b, in := s.Redact([]byte(v)); len(in) > 0 {
				kept[i], found = string(b), found.Plus(in)
			}
		}
		clean[name] = kept
	}
	if len(found) == 0 {
		return h, nil
	}
	return clean, found
}

// err returns err, or an error in its place whose text is scrubbed and which
// answers errors.Is as err does, but gives away no part of it.
func (s *Scrubber) err(err error) error {
	clean, found := s.Redact([]byte(err.Error()))
	if len(found) == 0 {
		return err
	}
	var timeout interface{ Timeout() bool }
	return &scrubbedError{
		text:    string(clean),
		is:      func(target error) bool { return errors.Is(err, target) },
		timeout: errors.As(err, &timeout) && timeout.Timeout(),
	}
}

type scrubbedError struct {
	text    string
	is      func(error) bool // a closure: dumpers cannot follow it
	timeout bool
}

func (e *scrubbedError) Error() string        { return e.text }
func (e *scrubbedError) Is(target error) bool { return e.is(target) }
func (e *scrubbedError) Timeout() bool        { return e.timeout }
func (e *scrubbedError) Temporary() bool      { return false }
