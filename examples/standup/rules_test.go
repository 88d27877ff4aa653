package main

import (
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/governance"
)

func TestRulesCompile(t *testing.T) {
	rules, err := fs.Sub(files, "bundle")
	require.NoError(t, err)
	bundle, err := governance.LoadBundle(rules)
	require.NoError(t, err)
	report, err := governance.NewEngine(audittest.NewLog(t), nil).Reload(t.Context(), bundle, audit.Change{By: "test", Reason: "test"})
	require.NoError(t, err)
	for _, f := range report.Findings {
		t.Log(f)
	}
}
