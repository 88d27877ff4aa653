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

// An answer that crosses the withdrawal of its question is let in, once, and not
// without bound.
func TestAnswersMayCrossWithdrawals(t *testing.T) {
	o := newOwners(nil)
	o.add("s", "me")
	o.ask("s")()
	assert.True(t, o.answer("s"))
	assert.False(t, o.answer("s"))
	for range 100 {
		o.ask("s")()
	}
	late := 0
	for o.answer("s") {
		late++
	}
	assert.Equal(t, maxWithdrawn, late)
	done := o.ask("s")
	o.ask("s")()
	o.drop("s")
	done()
	assert.Empty(t, o.asked)
}
