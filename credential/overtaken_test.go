package credential_test

import (
	"bytes"
	"context"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
)

// A caller that two rotations overtake, so that what it was about to take is
// revoked by now, gets what is current.
func TestOvertakenByRotations(t *testing.T) {
	// The clock is asked between what is known and its use, and by what watches the
	// store.
	during, now := interrupting("(*Broker).Lease(")
	store := credential.NewMemoryStore(map[string]credential.Secret{"plain": secret("the first secret of it"), "k": secret("the client's secret")})
	b, err := credential.NewBroker(store, audit.OrRefuse(newLog(t)), &credential.BrokerOptions{Now: now})
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	g := newGrantor()
	require.NoError(t, b.Bind(t.Context(), "plain", credential.Binding{Origin: "https://a.example"}, by))
	require.NoError(t, b.Bind(t.Context(), "k", credential.Binding{Origin: "https://a.example", Scheme: g}, by))
	require.NoError(t, b.PutGrant(t.Context(), "k", "alice", g.consent("alice"), by))
	for name, rotate := range map[string]func() error{
		"plain": func() error {
			_, err := b.Rotate(t.Context(), "plain", secret("another secret, and another"), by)
			return err
		},
		"k": func() error { return b.PutGrant(t.Context(), "k", "alice", g.consent("alice"), by) },
	} {
		twice := func() {
			assert.NoError(t, rotate())
			assert.NoError(t, rotate())
		}
		during.Store(&twice)
		_, err := b.Lease(t.Context(), credential.LeaseRequest{Actor: alice, Credential: name, Origin: "https://a.example"})
		assert.NoError(t, err, name)
		assert.Nil(t, during.Load(), name)
	}
}

// A lease names the version that its token was traded for, also if that became
// current only after the lease had begun.
func TestOvertakenBeforeAnExchange(t *testing.T) {
	during, now := interrupting("(*tokens).get(")
	store := credential.NewMemoryStore(map[string]credential.Secret{"k": secret("the first secret")})
	b, err := credential.NewBroker(store, audit.OrRefuse(newLog(t)), &credential.BrokerOptions{Now: now})
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	scheme := newTrader(func(_ context.Context, x credential.Exchange) (credential.Token, error) {
		return until(time.Hour, "token for "+text(t, x.Secret)), nil
	})
	require.NoError(t, b.Bind(t.Context(), "k", credential.Binding{Origin: "https://a.example", Scheme: scheme}, by))
	once := func() {
		_, err := b.Rotate(t.Context(), "k", secret("the second secret"), by)
		assert.NoError(t, err)
	}
	during.Store(&once)
	l, err := b.Lease(t.Context(), credential.LeaseRequest{Actor: alice, Credential: "k", Origin: "https://a.example"})
	require.NoError(t, err)
	assert.Nil(t, during.Load())
	_, found := b.Scrubber().Redact([]byte("token for the second secret"))
	assert.Contains(t, found, credential.Sight{Ref: credential.Ref{Name: "k", Version: 2}, Encoding: "raw"})
	assert.Equal(t, credential.Ref{Name: "k", Version: 2}, l.Ref())
	require.NoError(t, b.Promote(t.Context(), credential.Ref{Name: "k", Version: 1}, by))
	require.NoError(t, b.Revoke(t.Context(), credential.Ref{Name: "k", Version: 2}, by))
	assert.True(t, l.Revoked())
}

// interrupting returns a clock that does, once, what is stored when it is asked
// under a function of that name.
func interrupting(under string) (*atomic.Pointer[func()], func() time.Time) {
	during := new(atomic.Pointer[func()])
	return during, func() time.Time {
		if f := during.Load(); f != nil && bytes.Contains(debug.Stack(), []byte(under)) && during.CompareAndSwap(f, nil) {
			(*f)()
		}
		return time.Now()
	}
}
