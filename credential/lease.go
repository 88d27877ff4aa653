package credential

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// A Lease is the permission to use one version of one secret for one call, on
// one origin. It is safe for concurrent use. [Lease.Release] it when the call
// is over. It ends for good with the first of these, and every further use is
// refused with the error; what is on its way is not cut off:
//
//	Release                                             ErrReleased
//	the context of the call is done                     ErrReleased, and its cause
//	its time is over, or that of the token it carries   ErrExpired
//	its uses are spent                                  ErrExpired
//	the version of the secret is revoked, by whomever,  ErrRevoked
//	or is gone, or two newer ones were promoted
//	what its token was traded for is: the version of    ErrRevoked
//	the secret, or of the client's, or the user's grant
//	was withdrawn
//
// What others did is known when the broker learns of it: see [Broker]. A new
// version alone, a renewed token, a rotated grant and a new binding end no lease.
type Lease struct {
	ref      Ref
	secret   Secret
	origin   string
	scheme   Scheme
	scrubber func() *Scrubber
	now      func() time.Time
	expires  time.Time   // zero: never
	maxUses  int64       // zero: any number
	revoked  func() bool // may be nil
	grant    Ref
	ctx      context.Context // of the call that the lease is for
	second   Second          // may be nil
	released atomic.Bool
	uses     atomic.Int64
	mu       sync.Mutex
	found    Found
}

// LeaseOptions are what a vault may add to a lease.
type LeaseOptions struct {
	// Scrubber is what [Lease.Scrubber] returns; it must know the secret. Nil
	// means one that knows this secret and no other.
	Scrubber *Scrubber
	// Context ends the lease when it is done. Nil means that nothing but its
	// time does.
	Context context.Context
	// Expires is when the lease cannot be used any more. Zero means never.
	Expires time.Time
	// Now is the clock for Expires. Nil means [time.Now].
	Now func() time.Time
	// Revoked is asked before each use whether what the lease carries, or what
	// that was traded for, has been revoked. Nil means that it never is.
	Revoked func() bool
	// Grant is what [Lease.Grant] returns.
	Grant Ref
	// Second says what to try when the origin refuses the secret. Nil means
	// nothing.
	Second Second
}

// A Second is asked for another secret when an origin has answered 401 to a
// request that can be sent again: for the other version that is live while a
// secret is rotated, or for a new token. It is asked once for each request, and
// what it returns is tried once. Nil means that there is nothing to try.
type Second func(ctx context.Context) (*Other, error)

// An Other is a secret to try in place of one that was refused.
type Other struct {
	// Secret must be known to the scrubber already.
	Secret Secret
	// Done is told the status of the answer, 0 if there was none. If it returns
	// an error, the answer is withheld.
	Done func(status int) error
}

// NewLease is how a [Vault] makes the lease that r asks for, out of the secret
// it found and its binding. It holds the checks that no vault may forget: r
// names an actor, the binding has an origin ([ErrUnbound]), that origin is the
// one which r asks for ([ErrOrigin]), and the secret can be scrubbed
// ([ErrLength]) and is no canary ([ErrCanary]).
func NewLease(r LeaseRequest, ref Ref, s Secret, b Binding, opts *LeaseOptions) (*Lease, error) {
	if err := r.Actor.Validate(); err != nil {
		return nil, fmt.Errorf("credential: lease of %q: %w", ref.Name, err)
	}
	if ref.Canary() {
		return nil, fmt.Errorf("%w: %q", ErrCanary, ref.Name)
	}
	if b.Origin == "" {
		return nil, fmt.Errorf("%w: %q", ErrUnbound, ref.Name)
	}
	bound, err := bareOrigin(b.Origin)
	if err != nil {
		return nil, fmt.Errorf("binding of %q: %w", ref.Name, err)
	}
	asked := bound
	if r.Origin != b.Origin { // the usual case is worth the line: parsing is most of a lease
		asked, err = bareOrigin(r.Origin)
	}
	if err != nil {
		return nil, fmt.Errorf("lease of %q: %w", ref.Name, err)
	}
	if asked != bound {
		return nil, &OriginError{Credential: ref.Name, Bound: bound, Got: asked}
	}
	if err := s.checkLength(); err != nil {
		return nil, fmt.Errorf("lease of %q: %w", ref.Name, err)
	}
	if r.MaxUses < 0 {
		return nil, fmt.Errorf("lease of %q: %w", ref.Name, ErrExpired)
	}
	l := &Lease{ref: ref, secret: s, origin: bound, scheme: b.Scheme, now: time.Now, maxUses: r.MaxUses, ctx: context.Background()}
	if l.scheme == nil {
		l.scheme = Bearer()
	}
	if opts != nil {
		l.expires, l.revoked, l.second, l.grant = opts.Expires, opts.Revoked, opts.Second, opts.Grant
		if opts.Context != nil {
			l.ctx = opts.Context
		}
		if opts.Now != nil {
			l.now = opts.Now
		}
	}
	if opts != nil && opts.Scrubber != nil {
		l.scrubber = func() *Scrubber { return opts.Scrubber }
	} else {
		l.scrubber = sync.OnceValue(func() *Scrubber {
			one := new(Scrubber)
			// A secret destroyed since the check above cannot be sent either.
			_ = one.AddVersion(ref, s)
			if d, ok := l.scheme.(Divider); ok {
				_ = learnParts(one, ref, s, d) // else it cannot be applied either
			}
			return one
		})
	}
	return l, nil
}

// Ref names the secret and its version, for the record. If a grant was traded
// ([GrantExchanger]), that is the version of the client's secret that it was
// traded with, and 0 for a public client, which has none.
func (l *Lease) Ref() Ref { return l.ref }

// Grant names the user's grant, and its version, that was traded for what the
// lease carries. It is zero if none was.
func (l *Lease) Grant() Ref { return l.grant }

// Released reports whether the lease has ended.
func (l *Lease) Released() bool { return l.released.Load() || l.ctx.Err() != nil }

// Revoked reports whether the version that the lease carries must not be used
// any more, also after the lease was released: for those who gave it to a
// process, which keeps it.
func (l *Lease) Revoked() bool { return l.revoked != nil && l.revoked() }

// Same reports whether both leases carry the same version with the same value.
// A name that was deleted and made anew counts its versions from 1 again.
func (l *Lease) Same(other *Lease) bool {
	return l.ref == other.ref && l.grant == other.grant && l.secret.Equal(other.secret)
}

// Expires is when the lease ends by itself, or zero if it does not.
func (l *Lease) Expires() time.Time { return l.expires }

// over returns why the lease's call is over, or nil.
func (l *Lease) over() error {
	switch {
	case l.released.Load():
		return ErrReleased
	case l.ctx.Err() != nil:
		return fmt.Errorf("%w: %w", ErrReleased, context.Cause(l.ctx))
	}
	return nil
}

// use takes one of the uses of the lease, or says why there is none.
func (l *Lease) use() error {
	if err := l.over(); err != nil {
		return err
	}
	switch {
	case l.Revoked():
		return fmt.Errorf("%w: %s", ErrRevoked, l.ref)
	case !l.expires.IsZero() && !l.now().Before(l.expires):
		return fmt.Errorf("%w: %s", ErrExpired, l.ref)
	}
	if n := l.uses.Add(1); l.maxUses > 0 && n > l.maxUses {
		l.uses.Add(-1)
		return fmt.Errorf("%w: %s", ErrExpired, l.ref)
	}
	return nil
}

// Uses counts the requests that carried the secret.
func (l *Lease) Uses() int64 { return l.uses.Load() }

// Scrubber finds the leased secret in what comes back. A vault's lease may
// return a scrubber that knows all secrets of the vault.
func (l *Lease) Scrubber() *Scrubber { return l.scrubber() }

// Release ends the lease: its transports refuse from now on. Requests that are
// on their way are not cancelled. Releasing twice is harmless.
func (l *Lease) Release() { l.released.Store(true) }

// Transport returns a RoundTripper that puts the secret on each request at the
// moment it is sent, on a copy, if the request goes to the bound origin. A
// request to any other origin, such as the next hop of a redirect, is refused
// with an [*OriginError] and not sent. Nil base means [http.DefaultTransport].
//
// The secret is the only credential on the request: Authorization,
// Proxy-Authorization and Cookie headers that it carried are removed, and Host
// is the bound one. What comes back, apart from the body, is scrubbed: status,
// headers, trailers and errors. The body is the caller's, to read through
// [Lease.Scrubber]; so that it can be read, gzip is the only content coding
// that is asked for, and is undone; with Accept-Encoding "identity" on the request
// there is none. A response in any other coding, or in several, is refused with
// [ErrCoding].
func (l *Lease) Transport(base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &transport{lease: l, base: base}
}

// An OriginError says where a secret should have gone and may not. It matches
// [ErrOrigin].
type OriginError struct {
	Credential string // name of the secret
	Bound      string // the origin it is bound to
	Got        string // the origin of the request; empty if no secret may go there at all
}

// Error implements error. It names origins only, never paths or queries.
func (e *OriginError) Error() string {
	got := e.Got
	if got == "" {
		got = "an origin that no secret may go to"
	}
	return fmt.Sprintf("%v: %q is bound to %s, the request goes to %s; bind a secret to that server, or do not follow its redirects",
		ErrOrigin, e.Credential, e.Bound, got)
}

// Is reports whether target is [ErrOrigin].
func (e *OriginError) Is(target error) bool { return target == ErrOrigin }
