package audit_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// Values are read with their KEK and no other.
func TestValuesNeedTheirKEK(t *testing.T) {
	k := newKeeper(t, audit.Options{})
	r := k.begin(act("a", "u", audit.ClassWrite))
	for _, kek := range []audit.KEK{nil, audit.NewKEK()} {
		v := must(audit.OpenValues(ctx, k.vs.FS(), kek))
		_, err := v.Reveal(ctx, r)
		assert.ErrorIs(t, err, audit.ErrKey)
	}
	rep := must(must(audit.OpenValues(ctx, k.vs.FS(), nil)).Check(ctx, k.Query(ctx, audit.Filter{})))
	assert.Equal(t, audit.ValueReport{Kept: 1, Readable: 1}, rep)
	assert.NotContains(t, fmt.Sprintf("%v %+v %#v %s", k.kek, k.kek, k.kek, k.kek), "twinward-kek-v1+")

	// A new one does for new values.
	require.NoError(t, k.Close())
	old := k.kek
	k.kek = audit.NewKEK()
	k.open()
	r2 := k.begin(act("a", "u", audit.ClassWrite))
	_, err := k.values().Reveal(ctx, r2)
	assert.NoError(t, err)
	_, err = must(audit.OpenValues(ctx, k.vs.FS(), old)).Reveal(ctx, r)
	assert.NoError(t, err)
	assert.Equal(t, []uint64{1}, k.check().Unopened)
}

// A KEK that fails denies: nothing happens whose arguments cannot be kept.
type brokenKEK struct{ err error }

func (brokenKEK) ID() string                                               { return "broken" }
func (k brokenKEK) Wrap(context.Context, []byte, []byte) ([]byte, error)   { return nil, k.err }
func (k brokenKEK) Unwrap(context.Context, []byte, []byte) ([]byte, error) { return nil, k.err }

func TestBrokenKEKDenies(t *testing.T) {
	for _, cause := range []error{nil, errors.New("the HSM is away")} {
		m := new(audittest.Memory)
		log := must(audit.New(m, &audit.Options{Key: must(audit.NewKey("x")), Values: new(audittest.Memory), KEK: brokenKEK{cause}}))
		_, err := log.Begin(ctx, act("a", "u", audit.ClassWrite))
		assert.ErrorIs(t, err, audit.ErrKey)
		_, err = log.Begin(ctx, act("a", "u", audit.ClassRead))
		assert.NoError(t, err)
		require.NoError(t, log.Close())
	}
}

// Where the file of the data keys is gone, nothing goes on that would take values
// for ones whose keys were erased.
func TestDataKeysAreMissing(t *testing.T) {
	t.Parallel()
	k := newKeeper(t, audit.Options{})
	k.begin(act("a", "u", audit.ClassWrite))
	require.NoError(t, k.Hold(ctx, "m", audit.Subject{User: "u"}, officer))
	require.NoError(t, k.Close())
	files := k.vs.FS()
	keys := files["keys.v1.jsonl"]
	delete(files, "keys.v1.jsonl")
	_, err := audit.New(k.st, &audit.Options{Key: k.key, KEK: k.kek, Values: audittest.NewMemoryFS(files)})
	require.ErrorIs(t, err, audit.ErrKey)
	require.ErrorContains(t, err, "keys.v1.jsonl")
	files["keys.v1.jsonl"] = keys
	k.vs = audittest.NewMemoryFS(files)
	k.open()
	assert.Equal(t, "shown", k.shown())
}

// A slowKEK is asked and does not answer before it is told to.
type slowKEK struct {
	audit.KEK
	asked, answer chan struct{}
}

func (k slowKEK) Wrap(ctx context.Context, key, bound []byte) ([]byte, error) {
	close(k.asked)
	<-k.answer
	return k.KEK.Wrap(ctx, key, bound)
}

// While a KEK is out of reach nobody waits for it longer than their own context.
func TestKEKIsSlow(t *testing.T) {
	t.Parallel()
	slow := slowKEK{audit.NewKEK(), make(chan struct{}), make(chan struct{})}
	begun := make(chan struct{}, 2) // by those who have got past the first look at their context
	level := func(audit.Record) audit.Level { begun <- struct{}{}; return audit.LevelFull }
	log := must(audit.New(new(audittest.Memory), &audit.Options{Key: must(audit.NewKey("audit.test/slow")), KEK: slow, Values: new(audittest.Memory), Level: level}))
	first := make(chan error, 1)
	go func() {
		_, err := log.Begin(ctx, act("a", "u", audit.ClassWrite))
		first <- err
	}()
	<-slow.asked
	<-begun
	second := make(chan error, 1)
	short, cancel := context.WithCancel(ctx)
	go func() {
		_, err := log.Begin(short, act("a", "u", audit.ClassWrite))
		second <- err
	}()
	<-begun
	cancel()
	select {
	case err := <-second:
		assert.ErrorIs(t, err, context.Canceled)
	case <-time.After(time.Minute):
		t.Error("it waits beyond its context")
	}
	close(slow.answer)
	assert.NoError(t, <-first)
	assert.NoError(t, log.Close())
}
