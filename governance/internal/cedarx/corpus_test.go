package cedarx_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/governance/internal/cedarx"
	"github.com/twinward-dev/twinward/governance/internal/corpustest"
)

// The wrapper folds a policy's clauses into one before it asks cedar-go's
// validator. On the corpus of cedar-go that changes no verdict: each is that of
// Rust Cedar under strict validation.
func TestCorpusVerdicts(t *testing.T) {
	valid, invalid := 0, 0
	for _, c := range corpustest.Load(t, 10) {
		v, err := cedarx.NewValidator(c.Name, c.Schema)
		require.NoError(t, err, c.Name)
		for id, p := range c.Policies.All() {
			want, ok := c.Strict[id]
			require.True(t, ok, "%s: no verdict about %s", c.Name, id)
			errs := v.Policy(p)
			require.Equal(t, want, len(errs) == 0, "%s: %v\n%s", c.Name, errs, p.MarshalCedar())
			if want {
				valid++
			} else {
				invalid++
			}
		}
	}
	t.Logf("%d valid policies, %d invalid", valid, invalid)
	require.NotZero(t, valid)
	require.NotZero(t, invalid)
}
