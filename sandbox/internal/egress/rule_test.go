package egress

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// One rule alone decides: the words of another one never widen it.
func TestTheMostSpecificRuleDecides(t *testing.T) {
	rules := []Rule{
		allow("**.example.com", []uint16{443, 80}, "private"),
		allow("api.example.com", []uint16{443}),
		allow("*.example.com", []uint16{443}, "served"),
		allow("*-eu.example.com", []uint16{443}),
		allow("a.*.example.com", []uint16{443}),
		allow("*.b.example.com", []uint16{443}, "private"),
	}
	for range 20 {
		rand.Shuffle(len(rules), func(i, j int) { rules[i], rules[j] = rules[j], rules[i] })
		s, err := newRuleSet(rules)
		require.NoError(t, err)
		for _, c := range []struct {
			name string
			port uint16
			want string
		}{
			{"api.example.com", 443, "api.example.com"},
			{"api.example.com", 80, "**.example.com"},
			{"x.example.com", 443, "*.example.com"},
			{"x-eu.example.com", 443, "*-eu.example.com"},
			{"a.x.example.com", 443, "a.*.example.com"},
			{"a.b.example.com", 443, "*.b.example.com"},
			{"x.y.z.example.com", 443, "**.example.com"},
			{"x.example.com", 8080, ""},
			{"example.com", 443, ""},
		} {
			got := s.find(c.name, c.port)
			if c.want == "" {
				assert.Empty(t, got, c.name)
				continue
			}
			require.Len(t, got, 1, c.name)
			i := slices.IndexFunc(rules, func(r Rule) bool { return r.Host.String() == c.want })
			assert.Equal(t, rules[i], got[0], "%s:%d", c.name, c.port)
		}
	}
}

func TestRulesThatDisagree(t *testing.T) {
	host := "api.example.com"
	_, err := newRuleSet([]Rule{allow(host, []uint16{443, 80}), allow(host, []uint16{80, 8080}, "private")})
	assert.ErrorContains(t, err, "two rules for api.example.com say different things")
	s, err := newRuleSet([]Rule{allow(host, []uint16{443}), allow(host, []uint16{80}, "private"), allow(host, []uint16{443, 8443})})
	require.NoError(t, err, "different ports, or the same words")
	assert.False(t, s.find(host, 443)[0].Private)
	assert.True(t, s.find(host, 80)[0].Private)
	_, err = newRuleSet([]Rule{{Host: s[0].Host, Ports: []uint16{443}, Protocol: "quic"}})
	assert.ErrorContains(t, err, `protocol "quic" is unknown`)
}
