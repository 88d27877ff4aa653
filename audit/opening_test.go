package audit

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An opening depends on its salt alone, however many are asked for at once.
func TestOpeningsAtOnce(t *testing.T) {
	key, err := NewKey("audit.test/openings")
	require.NoError(t, err)
	var askers sync.WaitGroup
	for i := range 8 {
		askers.Go(func() {
			for j := range 100 {
				salt := []byte{byte(i), byte(j)}
				assert.Equal(t, mac(key.secret.commit[:], salt), key.Opening(Commitment{Salt: salt}))
			}
		})
	}
	askers.Wait()
}
