//go:build linux && (amd64 || arm64)

package sandbox

import (
	"context"
	"testing"

	cedar "github.com/cedar-policy/cedar-go/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/governance"
)

func TestEngineDecidesExec(t *testing.T) {
	log := audittest.NewLog(t)
	engine := governance.NewEngine(log, nil)
	_, err := engine.Reload(context.Background(), governance.Bundle{
		Policies: []governance.Source{{Name: "exec.cedar", Text: `
			@id("only-true")
			permit (principal == Agent::"tester", action == Action::"exec", resource == Sandbox::"ci")
			when { context has program && context.program == "true" };`}},
		Entities: []cedar.Entity{{UID: cedar.NewEntityUID("Agent", "tester")}},
	}, audit.Change{By: "test", Reason: "test"})
	require.NoError(t, err)
	s := box(t, log, nil, &Options{Engine: engine, Name: "ci"})
	require.NoError(t, s.Command(context.Background(), "true").Run())
	err = s.Command(context.Background(), "touch", "ran").Run()
	require.ErrorIs(t, err, ErrDenied)
	assert.NoFileExists(t, s.Workspace()+"/ran")
	denials := log.Denials()
	require.Len(t, denials, 1)
	assert.Equal(t, audit.ReasonNoPermit, denials[0].Decision.Reason)
	assert.Equal(t, `Sandbox::"ci"`, denials[0].Resource)

	// An engine without policies in force denies.
	empty := box(t, log, nil, &Options{Engine: governance.NewEngine(log, nil)})
	assert.ErrorIs(t, empty.Command(context.Background(), "true").Run(), ErrDenied)
	require.Len(t, log.Denials(), 2)
}
