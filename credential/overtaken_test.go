package credential_test

import (
	"bytes"
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
	var during atomic.Pointer[func()]
	now := func() time.Time { // asked between what is known and its use
		if f := during.Load(); f != nil && bytes.Contains(debug.Stack(), []byte("(*Broker).Lease(")) { // and by what watches the store
			during.Store(nil)
			(*f)()
		}
		return time.Now()
	}
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
