package credential_test

import (
	"testing"

	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
)

func TestMemoryStore(t *testing.T) {
	credentialtest.TestStore(t, func(t *testing.T, secrets map[string]string) credential.Store {
		store := credential.NewMemoryStore(nil)
		credentialtest.Seed(t, store, secrets)
		return store
	})
}

// A store that hides its methods for writing is tested for reading only.
func TestReadOnlyStore(t *testing.T) {
	credentialtest.TestStore(t, func(t *testing.T, secrets map[string]string) credential.Store {
		held := make(map[string]credential.Secret)
		for name, v := range secrets {
			held[name] = credential.NewSecret([]byte(v))
		}
		return struct{ credential.Store }{credential.NewMemoryStore(held)}
	})
}
