package openbao

import (
	"testing"
	"time"

	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
	"github.com/twinward-dev/twinward/credential/internal/vaulttest"
)

func TestStore(t *testing.T) {
	v := vaulttest.Start(t)
	credentialtest.TestStore(t, func(t *testing.T, secrets map[string]string) credential.Store {
		s := open(t, v, Options{Poll: 20 * time.Millisecond})
		credentialtest.Seed(t, s, secrets)
		return s
	})
}
