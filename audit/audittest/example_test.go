package audittest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// greet is code under test: it may greet only what is on record.
func greet(ctx context.Context, log audit.Recorder, agent string) (string, error) {
	call, err := log.Begin(ctx, audit.Intent{
		Door: audit.DoorTool, Action: "greet", Actor: audit.Actor{Agent: agent},
		Decision: audit.Decision{ID: "d1", Effect: audit.Allow},
	})
	if err != nil {
		return "", err
	}
	if err := call.End(ctx, audit.Outcome{Status: audit.StatusOK}); err != nil {
		return "", err
	}
	return "hello", nil
}

func TestGreetIsOnRecord(t *testing.T) {
	log := audittest.NewLog(t)
	_, err := greet(t.Context(), log, "standup")
	require.NoError(t, err)
	recs := log.Records()
	require.Len(t, recs, 2)
	assert.Equal(t, "standup", recs[0].Intent.Actor.Agent)
	assert.Equal(t, recs[0].Seq, recs[1].Call)
	assert.Empty(t, log.Denials())
}

func TestNoAuditNoGreeting(t *testing.T) {
	log := audittest.NewLog(t)
	log.Fail(errors.New("the disk is gone"))
	answer, err := greet(t.Context(), log, "standup")
	assert.ErrorIs(t, err, audit.ErrFailed)
	assert.Empty(t, answer)
	assert.Empty(t, log.Records())
}

func TestPowerCut(t *testing.T) {
	log := audittest.NewLog(t)
	log.Storage.FailOn(func(op string) error {
		if op == "sync" {
			return errors.New("power")
		}
		return nil
	})
	_, err := greet(t.Context(), log, "standup")
	assert.ErrorIs(t, err, audit.ErrFailed)
	all := log.Storage.Bytes()
	assert.Less(t, len(log.Storage.PowerCut(0).Bytes()), len(all))
	assert.Equal(t, all, log.Storage.PowerCut(len(all)).Bytes())
}

func ExampleLog_Fail() {
	t := new(testing.T) // a test has its own
	log := audittest.NewLog(t)
	log.Fail(errors.New("the disk is gone"))
	_, err := greet(context.Background(), log, "standup")
	fmt.Println(err)
	// Output: audit: the log has failed and refuses everything until it is opened anew: the disk is gone
}
