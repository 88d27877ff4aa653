package entity

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestSplit(t *testing.T) {
	for resource, want := range map[string][2]string{
		`Tool::"github__list_prs"`:               {"Tool", "github__list_prs"},
		`Model::"acme/small"`:                    {"Model", "acme/small"},
		"Host::" + strconv.Quote("a\"b::\"\x1b"): {"Host", "a\"b::\"\x1b"},
		`Tool::""`:                               {"Tool", ""},

		"":              {"", ""},
		"POST /mcp":     {"", "POST /mcp"},
		`Tool::"open`:   {"", `Tool::"open`},
		`Tool::"a" "b"`: {"", `Tool::"a" "b"`},
		`Tool::a`:       {"", "Tool::a"},
	} {
		kind, name := Split(resource)
		assert.Equal(t, want, [2]string{kind, name}, resource)
	}
}
