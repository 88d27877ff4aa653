package governance_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/governance"
)

func TestLabels(t *testing.T) {
	x := newTeller(t, shop("facts: []", `
@id("no-leak") forbid (principal, action in Action::"chat:write", resource)
when { context.labels.contains("crm") };`))
	assert.True(t, x.call("chat__post", `{}`, done))
	d := x.ask("crm__read", `{}`)
	require.NotNil(t, d.Facts)
	assert.Equal(t, []string{"crm"}, d.Facts.Labels)
	assert.False(t, x.call("chat__post", `{}`, done), "the answer may be on its way")
	d.Settle(nothing)
	assert.True(t, x.call("chat__post", `{}`, done), "it was never made")
	assert.True(t, x.call("crm__read", `{}`, reached))
	assert.False(t, x.call("chat__post", `{}`, done), "an error may have told something")
	x.advance(1000 * time.Hour)
	assert.False(t, x.call("chat__post", `{}`, done), "labels stay")
	x.call("crm__read", `{}`, nothing)
	assert.False(t, x.call("chat__post", `{}`, done), "one more call that did not happen takes nothing away")

	x.actor.Session = "s2"
	assert.True(t, x.call("chat__post", `{}`, done))
	assert.True(t, x.call("bank__audit", `{}`, governance.Result{OK: true, Labels: []string{"pii"}}))
	assert.True(t, x.call("chat__post", `{}`, done), "no tool here is known to be about that")
	x.actor.Session = "s3"
	d = x.ask("chat__edit", `{}`)
	d.Settle(governance.Result{Labels: []string{"crm"}})
	assert.False(t, x.call("chat__post", `{}`, done), "what was found in a result stays")
}

// Labels of results stay also while no policy and no tool has any.
func TestResultLabelsWithoutReaders(t *testing.T) {
	bare := shop("facts: []", "")
	bare.Catalog[1].Tools[0].Labels = nil
	x := newTeller(t, bare)
	assert.True(t, x.call("bank__audit", `{}`, governance.Result{OK: true, Labels: []string{"crm"}}))
	_, err := x.Reload(t.Context(), shop("facts: []", reading(`context.labels.contains("crm")`)), change)
	require.NoError(t, err)
	assert.False(t, x.call("chat__post", `{}`, done))
}
