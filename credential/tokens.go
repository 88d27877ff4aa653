package credential

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// How tokens are kept. Life is the time from when a token was had to when it
// ends.
const (
	// renewAfter is the part of a token's life after which a new one is asked
	// for, less up to renewJitter of its life at random, so that hosts which
	// started together do not ask together.
	renewAfter  = 0.8
	renewJitter = 0.1
	// tokenSlack is how long before its end a token is not given out any more,
	// and at most a tenth of its life.
	tokenSlack = 10 * time.Second
	// exchangeTimeout bounds one exchange, whoever waits for it.
	exchangeTimeout = 30 * time.Second
	// backoffFirst and backoffMost bound the time for which nothing is asked
	// after a failure. It doubles with each.
	backoffFirst = time.Second
	backoffMost  = 5 * time.Minute
	// renewGap is how long after a token was had the other side's refusal of it
	// is not believed: what refuses a new token refuses the next one as well.
	renewGap = 10 * time.Second
	// maxTokens bounds the tokens in memory.
	maxTokens = 10_000
)

// tokens is the cache of what secrets were traded for.
type tokens struct {
	now    func() time.Time
	jitter func() float64              // 0 ≤ x < 1
	run    func(func()) bool           // in the background; false: no more
	life   context.Context             // of what runs there
	forget func(ref Ref, token Secret) // called for tokens that have ended

	mu     sync.Mutex
	slots  map[tokenKey]*tokenSlot
	fading []fading
}

// A fading secret is one that the scrubber has to know until it can do no harm
// any more.
type fading struct {
	ref    Ref
	secret Secret
	until  time.Time
}

// A tokenKey says whose token it is and for what. A new binding of the same
// name has tokens of its own.
type tokenKey struct {
	name    string
	grant   string // the name of the grant that is traded; "": it is the secret
	binding *Binding
	subject string
	scopes  string // those that a lease asked for; "" for the binding's
}

// of names a version of what a token is traded for. The scrubber knows the token
// as that.
func (k tokenKey) of(version uint64) Ref { return Ref{cmp.Or(k.grant, k.name), version} }

// ends are set when what a token was traded for is revoked or withdrawn: each of
// them ends it.
type ends []*atomic.Bool

func (e ends) any() bool {
	return slices.ContainsFunc(e, (*atomic.Bool).Load)
}

// A tokenSlot is the place of one token.
type tokenSlot struct {
	held atomic.Pointer[heldToken]

	mu       sync.Mutex
	flight   *tokenFlight
	failures int
	failure  error
	failed   uint64 // the version that failed
	retry    time.Time
	old      []*heldToken // given out before, perhaps still in use

	// Of the flight: a token whose Replace is not stored yet, and the version
	// that it comes after.
	unsaved *Token
	after   uint64
	traded  ends   // of what was traded
	client  uint64 // with which version of the client's secret, if it was a grant
}

// token is the one that is held, or empty.
func (s *tokenSlot) token() Secret {
	if h := s.held.Load(); h != nil {
		return h.secret
	}
	return Secret{}
}

// A heldToken is a token that leases carry. It does not change.
type heldToken struct {
	secret   Secret
	version  uint64 // of what it was traded for
	client   uint64 // see tokenSlot
	had      time.Time
	renew    time.Time
	unusable time.Time // shortly before it ends
	ends     time.Time
	revoked  ends
}

// good reports whether the token can be given out.
func (h *heldToken) good(now time.Time) bool {
	return h != nil && now.Before(h.unusable) && !h.revoked.any()
}

// A tokenFlight is one exchange, which many wait for.
type tokenFlight struct {
	want wanted // by whoever began it
	done chan struct{}
	held *heldToken
	err  error
}

// trade does one exchange. It returns the version of what was traded, or 0 for
// the one that was wanted.
type trade func(ctx context.Context, slot *tokenSlot) (Token, uint64, error)

func newTokens(life context.Context, run func(func()) bool, now func() time.Time) *tokens {
	return &tokens{
		now: now, jitter: rand.Float64, run: run, life: life,
		forget: func(Ref, Secret) {},
		slots:  make(map[tokenKey]*tokenSlot),
	}
}

// A wanted version is what a token must have been traded for: that one, or with
// orLater a newer one as well.
type wanted struct {
	version uint64
	orLater bool
}

func (w wanted) met(version uint64) bool {
	return version == w.version || w.orLater && version > w.version
}

// get returns a token that was traded for the version that is wanted. One that
// is good is returned at once, and renewed in the background when it is time.
// Else one exchange is in flight, whose end each caller awaits as long
// as its context allows; if it is for another version, another one follows. After
// a failure the answer is that failure until it may be tried again.
func (c *tokens) get(ctx context.Context, key tokenKey, want wanted, do trade) (*heldToken, error) {
	s := c.slot(key)
	now := c.now()
	if h := s.held.Load(); h.good(now) && want.met(h.version) {
		if now.Before(h.renew) {
			return h, nil
		}
		s.mu.Lock()
		if s.flight == nil && !now.Before(s.retry) {
			c.start(s, key, want, do)
		}
		s.mu.Unlock()
		return h, nil
	}
	s.mu.Lock()
	f := s.flight
	if h := s.held.Load(); f == nil && h.good(now) && want.met(h.version) {
		s.mu.Unlock()
		return h, nil // it has come meanwhile
	}
	if f == nil && s.failure != nil && want.met(s.failed) && now.Before(s.retry) {
		err := s.failure
		s.mu.Unlock()
		return nil, err
	}
	theirs := f != nil
	if !theirs {
		f = c.start(s, key, want, do)
	}
	s.mu.Unlock()
	h, err := f.wait(ctx)
	if theirs && !want.met(f.want.version) && ctx.Err() == nil {
		return c.get(ctx, key, want, do) // whatever came of the other version
	}
	return h, err
}

// replace returns a token in place of one that the other side refused, or nil
// if there is none to be had by asking again.
func (c *tokens) replace(ctx context.Context, key tokenKey, refused *heldToken, do trade) (*heldToken, error) {
	s := c.slot(key)
	now := c.now()
	s.mu.Lock()
	h, f := s.held.Load(), s.flight
	switch {
	case h != refused && h.good(now):
		s.mu.Unlock()
		return h, nil // others have seen to it
	case f != nil:
	case now.Sub(refused.had) < renewGap || now.Before(s.retry):
		s.mu.Unlock()
		return nil, nil
	default:
		f = c.start(s, key, wanted{version: refused.version}, do)
	}
	s.mu.Unlock()
	return f.wait(ctx)
}

func (f *tokenFlight) wait(ctx context.Context) (*heldToken, error) {
	select {
	case <-f.done:
		return f.held, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// slot returns the place of a token, which may be empty.
func (c *tokens) slot(key tokenKey) *tokenSlot {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.slots[key]
	if s == nil {
		c.evict()
		s = new(tokenSlot)
		c.slots[key] = s
	}
	return s
}

// evict makes room for one more slot. It goes for what is of no use, and if
// there is nothing, for any that nobody waits for.
func (c *tokens) evict() {
	if len(c.slots) < maxTokens {
		return
	}
	now := c.now()
	var any []tokenKey
	for key, s := range c.slots {
		s.mu.Lock()
		idle := s.flight == nil && s.unsaved == nil // the flight's, and there is none
		h := s.held.Load()
		s.mu.Unlock()
		if idle && (h == nil || !now.Before(h.ends)) {
			c.drop(key, s)
		} else if idle && len(any) == 0 {
			any = append(any, key)
		}
	}
	if len(c.slots) >= maxTokens && len(any) > 0 {
		c.drop(any[0], c.slots[any[0]])
	}
}

// drop takes a slot away, unless somebody has begun to use it. Its tokens must be
// found until they end.
func (c *tokens) drop(key tokenKey, s *tokenSlot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flight != nil || s.unsaved != nil {
		return
	}
	for _, h := range append(s.old, s.held.Load()) {
		if h != nil {
			c.fading = append(c.fading, fading{key.of(h.version), h.secret, h.ends})
		}
	}
	s.old = nil
	delete(c.slots, key)
}

// fade makes the scrubber forget a secret that it knows, some time later: when
// that is over and another exchange is done.
func (c *tokens) fade(ref Ref, s Secret, until time.Time) {
	c.mu.Lock()
	c.fading = append(c.fading, fading{ref, s, until})
	c.mu.Unlock()
}

// sweep forgets what has faded.
func (c *tokens) sweep() {
	now := c.now()
	var over []fading
	c.mu.Lock()
	c.fading = slices.DeleteFunc(c.fading, func(f fading) bool {
		if now.Before(f.until) {
			return false
		}
		over = append(over, f)
		return true
	})
	c.mu.Unlock()
	for _, f := range over {
		c.forget(f.ref, f.secret)
	}
}

// start begins an exchange. The slot is locked.
func (c *tokens) start(s *tokenSlot, key tokenKey, want wanted, do trade) *tokenFlight {
	f := &tokenFlight{want: want, done: make(chan struct{})}
	s.flight = f
	if !c.run(func() { c.fly(s, f, key, want, do) }) {
		f.err = fmt.Errorf("%w: the vault is closed", ErrExchange)
		s.flight = nil
		close(f.done)
	}
	return f
}

// fly does the exchange and ends the flight.
func (c *tokens) fly(s *tokenSlot, f *tokenFlight, key tokenKey, want wanted, do trade) {
	defer c.sweep()
	ctx, cancel := context.WithTimeout(c.life, exchangeTimeout)
	defer cancel()
	t, traded, err := safely(ctx, s, do)
	traded = cmp.Or(traded, want.version)
	now := c.now()
	var h *heldToken
	if err == nil {
		h, err = c.hold(t, traded, now)
	}
	if err == nil {
		h.revoked, h.client = s.traded, s.client
	}
	s.mu.Lock()
	s.flight = nil
	if err != nil {
		f.err = err
		s.failure, s.failed = err, traded
		s.retry = now.Add(backoff(s.failures, c.jitter()))
		s.failures++
	} else {
		f.held = h
		if old := s.held.Swap(h); old != nil {
			s.old = append(s.old, old)
		}
		kept := s.old[:0]
		for _, old := range s.old {
			if now.Before(old.ends) {
				kept = append(kept, old)
			} else {
				c.forget(key.of(old.version), old.secret)
			}
		}
		s.old = kept
		s.failures, s.failure, s.retry = 0, nil, time.Time{}
	}
	s.mu.Unlock()
	close(f.done)
}

// safely turns a panic of an exchange into an error.
func safely(ctx context.Context, s *tokenSlot, do trade) (t Token, version uint64, err error) {
	defer func() {
		if p := recover(); p != nil {
			// Its text may hold a secret.
			err = fmt.Errorf("%w: panic in the exchange", ErrExchange)
		}
	}()
	return do(ctx, s)
}

// hold computes how long a token is good for.
func (c *tokens) hold(t Token, version uint64, now time.Time) (*heldToken, error) {
	if err := t.Value.checkLength(); err != nil {
		return nil, fmt.Errorf("%w: the token: %w", ErrExchange, err)
	}
	ends := t.Expires
	if ends.IsZero() {
		ends = now.Add(UnknownLife)
	}
	life := ends.Sub(now)
	if life <= 0 {
		return nil, fmt.Errorf("%w: the token has expired already: compare the clocks", ErrExchange)
	}
	return &heldToken{
		secret: t.Value, version: version, had: now, ends: ends,
		renew:    now.Add(time.Duration(float64(life) * (renewAfter - renewJitter*c.jitter()))),
		unusable: ends.Add(-min(tokenSlack, life/10)),
	}, nil
}

// backoff is how long to wait after the given number of earlier failures: half
// of it for sure, half at random.
func backoff(failures int, jitter float64) time.Duration {
	d := backoffMost
	if failures < 9 {
		d = min(backoffFirst<<failures, backoffMost)
	}
	return d/2 + time.Duration(float64(d/2)*jitter)
}
