package mcpx

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// M6: a client answers what it was asked, once, and nothing else.
func TestAnswersNeedQuestions(t *testing.T) {
	o := newOwners(nil)
	assert.False(t, o.answer("s"))
	done := o.ask("s")
	assert.False(t, o.answer("other"))
	assert.True(t, o.answer("s"))
	assert.False(t, o.answer("s"))
	second := o.ask("s")
	done()
	done()
	assert.True(t, o.answer("s"))
	second()
	assert.False(t, o.answer("s"))
	assert.Empty(t, o.asked)
}
