package strictyaml_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/twinward-dev/twinward/governance/strictyaml"
)

func TestLocate(t *testing.T) {
	const text = "a: 1\nlist:\n  - name: x\n    size: 1\n  - name: y\n    size: {in: [1, 2]}\n"
	for _, tc := range []struct {
		path []any
		want string
	}{
		{[]any{"list", 1, "name"}, "f:5:11: odd"},
		{[]any{"list", 1, "size", "in", 1}, "f:6:20: odd"},
		{[]any{"list", 1}, "f:5:5: odd"},
		{[]any{"list", 1, "colour"}, "f:5:5: odd"},
		{[]any{"list", 7}, "f:3:3: odd"},
		{[]any{"a"}, "f:1:4: odd"},
		{[]any{"a", "b", 3}, "f:1:4: odd"},
		{nil, "f:1:1: odd"},
	} {
		assert.EqualError(t, strictyaml.Locate("f", []byte(text), 1<<10, "odd", tc.path...), tc.want)
	}
	assert.EqualError(t, strictyaml.Locate("f", []byte("[[["), 1<<10, "odd", "a"), "f: odd")
	assert.EqualError(t, strictyaml.Locate("f", []byte("a: 1"), 1<<10, "odd", "a"), "f:1:4: odd")
}
