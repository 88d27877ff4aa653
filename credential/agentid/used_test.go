package agentid_test

import (
	"context"
	"errors"
	"iter"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential/agentid"
)

func TestUsed(t *testing.T) {
	ctx := context.Background()
	log := audittest.NewLog(t)
	begin := func(agent, credential string) audit.Call {
		in := audit.Intent{Door: audit.DoorTool, Action: "a", Resource: "r", Actor: audit.Actor{Agent: agent}, Decision: audit.Decision{ID: audit.NewID(), Effect: audit.Allow, Policies: []audit.Policy{{ID: "p"}}}}
		if credential != "" {
			in.Credential = &audit.CredentialUse{Name: credential, Decision: in.Decision}
		}
		c, err := log.Begin(ctx, in)
		require.NoError(t, err)
		return c
	}
	end := func(c audit.Call, version uint64) {
		require.NoError(t, c.End(ctx, audit.Outcome{Status: audit.StatusOK, CredentialVersion: version}))
	}
	end(begin("standup", "slack"), 1)
	since := time.Now()
	end(begin("standup", "github"), 3)
	end(begin("standup", "github"), 4)
	begin("standup", "github")
	begin("standup", "")
	end(begin("other", "stripe"), 1)

	uses, err := agentid.Used(log.Query(ctx, audit.Filter{Agent: "standup"}), "standup", since)
	require.NoError(t, err)
	require.Len(t, uses, 1)
	assert.Equal(t, []any{"github", 3, uint64(4), 1}, []any{uses[0].Credential, uses[0].Calls, uses[0].Version, uses[0].Open})
	assert.False(t, uses[0].First.Before(since))

	uses, err = agentid.Used(log.Query(ctx, audit.Filter{}), "standup", time.Time{})
	require.NoError(t, err)
	require.Len(t, uses, 2)
	assert.Equal(t, "slack", uses[1].Credential)

	broken := errors.New("disk")
	_, err = agentid.Used(iter.Seq2[audit.Record, error](func(yield func(audit.Record, error) bool) { yield(audit.Record{}, broken) }), "standup", since)
	assert.ErrorIs(t, err, broken)
}
