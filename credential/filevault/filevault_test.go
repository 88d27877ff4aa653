package filevault

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
)

func newKEK(t testing.TB) KEK {
	id, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	kek, err := Age([]age.Recipient{id.Recipient()}, []age.Identity{id})
	require.NoError(t, err)
	return kek
}

func newVault(t testing.TB, kek KEK, opts *Options) (*Store, string) {
	path := filepath.Join(t.TempDir(), "vault")
	s, err := Create(t.Context(), path, kek, opts)
	require.NoError(t, err)
	return s, path
}

func TestConformance(t *testing.T) {
	credentialtest.TestStore(t, func(t *testing.T, secrets map[string]string) credential.Store {
		s, _ := newVault(t, newKEK(t), &Options{Poll: time.Millisecond})
		credentialtest.Seed(t, s, secrets)
		return s
	})
}

// A broker follows the bindings that the vault keeps, also those that another
// process makes, unless the host said otherwise.
func TestBrokerFollowsBindings(t *testing.T) {
	ctx := t.Context()
	kek := newKEK(t)
	store, path := newVault(t, kek, &Options{Poll: time.Millisecond})
	credentialtest.Seed(t, store, map[string]string{"one": "the-value-of-one-1"})
	by := audit.Change{By: "alice", Reason: "OPS-1"}
	log := audittest.NewLog(t)
	host, err := credential.NewBroker(store, log, nil)
	require.NoError(t, err)
	defer host.Close()
	lease := func(origin string) error {
		l, err := host.Lease(ctx, credential.LeaseRequest{Actor: audit.Actor{Agent: "a"}, Credential: "one", Origin: origin})
		if err == nil {
			l.Release()
		}
		return err
	}
	require.ErrorIs(t, lease("https://a.example"), credential.ErrUnbound)

	theirs, err := Open(ctx, path, kek, nil)
	require.NoError(t, err)
	operator, err := credential.NewBroker(theirs, log, nil)
	require.NoError(t, err)
	defer operator.Close()
	require.NoError(t, operator.BindSpec(ctx, "one", credential.BindingSpec{Origin: "https://a.example", Type: "bearer"}, by))
	require.Eventually(t, func() bool { return lease("https://a.example") == nil }, time.Minute, time.Millisecond)
	require.NoError(t, operator.BindSpec(ctx, "one", credential.BindingSpec{Origin: "https://b.example", Type: "bearer"}, by))
	require.Eventually(t, func() bool { return lease("https://b.example") == nil }, time.Minute, time.Millisecond)
	assert.ErrorIs(t, lease("https://a.example"), credential.ErrOrigin)

	require.NoError(t, host.Bind(ctx, "one", credential.Binding{Origin: "https://c.example"}, by))
	require.NoError(t, operator.BindSpec(ctx, "one", credential.BindingSpec{Origin: "https://d.example", Type: "bearer"}, by))
	require.NoError(t, lease("https://c.example"))

	assert.ErrorIs(t, operator.BindSpec(ctx, "two", credential.BindingSpec{Origin: "https://d.example", Type: "bearer"}, by), credential.ErrUnknown)
	assert.ErrorIs(t, operator.BindSpec(ctx, "one", credential.BindingSpec{Origin: "https://d.example", Type: "oauth_jwt_bearer", Issuer: "https://i.example", ClientID: "me"}, by), credential.ErrSpec,
		"not what this broker cannot use")
	log.Fail(errors.New("disk full"))
	require.Error(t, operator.BindSpec(ctx, "one", credential.BindingSpec{Origin: "https://e.example", Type: "bearer"}, by))
	log.Fail(nil)
	spec, _, err := store.Binding(ctx, "one")
	require.NoError(t, err)
	assert.Equal(t, "https://d.example", spec.Origin)
}
