package cedarx

import (
	"strings"
	"testing"

	"github.com/cedar-policy/cedar-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What is compared must be of one type.
func TestComparisonsOfOneType(t *testing.T) {
	v, err := NewValidator("schema", `entity E;
action a appliesTo { principal: E, resource: E, context: { l: Long, d: datetime, s: duration, o?: Long, "<": Long } };`)
	require.NoError(t, err)
	for text, want := range map[string]string{
		`context.l < 5`:                       "",
		`context.l < context["<"]`:            "",
		`context.d >= datetime("2026-01-01")`: "",
		`context.s > duration("1h")`:          "",
		`context has o && context.o < 5`:      "",
		`{"<": {"left": 1, "right": 2}} == {"<": {"left": context.l, "right": 3}}`: "",
		`(if context.l < 5 then 1 else 2) <= 1`:                                    "",
		`context.d < 5`:                                                            "not compatible",
		`5 <= context.d`:                                                           "not compatible",
		`context.d > context.s`:                                                    "not compatible",
		`context.s >= context.l`:                                                   "not compatible",
		`context.l > 1 && !(context.s >= context.l)`:                               "not compatible",
		`(if context.d < 5 then 1 else 2) <= 1`:                                    "not compatible",
		`context.l < "x"`:                                                          "expected",
		`context.o < 5`:                                                            "optional",
	} {
		var p cedar.Policy
		require.NoError(t, p.UnmarshalCedar([]byte(`permit (principal, action, resource) when { `+text+` };`)))
		errs := v.Policy(&p)
		if want == "" {
			assert.Empty(t, errs, text)
			continue
		}
		if assert.NotEmpty(t, errs, text) {
			assert.ErrorContains(t, errs[0], want, text)
		}
	}
}

// Both sides are held against each other however long they are.
func TestComparisonOfLongSums(t *testing.T) {
	v, err := NewValidator("schema", `entity E; action a appliesTo { principal: E, resource: E, context: { d: datetime } };`)
	require.NoError(t, err)
	var p cedar.Policy
	require.NoError(t, p.UnmarshalCedar([]byte(`permit (principal, action, resource) when { 1`+strings.Repeat("+1", 6000)+` < context.d };`)))
	errs := v.Policy(&p)
	require.NotEmpty(t, errs)
	assert.ErrorContains(t, errs[0], "not compatible")
}
