package credential

import (
	"errors"
	"io"
	"net/http"
	"strings"
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
		return nil, t.lease.Scrubber().err(err)
	}
	return t.clean(resp, req)
}

// again sends a request that was refused with another secret, if there is one
// and the request can be repeated; else it returns the refusal.
func (t *transport) again(req *http.Request, refusal *http.Response) (*http.Response, error) {
	l := t.lease
	if l.second == nil || req.Body != nil && req.Body != http.NoBody && req.GetBody == nil {
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
	count := func() error { l.uses.Add(1); return nil } // the lease was for this request
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
	for _, name := range carried {
		out.Header.Del(name)
	}
	out.Header.Del("Accept-Encoding")
	err = secret.Use(func(b []byte) error { return l.scheme.Apply(out, b) })
	if err != nil {
		return nil, l.Scrubber().err(err)
	}
	// A scheme changes headers; where the request goes was checked above.
	if now, err := originOf(out.URL); err != nil || now != l.origin || out.Host != out.URL.Host {
		return nil, &OriginError{Credential: l.ref.Name, Bound: l.origin, Got: now}
	}
	return out, nil
}

// clean removes what a response shows of the secret besides its body.
func (t *transport) clean(resp *http.Response, req *http.Request) (*http.Response, error) {
	if coding := resp.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		_ = resp.Body.Close()
		return nil, ErrCoding
	}
	s := t.lease.Scrubber()
	resp.Request = req // base has set the copy that carries the secret
	resp.Status = s.text(resp.Status)
	resp.Header = s.header(resp.Header)
	resp.Trailer = s.header(resp.Trailer)
	if resp.StatusCode != http.StatusSwitchingProtocols && resp.Body != nil {
		resp.Body = &trailerBody{ReadCloser: resp.Body, resp: resp, scrubber: s}
	}
	return resp, nil
}

// A trailerBody scrubs the trailers, which arrive with the end of the body.
type trailerBody struct {
	io.ReadCloser
	resp     *http.Response
	scrubber *Scrubber
}

func (b *trailerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.resp.Trailer = b.scrubber.header(b.resp.Trailer)
		return n, err
	}
	if err != nil {
		err = b.scrubber.err(err)
	}
	return n, err
}

func (s *Scrubber) text(v string) string {
	clean, found := s.Redact([]byte(v))
	if len(found) == 0 {
		return v
	}
	return string(clean)
}

// header returns h, or a scrubbed copy if a secret was in it. A header whose
// name is a secret is dropped.
func (s *Scrubber) header(h http.Header) http.Header {
	dirty := false
	clean := make(http.Header, len(h))
	for name, values := range h {
		if s.text(name) != name {
			dirty = true
			continue
		}
		kept := make([]string, len(values))
		for i, v := range values {
			kept[i] = s.text(v)
			dirty = dirty || kept[i] != v
		}
		clean[name] = kept
	}
	if !dirty {
		return h
	}
	return clean
}

// err returns err, or an error in its place whose text is scrubbed and which
// answers errors.Is as err does, but gives away no part of it.
func (s *Scrubber) err(err error) error {
	text := err.Error()
	clean := s.text(text)
	if clean == text {
		return err
	}
	var timeout interface{ Timeout() bool }
	return &scrubbedError{
		text:    clean,
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
