package governance

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/twinward-dev/twinward/audit"
)

func TestSettleOnce(t *testing.T) {
	Decision{}.Settle(Result{OK: true}) // nothing to settle

	var got []Result
	var d Decision
	d.onSettle(func(r Result) { got = append(got, r) })
	d.onSettle(func(r Result) { got = append(got, r) })
	copied := d
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() { copied.Settle(Result{OK: true}) })
	}
	wg.Wait()
	d.Settle(Result{})
	assert.Equal(t, []Result{{OK: true}, {OK: true}}, got)
}

func TestResultOf(t *testing.T) {
	for _, c := range []struct {
		status audit.Status
		code   string
		want   Result
	}{
		{audit.StatusOK, "", Result{OK: true}},
		{audit.StatusCancelled, "cancelled", Result{Unsure: true}},
		{audit.StatusCancelled, "revoked", Result{Unsure: true}},
		{audit.StatusCancelled, "not-begun", Result{}},
		{audit.StatusFailed, "tool-error", Result{Reached: true}},
		{audit.StatusFailed, "error", Result{Reached: true}},
		{audit.StatusFailed, "upstream-down", Result{}},
		{audit.StatusFailed, "credential", Result{}},
		{audit.StatusFailed, "consent", Result{}},
		{audit.StatusFailed, "not-started", Result{}},
		{audit.StatusFailed, "name-not-found", Result{}},
		{audit.StatusFailed, "unreachable", Result{}},
		{audit.StatusFailed, "input-required", Result{Reached: true}},
		{audit.StatusFailed, "upstream-unauthorized", Result{Reached: true}},
		{audit.StatusFailed, "upstream-error-event", Result{Reached: true}},
		{audit.StatusFailed, "timeout", Result{Unsure: true}},
		{audit.StatusFailed, "upstream-broken", Result{Unsure: true}},
		{audit.StatusFailed, "panic", Result{Unsure: true}},
		{audit.StatusFailed, "withheld", Result{Unsure: true}},
		{audit.StatusFailed, "exit-1", Result{Unsure: true}},
		{audit.StatusFailed, "signal-9", Result{Unsure: true}},
		{audit.StatusFailed, "something new", Result{Unsure: true}},
		{audit.StatusFailed, "", Result{Unsure: true}},
		{audit.StatusFailed, "upstream-", Result{Unsure: true}},
		{audit.StatusFailed, "upstream-429", Result{Reached: true}},
		{audit.StatusFailed, "upstream-408", Result{Unsure: true}},
		{audit.StatusFailed, "upstream-504", Result{Unsure: true}},
		{audit.StatusFailed, "private-address", Result{}},
		{audit.StatusCancelled, "tool-error", Result{Unsure: true}},
		{"something new", "", Result{Unsure: true}},
	} {
		assert.Equal(t, c.want, ResultOf(audit.Outcome{Status: c.status, ErrorCode: c.code}), "%s %s", c.status, c.code)
	}
}
