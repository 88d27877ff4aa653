package audit

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// keyTime is how long an outcome waits for the KEK where its result is to be kept.
const keyTime = 10 * time.Second

// CheckResultNotKept in [Outcome.Checks] says that the result was to be kept, and
// could only be committed to. End then failed.
const CheckResultNotKept = "result-not-kept"

// WantsResult reports whether the recorder of a call would keep anything of
// [Outcome.Result], so that a door need not gather what nobody wants.
func WantsResult(c Call) bool {
	w, ok := c.(interface{ WantsResult() bool })
	return ok && w.WantsResult()
}

type call struct {
	log    *Log
	seq    uint64
	start  time.Time
	actor  Actor
	result Level
	ended  atomic.Bool
}

// Record implements [Call].
func (c *call) Record() uint64 { return c.seq }

// WantsResult is for [WantsResult].
func (c *call) WantsResult() bool { return c.result > LevelMetadata }

// End implements [Call]. It waits for the disk even when ctx has ended.
func (c *call) End(_ context.Context, out Outcome) error {
	if c.ended.Swap(true) {
		return ErrEnded
	}
	if out.Latency == 0 {
		out.Latency = max(c.log.clock().Sub(c.start), 0)
	}
	r, e := body{Call: c.seq, Outcome: &out}, entry{async: c.log.mode != Strict}
	kept := error(nil)
	if out.Result != nil && c.WantsResult() {
		var release func()
		r.Result, e.sealed, release, kept = c.keep(out.Result)
		defer release()
		if kept != nil {
			out.Checks = append(out.Checks[:len(out.Checks):len(out.Checks)], CheckResultNotKept)
		}
	}
	var err error
	if e.enc, err = r.encode(); err != nil {
		c.ended.Store(false) // nothing is on record: a smaller outcome may be
		return err
	}
	b, seq, _, err := c.log.add(context.Background(), e)
	if err == nil && !e.async {
		err = c.log.settle(context.Background(), b, seq)
	}
	return errors.Join(err, kept)
}

// keep commits to a result and seals it if it is to be kept. If that fails, the
// outcome goes on record all the same, and End fails. release is called once the
// record is in line.
func (c *call) keep(result []byte) (com *Commitment, sealed []byte, release func(), err error) {
	release = func() {}
	if s := c.log.values; c.result == LevelFull && s != nil && len(result) <= MaxValue {
		ctx, cancel := context.WithTimeout(context.Background(), keyTime)
		defer cancel()
		com, sealed, release, err = s.keep(ctx, c.actor, result)
		if err == nil {
			return com, sealed, release, nil
		}
		err = fmt.Errorf("audit: the result of record %d was not kept: %w", c.seq, err)
	}
	return c.log.key.Load().commitTo(result), nil, release, err
}
