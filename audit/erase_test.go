package audit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// erasures are the events of kind K as words.
func (k *keeper) erasures() (words []string) {
	for r, err := range k.Query(ctx, audit.Filter{Kind: audit.KindErasure}) {
		require.NoError(k.t, err)
		d := r.Event.Detail
		words = append(words, strings.TrimSpace(fmt.Sprint(r.Event.Action, " ", d["state"], " ", d["values"], " ", d["keys"])))
		assert.Equal(k.t, &officer, r.Event.Change)
	}
	return words
}

func TestErase(t *testing.T) {
	k := newKeeper(t, audit.Options{SegmentSize: 3000})
	for range 3 {
		k.begin(act("a", "u", audit.ClassWrite))
		k.begin(act("a", "v", audit.ClassWrite))
		k.begin(act("b", "u", audit.ClassWrite))
		k.deny("b", "", markedArgs)
	}
	proof := must(audit.Prove(ctx, k.st.FS(), 1)).Text()
	before := k.verify()
	copied := k.vs.FS() // what an attacker took before
	dataKeys := k.vs.FS()["keys.v1.jsonl"].Data

	e, err := k.Erase(ctx, audit.Subject{User: "u"}, officer)
	require.NoError(t, err)
	assert.Equal(t, audit.Erased{Values: 6, Keys: 2}, e)
	assert.Equal(t, "gone shown gone shown gone shown gone shown gone shown gone shown", k.shown())
	assert.Equal(t, audit.ValueReport{Kept: 12, Readable: 6, Erased: 6}, k.check())
	assert.Equal(t, []string{"erase_values begun", "erase_values done 6 2"}, k.erasures())

	// The proofs are those of before.
	after := k.verify()
	assert.Equal(t, before.Records+2, after.Records)
	p, err := audit.VerifyProof(proof, nil, k.key.VerifierKey())
	require.NoError(t, err)
	assert.Equal(t, uint64(1), p.Seq)

	// An older copy of the values is of no use with what is left of the keys, and
	// what is left of them is nothing.
	copied["keys.v1.jsonl"] = k.vs.FS()["keys.v1.jsonl"]
	v := must(audit.OpenValues(ctx, copied, k.kek))
	for r, err := range k.Query(ctx, audit.Filter{}) {
		require.NoError(t, err)
		if r.Args == nil || r.Actor().User != "u" {
			continue
		}
		_, err = v.Reveal(ctx, r)
		assert.ErrorIs(t, err, audit.ErrGone)
	}
	all := bytes.Join([][]byte{k.vs.Bytes(), k.vs.PowerCut(0).Bytes()}, nil)
	for line := range bytes.Lines(dataKeys) {
		wrapped := string(line[bytes.Index(line, []byte(`"wrapped":"`))+11 : len(line)-3])
		assert.Equal(t, !bytes.Contains(line, []byte(`"user":"u"`)), bytes.Contains(all, []byte(wrapped)))
	}
	for _, r := range []audit.Record{k.record(1), k.record(3)} {
		for name, f := range k.vs.FS() {
			assert.NotContains(t, string(f.Data), fmt.Sprintf(`"salt":"%s"`, b64(r.Args.Salt)), name)
		}
	}

	// Again, it is nothing; and new values of the subject are kept anew.
	e, err = k.Erase(ctx, audit.Subject{User: "u"}, officer)
	require.NoError(t, err)
	assert.Zero(t, e)
	k.begin(act("a", "u", audit.ClassWrite))
	assert.Equal(t, audit.ValueReport{Kept: 13, Readable: 7, Erased: 6}, k.check())

	e, err = k.Erase(ctx, audit.Subject{Agent: "b"}, officer)
	require.NoError(t, err)
	assert.Equal(t, audit.Erased{Values: 3, Keys: 1}, e)
	e, err = k.Erase(ctx, audit.Subject{Agent: "a", User: "v"}, officer)
	require.NoError(t, err)
	assert.Equal(t, audit.Erased{Values: 3, Keys: 1}, e)
	require.NoError(t, k.Close())
	k.open()
	assert.Equal(t, audit.ValueReport{Kept: 13, Readable: 1, Erased: 12}, k.check())
}

func TestEraseRecords(t *testing.T) {
	k := newKeeper(t, audit.Options{})
	for range 3 {
		k.begin(act("a", "u", audit.ClassWrite))
	}
	e, err := k.Erase(ctx, audit.Subject{Records: []uint64{2, 3, 99}, Agent: "a"}, officer)
	require.NoError(t, err)
	assert.Equal(t, audit.Erased{Values: 2}, e)
	assert.Equal(t, "shown gone gone", k.shown())
	assert.Equal(t, audit.ValueReport{Kept: 3, Readable: 1, Erased: 2}, k.check())
	e, err = k.Erase(ctx, audit.Subject{Records: []uint64{1}, Agent: "b"}, officer)
	require.NoError(t, err)
	assert.Zero(t, e)
	assert.Equal(t, "shown gone gone", k.shown())
}

func TestEraseRefuses(t *testing.T) {
	k := newKeeper(t, audit.Options{})
	k.begin(act("a", "u", audit.ClassWrite))
	for _, s := range []audit.Subject{{}, {Records: []uint64{0}}, {Records: make([]uint64, 3000)}} {
		_, err := k.Erase(ctx, s, officer)
		assert.ErrorIs(t, err, audit.ErrInvalid)
	}
	_, err := k.Erase(ctx, audit.Subject{User: "u"}, audit.Change{By: "x"})
	assert.ErrorIs(t, err, audit.ErrNoAuthority)
	_, err = k.Prune(ctx, audit.Retention{}, audit.Change{})
	assert.ErrorIs(t, err, audit.ErrNoAuthority)
	assert.ErrorIs(t, k.Hold(ctx, "m", audit.Subject{}, audit.Change{}), audit.ErrNoAuthority)
	for _, kind := range []audit.Kind{audit.KindErasure, audit.KindHold} {
		assert.ErrorIs(t, k.Append(ctx, audit.Event{Kind: kind, Change: &officer}), audit.ErrInvalid)
	}
	assert.Equal(t, "shown", k.shown())
	assert.EqualValues(t, 1, k.Size())
	require.NoError(t, k.Close())
	_, err = k.Erase(ctx, audit.Subject{User: "u"}, officer)
	assert.ErrorIs(t, err, audit.ErrClosed)
	var none *audit.Log
	_, err = none.Erase(ctx, audit.Subject{User: "u"}, officer)
	assert.ErrorIs(t, err, audit.ErrNoLog)
	_, err = none.Prune(ctx, audit.Retention{}, officer)
	assert.ErrorIs(t, err, audit.ErrNoLog)
	assert.ErrorIs(t, none.Hold(ctx, "m", audit.Subject{}, officer), audit.ErrNoLog)
	_, err = none.Holds(ctx)
	assert.ErrorIs(t, err, audit.ErrNoLog)
}

// An erasure is killed at each of its writes, with each of them on the disk, half
// on it, or not: the log verifies, what was not to be erased stays, and the same
// erasure again leaves nothing.
func TestEraseIsKilledAtEveryWrite(t *testing.T) {
	type store struct{ log bool }
	subjects := []audit.Subject{{User: "u"}, {Records: []uint64{1, 3, 5}}}
	crashes := 0
	for _, subject := range subjects {
		for _, s := range []store{{true}, {false}} {
			for _, op := range []string{"write", "sync", "truncate"} {
				for point := 0; ; point++ {
					k := newKeeper(t, audit.Options{SegmentSize: 1200})
					for range 3 {
						k.begin(act("a", "u", audit.ClassWrite))
						k.begin(act("a", "v", audit.ClassWrite))
					}
					n, hit := -1, false
					st := k.vs
					if s.log {
						st = k.st
					}
					st.FailOn(func(o string) error {
						if o == op {
							n++
						}
						if hit = hit || o == op && n == point; hit {
							return errors.New("killed")
						}
						return nil
					})
					_, err := k.Erase(ctx, subject, officer)
					if hit {
						require.Error(t, err)
						crashes++
					}
					_ = k.Close()
					for _, extra := range []int{0, 100, 1 << 20} {
						l := &keeper{t: t, key: k.key, kek: k.kek, st: k.st.PowerCut(extra), vs: k.vs.PowerCut(extra), opts: k.opts}
						l.open()
						rep := l.check()
						require.Empty(t, rep.Missing, "%s %d %d: gone without a record of it", op, point, extra)
						require.Empty(t, rep.Damaged)
						require.GreaterOrEqual(t, rep.Readable, 3)
						if hit && rep.Erased > 0 {
							require.Contains(t, l.erasures(), "erase_values begun")
						}
						_, err = l.Erase(ctx, subject, officer)
						require.NoError(t, err)
						require.Equal(t, "gone shown gone shown gone shown", l.shown(), "%s %d %d", op, point, extra)
						for _, seq := range []uint64{1, 3, 5} {
							require.NotContains(t, string(l.vs.PowerCut(0).Bytes()), b64(l.record(seq).Args.Salt))
						}
						for name, f := range l.vs.FS() {
							for line := range bytes.Lines(bytes.TrimRight(f.Data, "\x00")) {
								if line = bytes.TrimSpace(line); len(line) == 0 {
									continue
								}
								_, err := audit.ParseValueLine(line)
								if name == "keys.v1.jsonl" {
									_, err = audit.ParseKeyLine(line)
								}
								require.NoError(t, err, "half a line is left in %s", name)
							}
						}
						if subject.User != "" {
							require.NotContains(t, string(l.vs.PowerCut(0).Bytes()), `"user":"u"`)
						}
						l.verify()
						require.NoError(t, l.Close())
					}
					if !hit {
						break
					}
				}
			}
		}
	}
	assert.Greater(t, crashes, 20)
}

// Values that are being written are erased or not, each as the log says.
func TestEraseWhileWriting(t *testing.T) {
	k := newKeeper(t, audit.Options{SegmentSize: 20_000})
	var stop atomic.Bool
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := 0; !stop.Load() && i < soak(100, 300, 1000); i++ {
				_, err := k.Begin(ctx, act("a", fmt.Sprint("u", (w+i)%2), audit.ClassWrite))
				assert.NoError(t, err)
			}
		})
	}
	erased := 0
	for range 8 {
		e, err := k.Erase(ctx, audit.Subject{User: "u0"}, officer)
		require.NoError(t, err)
		erased += e.Keys
	}
	stop.Store(true)
	wg.Wait()
	rep := k.check()
	assert.Empty(t, rep.Missing)
	assert.Empty(t, rep.Damaged)
	assert.Equal(t, rep.Kept, rep.Readable+rep.Erased)
	_, err := k.Erase(ctx, audit.Subject{User: "u0"}, officer)
	require.NoError(t, err)
	v := k.values()
	for r, err := range k.Query(ctx, audit.Filter{}) {
		require.NoError(t, err)
		if r.Args != nil {
			_, err := v.Reveal(ctx, r)
			require.Equal(t, r.Actor().User == "u0", errors.Is(err, audit.ErrGone))
		}
	}
	rep = k.check()
	assert.Empty(t, rep.Missing)
	t.Logf("%+v, %d keys", rep, erased)
}

func TestHolds(t *testing.T) {
	k := newKeeper(t, audit.Options{})
	for range 2 {
		k.begin(act("a", "u", audit.ClassWrite))
		k.begin(act("b", "v", audit.ClassWrite))
	}
	legal := audit.Change{By: "legal@example.com", Reason: "Smith v. Example"}
	erase := func(s audit.Subject) error {
		_, err := k.Erase(ctx, s, officer)
		return err
	}
	assert.ErrorIs(t, k.Hold(ctx, " ", audit.Subject{}, legal), audit.ErrInvalid)
	assert.ErrorIs(t, k.Release(ctx, "smith", legal), audit.ErrInvalid)
	for _, c := range []struct {
		hold, erase audit.Subject
		held        bool
	}{
		{audit.Subject{User: "u"}, audit.Subject{User: "u"}, true},
		{audit.Subject{User: "u"}, audit.Subject{Agent: "a"}, true}, // it may have acted for u
		{audit.Subject{User: "u"}, audit.Subject{Records: []uint64{1}}, true},
		{audit.Subject{User: "u"}, audit.Subject{User: "x"}, false},
		{audit.Subject{User: "u"}, audit.Subject{Agent: "b", User: "x"}, false},
		{audit.Subject{}, audit.Subject{User: "x"}, true},
		{audit.Subject{Records: []uint64{1}}, audit.Subject{User: "u"}, true},
		{audit.Subject{Records: []uint64{1}}, audit.Subject{User: "x"}, false},
		{audit.Subject{Records: []uint64{1}}, audit.Subject{Records: []uint64{1, 3}}, true},
		{audit.Subject{Records: []uint64{1}, Agent: "zzz"}, audit.Subject{User: "u"}, false},
	} {
		k := newKeeper(t, audit.Options{})
		for range 2 {
			k.begin(act("a", "u", audit.ClassWrite))
			k.begin(act("b", "v", audit.ClassWrite))
		}
		require.NoError(t, k.Hold(ctx, "smith", c.hold, legal))
		require.NoError(t, k.Close())
		k.open() // the log is where it is kept
		_, err := k.Erase(ctx, c.erase, officer)
		if c.held {
			assert.ErrorIs(t, err, audit.ErrHeld, c)
			assert.ErrorContains(t, err, "smith")
			assert.Equal(t, "shown shown shown shown", k.shown())
			assert.Empty(t, k.erasures())
		} else {
			assert.NoError(t, err, c)
		}
	}
	require.NoError(t, k.Hold(ctx, "smith", audit.Subject{User: "u"}, legal))
	require.NoError(t, k.Hold(ctx, "smith", audit.Subject{Records: []uint64{2}}, legal))
	require.NoError(t, k.Hold(ctx, "jones", audit.Subject{User: "u"}, legal))
	holds := must(k.Holds(ctx))
	require.Len(t, holds, 3)
	assert.Equal(t, audit.Held{Matter: "smith", Subject: audit.Subject{Records: []uint64{2}}, Change: legal, Seq: 6}, holds[1])
	assert.ErrorIs(t, erase(audit.Subject{User: "u"}), audit.ErrHeld)
	require.NoError(t, k.Release(ctx, "smith", legal))
	assert.ErrorIs(t, erase(audit.Subject{User: "u"}), audit.ErrHeld)
	assert.NoError(t, erase(audit.Subject{User: "v"}))
	require.NoError(t, k.Release(ctx, "jones", legal))
	assert.NoError(t, erase(audit.Subject{User: "u"}))
	assert.Equal(t, "gone gone gone gone", k.shown())
}

// years of silence count, where a test jumps over them.
const years = 10 * 366 * 24 * time.Hour

func TestPrune(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	k := newKeeper(t, audit.Options{Clock: func() time.Time { return now }, Level: func(audit.Record) audit.Level { return audit.LevelFull }})
	write := func(user string) {
		k.begin(act("a", user, audit.ClassWrite))
		k.begin(act("a", user, audit.ClassRead))
		k.deny("a", user, markedArgs)
	}
	write("u")
	write("held")
	require.NoError(t, k.Hold(ctx, "smith", audit.Subject{User: "held"}, officer))
	now = now.Add(audit.SixMonths - time.Hour)
	write("u")
	e, err := k.Prune(ctx, audit.Retention{Quiet: years}, officer)
	require.NoError(t, err)
	assert.Zero(t, e, "nothing is six months old")
	now = now.Add(2 * time.Hour)
	_, err = k.Prune(ctx, audit.Retention{Read: time.Hour}, officer)
	assert.ErrorIs(t, err, audit.ErrInvalid)
	_, err = k.Prune(ctx, audit.Retention{Read: -1, ShorterThanSixMonths: true}, officer)
	assert.ErrorIs(t, err, audit.ErrInvalid)
	e, err = k.Prune(ctx, audit.Retention{Write: 2 * audit.SixMonths, Quiet: years}, officer)
	require.NoError(t, err)
	assert.Equal(t, audit.Erased{Values: 2, Held: 2}, e)
	assert.Equal(t, "shown gone gone shown shown shown shown shown shown", k.shown())
	assert.Equal(t, audit.ValueReport{Kept: 9, Readable: 7, Pruned: 2}, k.check())
	e, err = k.Prune(ctx, audit.Retention{Quiet: years, Denied: time.Minute, ShorterThanSixMonths: true}, officer)
	require.NoError(t, err)
	// The first key has no value left under it; the other is a month old at most.
	assert.Equal(t, audit.Erased{Values: 2, Held: 3, Keys: 1}, e)
	assert.Equal(t, "gone gone gone shown shown shown shown shown gone", k.shown())
	require.NoError(t, k.Release(ctx, "smith", officer))
	now = now.Add(audit.SixMonths)
	e, err = k.Prune(ctx, audit.Retention{Quiet: years}, officer)
	require.NoError(t, err)
	assert.Equal(t, audit.Erased{Values: 5, Keys: 2}, e)
	assert.NotContains(t, string(k.vs.Bytes()), "wrapped")
	rep := k.check()
	assert.Equal(t, audit.ValueReport{Kept: 9, Pruned: 9}, rep)
	k.verify()
	write("u")
	assert.Equal(t, 3, k.check().Readable)
}

// A key that is in use stays, though no value is left under it.
func TestPruneSparesKeysInUse(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	k := newKeeper(t, audit.Options{Clock: func() time.Time { return now }})
	k.begin(act("a", "u", audit.ClassWrite))
	now = now.Add(2 * time.Hour)
	e, err := k.Prune(ctx, audit.Retention{Quiet: years, Write: time.Hour, ShorterThanSixMonths: true}, officer)
	require.NoError(t, err)
	assert.Equal(t, audit.Erased{Values: 1}, e)
	k.begin(act("a", "u", audit.ClassWrite))
	assert.Equal(t, "gone shown", k.shown())
}

// An erasure that is told to stop says that it is not done.
func TestEraseIsCancelled(t *testing.T) {
	k := newKeeper(t, audit.Options{})
	k.begin(act("a", "u", audit.ClassWrite))
	c, cancel := context.WithCancel(ctx)
	cancel()
	_, err := k.Erase(c, audit.Subject{User: "u"}, officer)
	assert.ErrorIs(t, err, context.Canceled)
	_, err = k.Erase(ctx, audit.Subject{User: "u"}, officer)
	assert.NoError(t, err)
	assert.Equal(t, "gone", k.shown())
}

// A listing is a storage that does something when its files are listed.
type listing struct {
	*audittest.Memory
	f func()
}

func (l *listing) List() ([]string, error) {
	if f := l.f; f != nil {
		l.f = nil
		f()
	}
	return l.Memory.List()
}

// What is kept after the data keys were looked through, under a new key, is not
// taken for what an earlier erasure left.
func TestEraseSparesWhatComesMeanwhile(t *testing.T) {
	vs := &listing{Memory: new(audittest.Memory)}
	st, key, kek := new(audittest.Memory), must(audit.NewKey("audit.test/meanwhile")), audit.NewKEK()
	log := must(audit.New(st, &audit.Options{Key: key, Values: vs, KEK: kek}))
	_, err := log.Begin(ctx, act("a", "u", audit.ClassWrite))
	require.NoError(t, err)
	vs.f = func() {
		_, err := log.Begin(ctx, act("a", "w", audit.ClassWrite))
		require.NoError(t, err)
	}
	_, err = log.Erase(ctx, audit.Subject{User: "u"}, officer)
	require.NoError(t, err)
	require.Nil(t, vs.f)
	rep := must(must(audit.OpenValues(ctx, vs.FS(), kek)).Check(ctx, log.Query(ctx, audit.Filter{})))
	assert.Equal(t, audit.ValueReport{Kept: 2, Readable: 1, Erased: 1}, rep)
	require.NoError(t, log.Close())
}

// What is no UTF-8 in a name is on record as U+FFFD. The data keys and those who
// ask for an erasure or a hold must mean the same.
func TestNamesThatAreNoUTF8(t *testing.T) {
	t.Parallel()
	const raw, onRecord = "u\xff\xfe", "u\ufffd\ufffd"
	for _, name := range []string{raw, onRecord} {
		k := newKeeper(t, audit.Options{})
		k.begin(act("a", raw, audit.ClassWrite))
		assert.Equal(t, "shown", k.shown())
		require.NoError(t, k.Hold(ctx, "m"+raw, audit.Subject{User: raw}, officer))
		_, err := k.Erase(ctx, audit.Subject{User: name}, officer)
		require.ErrorIs(t, err, audit.ErrHeld)
		require.NoError(t, k.Release(ctx, "m"+raw, officer))
		e, err := k.Erase(ctx, audit.Subject{User: name}, officer)
		require.NoError(t, err)
		assert.Equal(t, audit.Erased{Values: 1, Keys: 1}, e)
		k.begin(act("a", raw, audit.ClassWrite))
		assert.Equal(t, "gone shown", k.shown())
		assert.Equal(t, audit.ValueReport{Kept: 2, Readable: 1, Erased: 1}, k.check())
	}
}

// However softly calls are recorded, a hold that was ordered holds, and an erasure
// is on record first.
func TestHoldsAndErasuresAreDurableInEveryMode(t *testing.T) {
	t.Parallel()
	k := newKeeper(t, audit.Options{Mode: audit.BestEffort})
	for range 20 {
		_, err := k.Begin(ctx, act("a", "u", audit.ClassWrite))
		require.NoError(t, err)
		before := k.Size()
		require.NoError(t, k.Hold(ctx, "m", audit.Subject{User: "u"}, officer))
		assert.Greater(t, k.Size(), before)
		_, err = k.Erase(ctx, audit.Subject{User: "u"}, officer)
		require.ErrorIs(t, err, audit.ErrHeld)
		require.NoError(t, k.Release(ctx, "m", officer))
	}
	_, err := k.Erase(ctx, audit.Subject{User: "u"}, officer)
	require.NoError(t, err)
	assert.Equal(t, "erase_values done 20 1", k.erasures()[1])
}

// A record of a moment when the clock was wrong is as old as the records before
// it, at most.
func TestPruneWhenTheClockWasSetBack(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	clock := now
	k := newKeeper(t, audit.Options{Clock: func() time.Time { return clock }})
	k.begin(act("a", "u", audit.ClassWrite))
	clock = now.AddDate(60, 0, 0) // a glitch in the other direction holds nothing up
	k.begin(act("a", "u", audit.ClassWrite))
	clock = now.AddDate(-50, 0, 0)
	k.begin(act("a", "u", audit.ClassWrite))
	clock = now.AddDate(0, 1, 0)
	e, err := k.Prune(ctx, audit.Retention{Quiet: years}, officer)
	require.NoError(t, err)
	assert.Zero(t, e)
	assert.Equal(t, "shown shown shown", k.shown())
	clock = now.AddDate(0, 8, 0)
	e, err = k.Prune(ctx, audit.Retention{Quiet: years}, officer)
	require.NoError(t, err)
	assert.Equal(t, 2, e.Values)
	assert.Equal(t, "gone shown gone", k.shown())
	assert.Equal(t, audit.ValueReport{Kept: 3, Readable: 1, Pruned: 2}, k.check())
}
