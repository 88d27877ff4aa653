package credential_test

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential"
)

func TestVersionUses(t *testing.T) {
	ctx := t.Context()
	log := audittest.NewLog(t)
	begin := func(name, agent string) audit.Call {
		d := audit.Decision{ID: audit.NewID(), Effect: audit.Allow}
		in := audit.Intent{Door: audit.DoorTool, Action: "github__list", Resource: `Tool::"github__list"`, Actor: audit.Actor{Agent: agent}, Decision: d}
		if name != "" {
			in.Credential = &audit.CredentialUse{Name: name, Decision: d}
		}
		c, err := log.Begin(ctx, in)
		require.NoError(t, err)
		return c
	}
	end := func(c audit.Call, version uint64) {
		require.NoError(t, c.End(ctx, audit.Outcome{Status: audit.StatusOK, CredentialVersion: version}))
	}
	slow := begin("k", "slow")  // record 1
	end(begin("k", "a"), 1)     // 2
	end(begin("k", "b"), 1)     // 4
	end(begin("other", "c"), 7) // 6
	end(begin("", "c"), 0)
	end(slow, 1)
	end(begin("k", "d"), 2) // 11
	begin("k", "e")         // 13
	uses, err := credential.VersionUses(log.Query(ctx, audit.Filter{}), "k")
	require.NoError(t, err)
	for i := range uses {
		assert.False(t, uses[i].Last.IsZero())
		uses[i].Last = time.Time{}
	}
	assert.Equal(t, []credential.VersionUse{
		{Version: 0, Calls: 1, Record: 13, Agent: "e"},
		{Version: 1, Calls: 3, Record: 4, Agent: "b"},
		{Version: 2, Calls: 1, Record: 11, Agent: "d"},
	}, uses)
	_, err = credential.VersionUses(audit.Scan(ctx, os.DirFS(t.TempDir()), audit.Filter{}), "k")
	assert.Error(t, err)
}
