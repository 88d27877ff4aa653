package credential_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential"
)

// trader is an Exchanger whose other side is a function.
type trader struct {
	credential.Scheme
	subject  func(audit.Actor) string
	exchange func(context.Context, credential.Exchange) (credential.Token, error)
	asked    atomic.Int64
}

func newTrader(f func(context.Context, credential.Exchange) (credential.Token, error)) *trader {
	return &trader{Scheme: credential.Bearer(), subject: func(audit.Actor) string { return "" }, exchange: f}
}

func (t *trader) Subject(a audit.Actor) string { return t.subject(a) }

func (t *trader) Exchange(ctx context.Context, x credential.Exchange) (credential.Token, error) {
	t.asked.Add(1)
	return t.exchange(ctx, x)
}

func text(t *testing.T, s credential.Secret) (v string) {
	require.NoError(t, s.Use(func(b []byte) error { v = string(b); return nil }))
	return v
}

func secret(v string) credential.Secret { return credential.NewSecret([]byte(v)) }

func until(d time.Duration, v string) credential.Token {
	return credential.Token{Value: secret(v), Expires: time.Now().Add(d)}
}

// A vaultRig is a broker with a log, over a memory store that holds k.
type vaultRig struct {
	*credential.Broker
	t     *testing.T
	store *credential.MemoryStore
	log   *audittest.Log
	clock atomic.Int64 // added to the time
}

func newVault(t *testing.T, server *httptest.Server, scheme credential.Scheme, scopes ...string) *vaultRig {
	t.Helper()
	r := &vaultRig{t: t, log: audittest.NewLog(t), store: credential.NewMemoryStore(map[string]credential.Secret{"k": secret("the first secret")})}
	var err error
	r.Broker, err = credential.NewBroker(r.store, r.log, &credential.BrokerOptions{Now: func() time.Time { return time.Now().Add(time.Duration(r.clock.Load())) }})
	require.NoError(t, err)
	t.Cleanup(func() { r.Close() })
	require.NoError(t, r.Bind(t.Context(), "k", credential.Binding{Origin: server.URL, Scheme: scheme, Scopes: scopes}, by))
	return r
}

func (r *vaultRig) lease(server *httptest.Server, a audit.Actor, scopes ...string) (*credential.Lease, error) {
	return r.Lease(r.t.Context(), credential.LeaseRequest{Actor: a, Credential: "k", Origin: server.URL, Purpose: "tool", Scopes: scopes})
}

// send makes one request with a lease of its own and returns the answer.
func (r *vaultRig) send(server *httptest.Server, a audit.Actor, body io.Reader) (int, string) {
	r.t.Helper()
	l, err := r.lease(server, a)
	require.NoError(r.t, err)
	defer l.Release()
	return r.sendWith(l, server, body)
}

func (r *vaultRig) sendWith(l *credential.Lease, server *httptest.Server, body io.Reader) (int, string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), "POST", server.URL, body)
	require.NoError(r.t, err)
	resp, err := l.Transport(nil).RoundTrip(req)
	require.NoError(r.t, err)
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	require.NoError(r.t, err)
	return resp.StatusCode, string(got)
}

// events returns the details of all records of a refused credential.
func (r *vaultRig) events() (all []map[string]string) {
	for _, rec := range r.log.Records() {
		if rec.Event != nil && rec.Event.Action == credential.ActionRefusedCredential {
			all = append(all, rec.Event.Detail)
		}
	}
	return all
}

// A door that takes only the bearer tokens in good, and says what it was sent.
func door(t *testing.T, good *sync.Map) (*httptest.Server, *atomic.Int64) {
	var requests atomic.Int64
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		body, _ := io.ReadAll(r.Body)
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if who, ok := good.Load(token); ok {
			fmt.Fprintf(w, "%v:%s", who, body)
			return
		}
		http.Error(w, "no", http.StatusUnauthorized)
	}), &requests
}

// While a secret is rotated one side knows the new value before the other:
// whichever it is, the call succeeds, and that is on record.
func TestRefusedCurrentThenPrevious(t *testing.T) {
	var good sync.Map
	server, requests := door(t, &good)
	v := newVault(t, server, nil)
	good.Store("the first secret", "first")
	before, err := v.lease(server, actor) // taken before the rotation
	require.NoError(t, err)
	_, err = v.Rotate(t.Context(), "k", secret("the second secret"), by)
	require.NoError(t, err)

	status, got := v.send(server, actor, strings.NewReader("body"))
	assert.Equal(t, "200 first:body", fmt.Sprint(status, " ", got), "the server has not learned the new one")
	assert.EqualValues(t, 2, requests.Load())
	good.Delete("the first secret")
	good.Store("the second secret", "second")
	status, got = v.sendWith(before, server, bytes.NewReader([]byte("body")))
	assert.Equal(t, "200 second:body", fmt.Sprint(status, " ", got), "the server has forgotten the old one")
	assert.EqualValues(t, 4, requests.Load())
	assert.EqualValues(t, 2, before.Uses())
	assert.Equal(t, []map[string]string{
		{"version": "2", "tried": "1", "status": "200"}, {"version": "1", "tried": "2", "status": "200"},
	}, v.events())

	status, _ = v.send(server, actor, io.MultiReader(strings.NewReader("can be read once")))
	assert.Equal(t, 200, status)
	good.Delete("the second secret")
	requests.Store(0)
	status, _ = v.send(server, actor, io.MultiReader(strings.NewReader("can be read once")))
	assert.Equal(t, 401, status)
	assert.EqualValues(t, 1, requests.Load(), "the body cannot be sent again")
	status, _ = v.send(server, actor, strings.NewReader("x"))
	assert.Equal(t, 401, status)
	assert.EqualValues(t, 3, requests.Load(), "twice and no more")

	require.NoError(t, v.Revoke(t.Context(), credential.Ref{Name: "k", Version: 1}, by))
	good.Store("the first secret", "first")
	requests.Store(0)
	status, _ = v.send(server, actor, nil)
	assert.Equal(t, 401, status)
	assert.EqualValues(t, 1, requests.Load(), "the previous version is revoked")
}

// An answer that came with another version is withheld if that cannot be put
// on record.
func TestRefusedIsOnRecordFirst(t *testing.T) {
	var good sync.Map
	server, _ := door(t, &good)
	good.Store("the first secret", "first")
	store := credential.NewMemoryStore(map[string]credential.Secret{"k": secret("the first secret")})
	log := audittest.NewLog(t)
	v, err := credential.NewBroker(store, log, nil)
	require.NoError(t, err)
	defer v.Close()
	require.NoError(t, v.Bind(t.Context(), "k", credential.Binding{Origin: server.URL}, by))
	_, err = v.Rotate(t.Context(), "k", secret("the second secret"), by)
	require.NoError(t, err)
	l, err := v.Lease(t.Context(), credential.LeaseRequest{Actor: actor, Credential: "k", Origin: server.URL})
	require.NoError(t, err)
	log.Fail(errFull)
	_, err = l.Transport(nil).RoundTrip(httptest.NewRequest("GET", server.URL, nil))
	assert.ErrorIs(t, err, errFull)
}

var errFull = errors.New("disk full")

// A thousand leases of a secret that is traded: one exchange. The token is
// found in what comes back.
func TestTradedSecret(t *testing.T) {
	var good sync.Map
	good.Store("a short-lived token", "ok")
	server, _ := door(t, &good)
	x := newTrader(func(_ context.Context, x credential.Exchange) (credential.Token, error) {
		assert.Equal(t, "the first secret", text(t, x.Secret))
		assert.Equal(t, server.URL, x.Origin)
		assert.Equal(t, []string{"read", "write"}, x.Scopes)
		x.Learn(secret("an intermediate token"))
		return until(time.Hour, "a short-lived token"), nil
	})
	v := newVault(t, server, x, "read", "write")
	var all sync.WaitGroup
	for range 1000 {
		all.Go(func() {
			l, err := v.lease(server, actor)
			if assert.NoError(t, err) {
				assert.EqualValues(t, 1, l.Ref().Version)
			}
		})
	}
	all.Wait()
	assert.EqualValues(t, 1, x.asked.Load())
	status, got := v.send(server, actor, nil)
	assert.Equal(t, "200 ok:", fmt.Sprint(status, " ", got))
	for _, s := range []string{"a short-lived token", "an intermediate token", "the first secret"} {
		assert.Equal(t, map[string]int{"k": 1}, v.Scrubber().Count([]byte(s)), s)
	}
	l, err := v.lease(server, actor)
	require.NoError(t, err)
	assert.True(t, l.Expires().After(time.Now().Add(14*time.Minute)))
	v.clock.Store(int64(50 * time.Minute))
	l, err = v.lease(server, actor)
	require.NoError(t, err)
	assert.False(t, l.Expires().After(time.Now().Add(time.Hour)), "not longer than the token")
}

// Nothing is traded for a lease that is refused.
func TestTradedSecretOfARefusedLease(t *testing.T) {
	server := serve(t, nil)
	x := newTrader(func(context.Context, credential.Exchange) (credential.Token, error) { panic("asked") })
	v := newVault(t, server, x, "read")
	for want, r := range map[error]credential.LeaseRequest{
		audit.ErrNoActor:      {Credential: "k", Origin: server.URL},
		credential.ErrOrigin:  {Actor: actor, Credential: "k", Origin: "https://evil.example"},
		credential.ErrScopes:  {Actor: actor, Credential: "k", Origin: server.URL, Scopes: []string{"read", "admin"}},
		credential.ErrUnknown: {Actor: actor, Credential: "other", Origin: server.URL},
	} {
		_, err := v.Lease(t.Context(), r)
		assert.ErrorIs(t, err, want)
	}
	assert.Zero(t, x.asked.Load())
	plain := newVault(t, server, nil)
	_, err := plain.lease(server, actor, "read")
	assert.ErrorIs(t, err, credential.ErrScopes, "a stored token cannot be had for less")
}

// Fewer scopes, another subject, another version and another binding: each has
// a token of its own.
func TestTokensAreNotMixedUp(t *testing.T) {
	server := serve(t, nil)
	var n atomic.Int64
	x := newTrader(func(_ context.Context, x credential.Exchange) (credential.Token, error) {
		return until(time.Hour, fmt.Sprintf("%s for %s %v %d", text(t, x.Secret), x.Actor.User, x.Scopes, n.Add(1))), nil
	})
	x.subject = func(a audit.Actor) string { return a.User }
	v := newVault(t, server, x, "read", "write")
	alice, bob := audit.Actor{Agent: "a", User: "alice"}, audit.Actor{Agent: "a", User: "bob"}
	for range 3 {
		for _, want := range []struct {
			actor  audit.Actor
			scopes []string
		}{{alice, nil}, {bob, nil}, {alice, []string{"read"}}, {bob, []string{"read"}}} {
			_, err := v.lease(server, want.actor, want.scopes...)
			require.NoError(t, err)
		}
	}
	assert.EqualValues(t, 4, x.asked.Load())
	_, err := v.Rotate(t.Context(), "k", secret("the second secret"), by)
	require.NoError(t, err)
	_, err = v.lease(server, alice)
	require.NoError(t, err)
	assert.EqualValues(t, 5, x.asked.Load())
	assert.NotEmpty(t, v.Scrubber().Count([]byte("the second secret for alice [read write] 5")))
	require.NoError(t, v.Bind(t.Context(), "k", credential.Binding{Origin: server.URL, Scheme: x}, by))
	_, err = v.lease(server, alice)
	require.NoError(t, err)
	assert.EqualValues(t, 6, x.asked.Load())
}

// A token that is refused is replaced once, by force.
func TestRefusedToken(t *testing.T) {
	var good sync.Map
	server, requests := door(t, &good)
	var n atomic.Int64
	x := newTrader(func(context.Context, credential.Exchange) (credential.Token, error) {
		return until(24*time.Hour, fmt.Sprintf("token number %d", n.Add(1))), nil
	})
	v := newVault(t, server, x)
	good.Store("token number 1", 1)
	status, _ := v.send(server, actor, nil)
	assert.Equal(t, 200, status)
	good.Delete("token number 1")
	good.Store("token number 2", 2)
	v.clock.Store(int64(time.Minute))
	requests.Store(0)
	status, got := v.send(server, actor, strings.NewReader("x"))
	assert.Equal(t, "200 2:x", fmt.Sprint(status, " ", got))
	assert.EqualValues(t, 2, requests.Load())
	assert.EqualValues(t, 2, x.asked.Load())
	assert.Len(t, v.events(), 1)
	good.Delete("token number 2")
	status, _ = v.send(server, actor, nil)
	assert.Equal(t, 401, status)
	assert.EqualValues(t, 2, x.asked.Load(), "the new token is refused as well: a third would be")
}

// The other side of an exchange does not know the new secret yet.
func TestExchangeWithPrevious(t *testing.T) {
	server := serve(t, nil)
	x := newTrader(func(_ context.Context, x credential.Exchange) (credential.Token, error) {
		if text(t, x.Secret) != "the first secret" {
			return credential.Token{}, fmt.Errorf("%w: invalid_client", credential.ErrReauth)
		}
		return until(time.Hour, "a short-lived token"), nil
	})
	v := newVault(t, server, x)
	_, err := v.Rotate(t.Context(), "k", secret("the second secret"), by)
	require.NoError(t, err)
	_, err = v.lease(server, actor)
	require.NoError(t, err)
	assert.Equal(t, []map[string]string{{"version": "2", "tried": "1", "status": "200"}}, v.events())
}

// A token that was had for the previous version, because the other side did not
// know the current one yet, ends when that version is revoked.
func TestTokenOfPreviousEndsWithIt(t *testing.T) {
	x := newTrader(nil)
	x.exchange = func(_ context.Context, e credential.Exchange) (credential.Token, error) {
		if text(t, e.Secret) != "the first secret" {
			return credential.Token{}, credential.ErrReauth
		}
		return until(time.Hour, "token of the first"), nil
	}
	var sent atomic.Int64
	server := serve(t, func(http.ResponseWriter, *http.Request) { sent.Add(1) })
	v := newVault(t, server, x)
	_, err := v.Rotate(t.Context(), "k", secret("the second secret"), by)
	require.NoError(t, err)
	l, err := v.lease(server, actor)
	require.NoError(t, err)
	require.NoError(t, v.Revoke(t.Context(), credential.Ref{Name: "k", Version: 1}, by))
	_, err = (&http.Client{Transport: l.Transport(nil)}).Get(server.URL)
	assert.ErrorIs(t, err, credential.ErrRevoked, "the lease that is out")
	assert.Zero(t, sent.Load())
	_, err = v.lease(server, actor)
	assert.ErrorIs(t, err, credential.ErrReauth, "and no other is given")
}

// What the other side says about a secret goes no further.
func TestExchangeErrorIsScrubbed(t *testing.T) {
	server := serve(t, nil)
	x := newTrader(func(_ context.Context, x credential.Exchange) (credential.Token, error) {
		x.Learn(secret("an assertion of ours"))
		return credential.Token{}, fmt.Errorf("it said: no client with the first secret and an assertion of ours")
	})
	v := newVault(t, server, x)
	_, err := v.lease(server, actor)
	assert.ErrorIs(t, err, credential.ErrExchange)
	assert.EqualError(t, err, `credential: no token can be had: "k": it said: no client with [redacted:k] and [redacted:k]`)
}

func BenchmarkLeaseCachedToken(b *testing.B) {
	x := newTrader(func(context.Context, credential.Exchange) (credential.Token, error) {
		return until(time.Hour, "a short-lived token"), nil
	})
	v := credential.NewMemory(map[string]credential.Secret{"k": secret("the first secret")})
	defer v.Close()
	r := credential.LeaseRequest{Actor: actor, Credential: "k", Origin: "https://a.example"}
	if err := v.Bind(b.Context(), "k", credential.Binding{Origin: r.Origin, Scheme: x}, by); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		l, err := v.Lease(b.Context(), r)
		if err != nil {
			b.Fatal(err)
		}
		l.Release()
	}
}

func newLog(t *testing.T) audit.Recorder { return audittest.NewLog(t) }

// catch answers every request, and shows its Authorization.
type catch func(authorization string)

func (c catch) RoundTrip(r *http.Request) (*http.Response, error) {
	c(r.Header.Get("Authorization"))
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Header: http.Header{}}, nil
}

func get(url string) *http.Request { return httptest.NewRequest("GET", url, nil) }
