package sandbox

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

func TestGoverned(t *testing.T) {
	direct := func(host string, ports ...uint16) Rule { return Rule{Host: host, Ports: ports} }
	served := Rule{Host: "api.github.com", Served: true, Ports: []uint16{80, 443}}
	for _, c := range []struct {
		governed string
		rules    []Rule
		bypass   int // the index of the rule, -1: none
	}{
		{"api.github.com", []Rule{direct("example.com"), direct("api.github.com")}, 1},
		{"API.GitHub.com.", []Rule{direct("Api.github.com")}, 0},
		{"api.github.com", []Rule{served}, -1},
		{"api.github.com", []Rule{direct("*.github.com")}, 0},
		{"api.github.com", []Rule{direct("**.github.com", 22)}, 0},
		{"api.github.com", []Rule{direct("*-api.github.com")}, -1},
		{"api.github.com", []Rule{direct("a*.github.com")}, 0},
		{"*.github.com", []Rule{direct("api.github.com")}, 0},
		{"*.github.com", []Rule{direct("github.com")}, -1},
		{"**.github.com", []Rule{direct("*.raw.github.com")}, 0},
		{"*.github.com", []Rule{direct("*.raw.github.com")}, -1},
		{"*a.github.com", []Rule{direct("b*.github.com")}, 0},
		// a narrower rule decides about the name, on its ports
		{"api.github.com", []Rule{direct("*.github.com"), served}, -1},
		{"api.github.com", []Rule{direct("*.github.com", 443, 22), served}, 0},
		{"*.github.com", []Rule{direct("*.github.com"), served}, 0},
		{"*.github.com", []Rule{direct("**.github.com"), {Host: "*.github.com", Served: true}}, -1},
		{"api.github.com", []Rule{{Host: "*.github.com", Served: true}, direct("api.github.com")}, 1},
		{"api.github.com", []Rule{
			{Host: "api.github.com", Programs: []Program{{Path: "/usr/bin/git"}}},
			{Host: "api.github.com", Served: true, Programs: []Program{{Path: "/usr/bin/node"}}},
		}, 0},
		// ports
		{"https://api.github.com", []Rule{direct("api.github.com", 22)}, -1},
		{"https://api.github.com/", []Rule{direct("api.github.com", 22, 443)}, 0},
		{"http://api.github.com", []Rule{direct("api.github.com", 80)}, 0},
		{"wss://api.github.com:8443", []Rule{direct("api.github.com", 443)}, -1},
		{"api.github.com:8443", []Rule{direct("*.github.com", 8443)}, 0},
		{"tools.local", []Rule{direct("tools.local")}, -1},
		// addresses, where a name spells them out
		{"10.0.0.7", []Rule{{Host: "10-0-0-7.sslip.io", Private: true}}, 0},
		{"10.0.0.7", []Rule{{Host: "x.10.0.0.7.nip.io", Private: true}}, 0},
		{"10.0.0.7", []Rule{{Host: "*.nip.io", Private: true}}, 0},
		{"10.0.0.7", []Rule{{Host: "0a000007.nip.io", Private: true}}, 0},
		{"https://10.0.0.7:8443", []Rule{{Host: "web-10-0-0-7.nip.io", Private: true}}, -1},
		{"https://10.0.0.7:8443", []Rule{{Host: "web-10-0-0-7.nip.io", Ports: []uint16{8443}, Private: true}}, 0},
		{"10.0.0.7", []Rule{direct("10.0.0.70.nip.io")}, -1},
		{"https://[2001:db8::7]", []Rule{direct("2001-db8--7.sslip.io")}, 0},
	} {
		p := &Policy{Network: Network{Allow: c.rules}}
		require.NoError(t, p.Validate(), "%+v", c)
		err := p.checkGoverned([]string{"other.example.net", c.governed})
		if c.bypass < 0 {
			assert.NoError(t, err, "%+v", c)
			continue
		}
		pe, ok := errors.AsType[*PolicyError](err)
		if assert.True(t, ok, "%+v: %v", c, err) {
			assert.Equal(t, "network.allow["+string(rune('0'+c.bypass))+"].host", pe.Field, "%+v", c)
			assert.Contains(t, pe.Problem, c.governed)
		}
	}
	// Shorthands decide as well.
	p := &Policy{Network: Network{Allow: []Rule{direct("*.github.com")}}, Services: []string{"api.github.com"}}
	assert.NoError(t, p.checkGoverned([]string{"https://api.github.com"}))
	for _, bad := range []string{"", "*", "*.com", "api.github.com:0", "api.github.com:x", "api.github.com:70000", "ftp://api.github.com", "https://", "https://a.example.com/path", "https://u@a.example.com", "a b"} {
		assert.ErrorContains(t, p.checkGoverned([]string{bad}), "Options.Governed", bad)
	}
	assert.NoError(t, (*Policy)(nil).checkGoverned([]string{"a.example.com"}))
}

func TestStartRefusesUngoverned(t *testing.T) {
	p := &Policy{Network: Network{Allow: []Rule{{Host: "api.github.com"}}}}
	_, err := Start(t.Context(), p, audit.Actor{Agent: "a", Issuer: "test"}, audittest.NewLog(t), &Options{Governed: []string{"https://api.github.com"}})
	pe, ok := errors.AsType[*PolicyError](err)
	require.True(t, ok, "%v", err)
	assert.Equal(t, "network.allow[0].host", pe.Field)
}
