package filevault

import (
	"path/filepath"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/stretchr/testify/require"

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
