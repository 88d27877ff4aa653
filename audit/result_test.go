package audit_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// What went back to the agent is kept as the host says, and is a value like any.
func TestResults(t *testing.T) {
	levels := map[string]audit.Level{"committed": audit.LevelCommitted, "full": audit.LevelFull, "metadata": audit.LevelMetadata}
	k := newKeeper(t, audit.Options{Level: func(audit.Record) audit.Level { return audit.LevelMetadata }, Result: func(r audit.Record) audit.Level { return levels[r.Intent.Action] }})
	result := []byte(`{"rows":[1,2],"note":"` + marked + `"}`)
	end := func(action, user string, out audit.Outcome) audit.Record {
		in := act("a", user, audit.ClassWrite)
		in.Action = action
		c := must(k.Begin(ctx, in))
		assert.Equal(t, action == "committed" || action == "full", audit.WantsResult(c))
		require.NoError(t, c.End(ctx, out))
		return k.record(c.Record() + 1)
	}
	out := audit.Outcome{Status: audit.StatusOK, Result: result}
	for _, action := range []string{"default", "metadata"} {
		assert.Nil(t, end(action, "u", out).Result)
	}
	committed := end("committed", "u", out)
	assert.False(t, committed.Result.Kept)
	assert.True(t, committed.Result.Matches(result, k.key.Opening(*committed.Result)))
	_, err := k.values().Reveal(ctx, committed)
	assert.ErrorIs(t, err, audit.ErrNotKept)
	full := end("full", "u", out)
	other := end("full", "v", out)
	assert.Nil(t, end("full", "u", audit.Outcome{Status: audit.StatusFailed}).Result, "there was none")
	big := end("full", "u", audit.Outcome{Status: audit.StatusOK, Result: make([]byte, audit.MaxValue+1)})
	assert.False(t, big.Result.Kept)
	assert.Empty(t, leaks(t, k.st.FS()))
	assert.Empty(t, leaks(t, k.vs.FS()))

	d := must(k.values().Reveal(ctx, full))
	assert.Equal(t, string(result), string(d.Value))
	p := must(audit.Prove(ctx, k.st.FS(), full.Seq))
	one := must(d.Only("note"))
	require.NoError(t, audit.VerifyDisclosure(one, p.Record))
	one.Value = []byte(`"x"`)
	assert.ErrorIs(t, audit.VerifyDisclosure(one, p.Record), audit.ErrDisclosure)

	// Holds and erasures reach it by who acted, and by either record.
	require.NoError(t, k.Hold(ctx, "case", audit.Subject{Records: []uint64{other.Call}}, officer))
	_, err = k.Erase(ctx, audit.Subject{Records: []uint64{other.Seq}}, officer)
	assert.ErrorIs(t, err, audit.ErrHeld)
	require.NoError(t, k.Release(ctx, "case", officer))
	e := must(k.Erase(ctx, audit.Subject{Records: []uint64{other.Call}}, officer))
	assert.Equal(t, audit.Erased{Values: 1}, e)
	e = must(k.Erase(ctx, audit.Subject{User: "u"}, officer))
	assert.Equal(t, audit.Erased{Values: 1, Keys: 1}, e)
	assert.Equal(t, audit.ValueReport{Kept: 2, Erased: 2}, k.check())
	k.verify()
}

// Results are pruned with the class of their act.
func TestResultsArePruned(t *testing.T) {
	now := longAgo
	k := newKeeper(t, audit.Options{Clock: func() time.Time { return now }, Result: func(audit.Record) audit.Level { return audit.LevelFull }})
	for _, class := range []audit.Class{audit.ClassRead, audit.ClassWrite} {
		c := must(k.Begin(ctx, act("a", "u", class)))
		require.NoError(t, c.End(ctx, audit.Outcome{Status: audit.StatusOK, Result: []byte(`1`)}))
	}
	now = now.Add(300 * 24 * time.Hour)
	e := must(k.Prune(ctx, audit.Retention{Write: 400 * 24 * time.Hour, Quiet: years}, officer))
	assert.Equal(t, audit.Erased{Values: 1}, e, "the result of the read; its arguments were not kept")
	assert.Equal(t, audit.ValueReport{Kept: 3, Readable: 2, Pruned: 1}, k.check())
}

// Who acted is not known of a result whose intent was pruned: a hold on anybody is
// on it.
func TestHoldOfAResultWhoseIntentWasPruned(t *testing.T) {
	t.Parallel()
	now := longAgo
	k := newKeeper(t, audit.Options{SegmentSize: 2000, Clock: func() time.Time { return now }, Result: func(audit.Record) audit.Level { return audit.LevelFull }})
	c := must(k.Begin(ctx, act("a", "u", audit.ClassWrite)))
	for range 20 {
		require.NoError(t, k.Append(ctx, probe("a", "x")))
	}
	now = now.Add(300 * 24 * time.Hour)
	for range 20 {
		require.NoError(t, k.Append(ctx, probe("a", "x")))
	}
	require.NoError(t, c.End(ctx, audit.Outcome{Status: audit.StatusOK, Result: []byte(`1`)}))
	result := audit.Subject{Records: []uint64{k.Size()}}
	p := must(k.PruneRecords(ctx, audit.Retention{Quiet: years}, officer))
	require.Positive(t, p.Segments)
	require.Equal(t, 1, p.Values, "the arguments")
	for _, s := range []struct{ hold, erase audit.Subject }{
		{audit.Subject{User: "u"}, result},
		{audit.Subject{Agent: "z"}, result},
		{result, audit.Subject{User: "u"}},
		{result, audit.Subject{Agent: "a"}},
	} {
		require.NoError(t, k.Hold(ctx, "case", s.hold, officer))
		_, err := k.Erase(ctx, s.erase, officer)
		assert.ErrorIs(t, err, audit.ErrHeld, "%v", s)
		require.NoError(t, k.Release(ctx, "case", officer))
	}
	now = now.Add(300 * 24 * time.Hour)
	require.NoError(t, k.Hold(ctx, "case", audit.Subject{Agent: "z"}, officer))
	e := must(k.Prune(ctx, audit.Retention{Quiet: years}, officer))
	assert.Equal(t, []int{0, 1}, []int{e.Values, e.Held})
	require.NoError(t, k.Release(ctx, "case", officer))
	require.NoError(t, k.Hold(ctx, "case", audit.Subject{Records: []uint64{2}}, officer))
	e = must(k.Prune(ctx, audit.Retention{Quiet: years}, officer))
	assert.Equal(t, []int{1, 0}, []int{e.Values, e.Held}, "another record is held")
}

// A result that cannot be kept is on record as such, and End fails: the door does
// not answer.
func TestResultIsNotKept(t *testing.T) {
	broken := &downKEK{KEK: audit.NewKEK()}
	log := must(audit.New(&memory{}, &audit.Options{Key: must(audit.NewKey("audit.test/result")), KEK: broken, Values: &memory{}, Result: func(audit.Record) audit.Level { return audit.LevelFull }}))
	c := must(log.Begin(ctx, act("a", "u", audit.ClassRead)))
	broken.err = errors.New("down")
	err := c.End(ctx, audit.Outcome{Status: audit.StatusOK, Result: []byte("1"), Checks: []string{"schema"}})
	assert.ErrorIs(t, err, audit.ErrKey)
	for r, err := range log.Query(ctx, audit.Filter{Seq: 2}) {
		require.NoError(t, err)
		assert.Equal(t, []string{"schema", audit.CheckResultNotKept}, r.Outcome.Checks)
		assert.False(t, r.Result.Kept)
	}
	assert.ErrorIs(t, c.End(ctx, audit.Outcome{}), audit.ErrEnded)
	require.NoError(t, log.Close())

	bad := must(audit.New(&memory{}, &audit.Options{Key: must(audit.NewKey("audit.test/result")), Result: func(audit.Record) audit.Level { panic("host") }}))
	_, err = bad.Begin(ctx, act("a", "u", audit.ClassRead))
	assert.ErrorIs(t, err, audit.ErrInvalid)
	require.NoError(t, bad.Close())
}

type downKEK struct {
	audit.KEK
	err error
}

func (k *downKEK) Wrap(ctx context.Context, key, bound []byte) ([]byte, error) {
	if k.err != nil {
		return nil, k.err
	}
	return k.KEK.Wrap(ctx, key, bound)
}
