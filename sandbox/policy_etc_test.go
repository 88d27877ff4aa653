//go:build linux && (amd64 || arm64)

package sandbox

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit/audittest"
)

// A path that would hide what a session makes for itself is found by whoever
// looks at the policy, and not only by Start.
func TestPathsOverWhatTheSessionMakes(t *testing.T) {
	for _, p := range []string{"/etc", "/etc/hosts", "/etc/ssl", "/etc/ssl/certs", trustFile} {
		for _, f := range []Filesystem{{ReadOnly: []string{p}}, {ReadWrite: []string{p}}} {
			var pe *PolicyError
			require.ErrorAs(t, (&Policy{Filesystem: f}).Validate(), &pe, p)
			assert.Contains(t, pe.Problem, "which a session makes for itself")
		}
	}
	assert.NoError(t, (&Policy{Filesystem: Filesystem{ReadOnly: []string{"/etc/alternatives", "/etc/ssl/openssl.cnf"}}}).Validate())
	s := box(t, audittest.NewLog(t), nil, nil)
	var made []string
	trust, err := s.trust()
	require.NoError(t, err)
	for _, f := range append(s.files(), trust...) {
		made = append(made, f.Path)
	}
	assert.Equal(t, madeFiles, made)
}
