package gitanchor

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
)

// Of what git says only the beginning is kept, and it is let say the rest.
func TestHead(t *testing.T) {
	var h head
	for range 10_000 {
		n, err := fmt.Fprint(&h, "remote: go away\n")
		assert.Equal(t, 16, n)
		assert.NoError(t, err)
	}
	assert.Len(t, h, maxHead)
}
