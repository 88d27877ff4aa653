package audit_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

type remote struct{ *audittest.Memory }

func (remote) Remote() {}

// While a storage is out of reach, each caller is refused when their own context
// ends, the first one too. The log works again with the storage.
func TestStorageOutOfReach(t *testing.T) {
	m := new(audittest.Memory)
	log, err := audit.New(remote{m}, &audit.Options{Key: sinkKey(t)})
	require.NoError(t, err)
	reached := make(chan struct{})
	out := false
	m.FailOn(func(op string) error {
		if op == "sync" && !out {
			out = true
			<-reached
		}
		return nil
	})
	for range 5 {
		short, cancel := context.WithTimeout(ctx, time.Millisecond)
		_, err = log.Begin(short, intent("a", "x"))
		require.ErrorIs(t, err, audit.ErrBusy)
		require.ErrorIs(t, log.Append(short, denial("a", "y")), context.DeadlineExceeded)
		cancel()
	}
	close(reached)
	call, err := log.Begin(ctx, intent("a", "z"))
	require.NoError(t, err)
	require.NoError(t, call.End(ctx, audit.Outcome{Status: audit.StatusOK}))
	require.NoError(t, log.Close())

	open, err := audit.OpenCalls(audit.Scan(ctx, m.FS(), audit.Filter{}))
	require.NoError(t, err)
	assert.Empty(t, open, "the refused intents say that they were not begun")
	assert.GreaterOrEqual(t, log.Size(), uint64(4))
}

// A remote storage that fails fails the log as any other.
func TestRemoteStorageThatFails(t *testing.T) {
	m := new(audittest.Memory)
	log, err := audit.New(remote{m}, &audit.Options{Key: sinkKey(t)})
	require.NoError(t, err)
	m.FailOn(func(string) error { return errors.New("gone") })
	assert.ErrorIs(t, log.Append(ctx, denial("a", "y")), audit.ErrFailed)
	assert.ErrorIs(t, log.Append(ctx, denial("a", "y")), audit.ErrFailed)
	assert.ErrorIs(t, log.Close(), audit.ErrFailed)
}
