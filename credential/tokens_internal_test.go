package credential

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A tokenRig is a cache with a clock that is turned by hand, and another side
// that answers when it is told to.
type tokenRig struct {
	*tokens
	clock   atomic.Int64 // nanoseconds
	asked   atomic.Int64
	forgot  atomic.Int64
	running sync.WaitGroup
	answer  func() (Token, uint64, error)
}

func newTokenRig(t *testing.T) *tokenRig {
	r := &tokenRig{}
	r.clock.Store(time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC).UnixNano())
	life, end := context.WithCancel(context.Background())
	r.tokens = newTokens(life, func(f func()) bool {
		if life.Err() != nil {
			return false
		}
		r.running.Go(f)
		return true
	}, func() time.Time { return time.Unix(0, r.clock.Load()) })
	r.jitter = func() float64 { return 0.5 }
	r.forget = func(Ref, Secret) { r.forgot.Add(1) }
	r.answer = func() (Token, uint64, error) { return r.token(time.Hour), 0, nil }
	t.Cleanup(func() { end(); r.running.Wait() })
	return r
}

func (r *tokenRig) token(life time.Duration) Token {
	return Token{Value: NewSecret([]byte("some token " + strconv.FormatInt(r.asked.Load(), 10))), Expires: r.now().Add(life)}
}

func (r *tokenRig) pass(d time.Duration) { r.clock.Add(int64(d)) }

func (r *tokenRig) trade(context.Context, *tokenSlot) (Token, uint64, error) {
	r.asked.Add(1)
	return r.answer()
}

var oneKey = tokenKey{name: "k"}

func (r *tokenRig) ask(version uint64) (*heldToken, error) {
	return r.get(context.Background(), oneKey, wanted{version: version}, r.trade)
}

// A thousand callers find no token: one asks, each waits no longer than it may.
func TestTokenStampede(t *testing.T) {
	r := newTokenRig(t)
	open := make(chan struct{})
	r.answer = func() (Token, uint64, error) { <-open; return r.token(time.Hour), 0, nil }
	const patient, hasty = 700, 300
	var served, gaveUp atomic.Int64
	var first, all sync.WaitGroup
	expired, cancel := context.WithCancel(context.Background())
	cancel()
	for range hasty {
		first.Go(func() {
			if _, err := r.get(expired, oneKey, wanted{version: 1}, r.trade); errors.Is(err, context.Canceled) {
				gaveUp.Add(1)
			}
		})
	}
	for range patient {
		all.Go(func() {
			if h, err := r.ask(1); err == nil && h.version == 1 {
				served.Add(1)
			}
		})
	}
	first.Wait() // though nobody has answered
	close(open)
	all.Wait()
	assert.EqualValues(t, hasty, gaveUp.Load())
	assert.EqualValues(t, patient, served.Load())
	assert.EqualValues(t, 1, r.asked.Load())
}

// A valid token is served while the next one is asked for, and while that
// fails.
func TestTokenIsRenewedEarlyAndServedMeanwhile(t *testing.T) {
	r := newTokenRig(t)
	one, err := r.ask(1)
	require.NoError(t, err)
	assert.Equal(t, time.Hour*3/4, one.renew.Sub(r.now()), "80 %% of its life, less half of the jitter of 10 %%")
	r.pass(44 * time.Minute)
	h, err := r.ask(1)
	require.NoError(t, err)
	assert.Same(t, one, h)
	assert.EqualValues(t, 1, r.asked.Load())

	open := make(chan struct{})
	r.answer = func() (Token, uint64, error) { <-open; return Token{}, 0, errors.New("down") }
	r.pass(2 * time.Minute)
	for range 10 {
		h, err = r.ask(1)
		require.NoError(t, err, "nobody waits")
		assert.Same(t, one, h)
	}
	close(open)
	r.running.Wait()
	assert.EqualValues(t, 2, r.asked.Load())
	for range 10 {
		_, err = r.ask(1)
		require.NoError(t, err)
	}
	r.running.Wait()
	assert.EqualValues(t, 2, r.asked.Load(), "it has failed just now")

	r.answer = func() (Token, uint64, error) { return r.token(time.Hour), 0, nil }
	r.pass(time.Second)
	_, err = r.ask(1)
	require.NoError(t, err)
	r.running.Wait()
	two, err := r.ask(1)
	require.NoError(t, err)
	assert.NotSame(t, one, two)
	assert.EqualValues(t, 3, r.asked.Load())
	assert.Zero(t, r.forgot.Load(), "the first may be in use")
	r.pass(46 * time.Minute)
	_, err = r.ask(1)
	require.NoError(t, err)
	r.running.Wait()
	assert.EqualValues(t, 1, r.forgot.Load(), "now it has ended")
}

// Near its end a token is not given out any more.
func TestTokenEnds(t *testing.T) {
	r := newTokenRig(t)
	r.answer = func() (Token, uint64, error) { return Token{Value: r.token(0).Value}, 0, nil }
	one, err := r.ask(1)
	require.NoError(t, err)
	assert.Equal(t, UnknownLife, one.ends.Sub(r.now()))
	r.answer = func() (Token, uint64, error) { return Token{}, 0, errors.New("down") }
	r.pass(UnknownLife - tokenSlack - 1)
	_, err = r.ask(1)
	require.NoError(t, err)
	r.running.Wait()
	r.pass(1)
	_, err = r.ask(1)
	assert.EqualError(t, err, "down")

	r.answer = func() (Token, uint64, error) { return r.token(-time.Second), 0, nil }
	r.pass(time.Hour)
	_, err = r.ask(1)
	assert.ErrorIs(t, err, ErrExchange, "expired on arrival")
	r.answer = func() (Token, uint64, error) { return Token{Value: NewSecret([]byte("short"))}, 0, nil }
	r.pass(time.Hour)
	_, err = r.ask(1)
	assert.ErrorIs(t, err, ErrLength, "it could not be found again")
}

// After a failure nobody asks for a while, and longer after each.
func TestTokenBackoff(t *testing.T) {
	r := newTokenRig(t)
	boom := errors.New("down")
	r.answer = func() (Token, uint64, error) { return Token{}, 0, boom }
	wait := backoffFirst * 3 / 4
	for n := int64(1); n <= 12; n++ {
		for range 100 {
			_, err := r.ask(1)
			require.Equal(t, boom, err)
		}
		require.EqualValues(t, n, r.asked.Load())
		r.pass(wait - 1)
		_, err := r.ask(1)
		require.Equal(t, boom, err)
		require.EqualValues(t, n, r.asked.Load())
		r.pass(1)
		wait = min(2*wait, backoffMost*3/4)
	}
	_, err := r.ask(1)
	require.Equal(t, boom, err)
	r.answer = func() (Token, uint64, error) { return r.token(time.Hour), 0, nil }
	_, err = r.ask(2)
	assert.NoError(t, err, "a new secret need not wait for the old one's failure")
}

func TestTokenOfAnotherVersion(t *testing.T) {
	r := newTokenRig(t)
	one, err := r.ask(1)
	require.NoError(t, err)
	two, err := r.ask(2)
	require.NoError(t, err)
	assert.NotSame(t, one, two)
	back, err := r.ask(1)
	require.NoError(t, err)
	assert.EqualValues(t, 1, back.version, "the old secret was put in place again")
	assert.EqualValues(t, 3, r.asked.Load())
	later, err := r.get(t.Context(), oneKey, wanted{version: 0, orLater: true}, r.trade)
	require.NoError(t, err)
	assert.Same(t, back, later)
}

// Who waits behind an exchange for a version that was replaced meanwhile has one of
// its own.
func TestTokenOfAnOvertakenVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTokenRig(t)
		open := make(chan struct{})
		r.answer = func() (Token, uint64, error) {
			if r.asked.Load() == 1 {
				<-open
				return Token{}, 0, errors.New("the old secret is not accepted any more")
			}
			return r.token(time.Hour), 0, nil
		}
		var both sync.WaitGroup
		both.Go(func() {
			_, err := r.ask(1)
			assert.Error(t, err)
		})
		synctest.Wait()
		both.Go(func() {
			h, err := r.ask(2)
			if assert.NoError(t, err) {
				assert.EqualValues(t, 2, h.version)
			}
		})
		synctest.Wait()
		close(open)
		both.Wait()
		assert.EqualValues(t, 2, r.asked.Load())
	})
}

// A token that was refused is replaced once, by one exchange for all; a new
// one that is refused as well is not.
func TestTokenReplace(t *testing.T) {
	r := newTokenRig(t)
	one, err := r.ask(1)
	require.NoError(t, err)
	h, err := r.replace(t.Context(), oneKey, one, r.trade)
	require.NoError(t, err)
	assert.Nil(t, h, "it is new")
	r.pass(renewGap)
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			h, err := r.replace(context.Background(), oneKey, one, r.trade)
			assert.NoError(t, err)
			assert.NotSame(t, one, h)
		})
	}
	all.Wait()
	assert.EqualValues(t, 2, r.asked.Load())
	r.pass(renewGap)
	r.answer = func() (Token, uint64, error) { return Token{}, 0, errors.New("down") }
	two, _ := r.ask(1)
	_, err = r.replace(t.Context(), oneKey, two, r.trade)
	assert.EqualError(t, err, "down")
	h, err = r.replace(t.Context(), oneKey, two, r.trade)
	require.NoError(t, err)
	assert.Nil(t, h, "it has failed just now")
}

func TestTokenPanicAndClose(t *testing.T) {
	r := newTokenRig(t)
	r.answer = func() (Token, uint64, error) { panic("a secret") }
	_, err := r.ask(1)
	assert.ErrorIs(t, err, ErrExchange)
	assert.NotContains(t, err.Error(), "a secret")
	r.tokens.run = func(func()) bool { return false }
	r.pass(time.Hour)
	_, err = r.ask(1)
	assert.ErrorIs(t, err, ErrExchange)
	assert.ErrorContains(t, err, "closed")
}

func TestTokensAreBounded(t *testing.T) {
	r := newTokenRig(t)
	for i := range maxTokens + 50 {
		_, err := r.get(t.Context(), tokenKey{name: "k", subject: strconv.Itoa(i)}, wanted{version: 1}, r.trade)
		require.NoError(t, err)
	}
	assert.LessOrEqual(t, len(r.slots), maxTokens)
	assert.Zero(t, r.forgot.Load(), "they are valid")
	r.pass(2 * time.Hour)
	_, err := r.get(t.Context(), tokenKey{name: "one more"}, wanted{version: 1}, r.trade)
	require.NoError(t, err)
	assert.Len(t, r.slots, 1)
	require.Eventually(t, func() bool { return r.forgot.Load() == maxTokens+50 }, time.Minute, time.Millisecond,
		"also those that had to make room while they were valid")
}
