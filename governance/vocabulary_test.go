package governance

import (
	"testing"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/stretchr/testify/assert"
)

func TestLabelIsCedars(t *testing.T) {
	for r := range rune(0x250) {
		e := uid(typeAgent, "a"+string(r)+"b")
		assert.Equal(t, e.String(), label(e))
	}
	for _, id := range []types.String{"", "\xff", "e\u0301", "\u0301", "日本", "\u200b", "a b", `a"b`, "it's", `\`} {
		e := types.NewEntityUID(typeTool, id)
		assert.Equal(t, e.String(), label(e))
	}
}
