package audit_test

import (
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/twinward-dev/twinward/audit"
)

func TestNewID(t *testing.T) {
	form := regexp.MustCompile(`^[0-9a-hjkmnp-tv-z]{26}$`)
	seen := make(map[string]bool)
	first := audit.NewID()
	for range 1000 {
		id := audit.NewID()
		assert.Regexp(t, form, id)
		assert.False(t, seen[id], "twice: %s", id)
		// The first nine characters are of the time only.
		assert.GreaterOrEqual(t, id[:9], first[:9])
		seen[id] = true
	}
}
