package governance

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An engine that can remember no more approvals accepts none, until the first
// have expired.
func TestUsedApprovalsAreBounded(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	u := usedApprovals{}
	a := Approval{At: now, Expires: now.Add(time.Minute)}
	for i := range maxUsed {
		a.ID = strconv.Itoa(i)
		require.NoError(t, u.use(&a, now))
	}
	a.ID = "one more"
	assert.ErrorIs(t, u.use(&a, now), errApprovalFull)
	a.ID = "0"
	assert.ErrorIs(t, u.use(&a, now), errApprovalUsed, "it still knows those that it has")
	now = now.Add(time.Minute)
	assert.ErrorIs(t, u.use(&a, now), errApprovalExpired, "once it has expired it may be forgotten")
	a = Approval{ID: "one more", At: now, Expires: now.Add(time.Minute)}
	assert.NoError(t, u.use(&a, now))
	assert.Len(t, u.until, 1)
}
