package setup

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

func TestStack(t *testing.T) {
	log, err := audit.Open(filepath.Join(t.TempDir(), "log"), nil)
	require.NoError(t, err)
	var s Stack
	var order []int
	broken := errors.New("broken")
	for i := range 3 {
		s.Later(func() error {
			order = append(order, i)
			require.NoError(t, log.Append(t.Context(), audit.Event{Kind: audit.KindProbe}), "the log is still open")
			if i == 1 {
				return broken
			}
			return nil
		})
	}
	assert.ErrorIs(t, s.Close(log), broken)
	assert.Equal(t, []int{2, 1, 0}, order, "each once, and also after one that fails")
	assert.ErrorIs(t, log.Append(t.Context(), audit.Event{Kind: audit.KindProbe}), audit.ErrClosed)
	assert.NoError(t, s.Close(log))
	assert.NoError(t, s.Close(nil))
	assert.Len(t, order, 3)
}

func TestTokensDiffer(t *testing.T) {
	assert.NotEqual(t, Token(), Token())
}
