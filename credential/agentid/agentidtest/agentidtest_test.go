package agentidtest_test

import (
	"testing"

	"github.com/twinward-dev/twinward/credential/agentid"
	"github.com/twinward-dev/twinward/credential/agentid/agentidtest"
)

func TestMemoryStore(t *testing.T) {
	agentidtest.TestStore(t, func(*testing.T) (a, b agentid.Store) {
		s := agentid.NewMemoryStore(nil)
		return s, s
	})
}
