package governance_test

import (
	"testing"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/governance"
)

func TestMemberships(t *testing.T) {
	snap, rep, err := governance.Compile(t.Context(), governance.Bundle{
		Policies: []governance.Source{{Name: "p.cedar", Text: `@id("all") permit (principal in Team::"all", action, resource);`}},
		Profiles: []governance.Profile{{ID: "bots", Owner: "ops", Agents: []string{"a"}, Models: []string{"m/*"}}},
		Entities: []types.Entity{
			{UID: types.NewEntityUID("Agent", "a"), Parents: types.NewEntityUIDSet(types.NewEntityUID("Team", "red"), types.NewEntityUID("Team", "blue"))},
			{UID: types.NewEntityUID("Team", "red"), Parents: types.NewEntityUIDSet(types.NewEntityUID("Team", "all"))},
			{UID: types.NewEntityUID("Team", "blue"), Parents: types.NewEntityUIDSet(types.NewEntityUID("Team", "all"))},
			{UID: types.NewEntityUID("Team", "all")},
		},
	}, nil)
	require.NoError(t, err, "%v", rep)
	assert.Equal(t, governance.Memberships{Profiles: []string{"bots"}, Teams: []string{"all", "blue", "red"}}, snap.Memberships("a"))
	assert.Zero(t, snap.Memberships("b"))
	assert.Zero(t, governance.NewEngine(nil, nil).Memberships("a"))
}
