package agentid

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"
)

// Follow keeps this host's copy of the store current until ctx ends, whose error
// it returns: it asks the store when that says that something changed, and at
// every [Options.Poll]. When it cannot for [Options.MaxStale], everything is
// denied until it can again; it goes on trying. From its return on everything is
// denied. A host runs it once, for as long as it serves.
func (r *Registry) Follow(ctx context.Context) error {
	if !r.shared {
		return errNotFollowed
	}
	defer r.expire()
	wake := make(chan struct{}, 1)
	nudge := func() {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		for ctx.Err() == nil {
			err := r.store.Listen(ctx, nudge)
			if ctx.Err() != nil {
				return
			}
			r.lost()
			r.logger.Warn("agentid: the store cannot be listened to, which leaves asking", "error", err)
			pause(ctx, r.poll)
		}
	}()
	defer func() { <-listening }()
	ticker := time.NewTicker(r.poll)
	defer ticker.Stop()
	for {
		if err := r.Sync(ctx); err != nil && ctx.Err() == nil {
			r.logger.Warn("agentid: the store could not be read", "error", err)
		}
		r.shareEnds(ctx)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wake:
		case <-ticker.C:
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// Sync brings this host's copy of the store up to date once, for a program that
// looks or changes something and ends. Servers use [Registry.Follow].
func (r *Registry) Sync(waiting context.Context) error {
	ctx, cancel := context.WithTimeout(waiting, r.maxStale/2)
	defer cancel()
	select {
	case r.syncing <- struct{}{}:
		defer func() { <-r.syncing }()
	case <-ctx.Done():
		return fmt.Errorf("agentid: store: %w", ctx.Err())
	}
	r.mu.Lock()
	seq, seen, rewound := r.seq, map[string]seenEntry(nil), r.rewound
	if r.reread {
		seen = r.seen()
	}
	r.mu.Unlock()
	if rewound {
		return fmt.Errorf("%w: it was seen before: start this host anew", ErrRewound)
	}
	after := seq
	if seen != nil {
		after = 0
	}
	asked := time.Now() // before: the answer may be as old as the question
	c, err := r.store.Changes(ctx, after)
	if err != nil {
		if waiting.Err() == nil {
			r.lost()
		}
		return fmt.Errorf("agentid: store: %w", err)
	}
	if c.Seq < seq || !includes(c, seen) {
		r.mu.Lock()
		r.rewound = true
		r.mu.Unlock()
		return fmt.Errorf("%w: change %d is the last, and %d was seen", ErrRewound, c.Seq, seq)
	}
	if seen != nil {
		r.mu.Lock()
		r.reread = false
		r.mu.Unlock()
	}
	r.apply(c, asked)
	return nil
}

// lost has the next question be for everything: the store was out of sight, and a
// backup that was put back meanwhile may have as many changes by now, and others.
func (r *Registry) lost() {
	r.mu.Lock()
	r.reread = r.seq > 0
	r.mu.Unlock()
}

// A seenEntry is what the store has held, as this host knows: it has that still,
// or something later.
type seenEntry struct {
	version         uint64
	state           State // empty if an end is not in the store yet
	secret          Hash
	profile, issuer string
}

func seenOf(e Entry) seenEntry {
	return seenEntry{e.Version, e.State, e.Secret, e.Profile, e.Issuer}
}

// seen returns all that this host knows. The caller holds mu.
func (r *Registry) seen() map[string]seenEntry {
	all := make(map[string]seenEntry, len(r.agents))
	for id, a := range r.agents {
		s := seenOf(a.Entry)
		if a.unstored {
			s.state = ""
		}
		all[id] = s
	}
	return all
}

// includes reports whether a store's whole answer goes on from what was seen.
func includes(c Changes, seen map[string]seenEntry) bool {
	for _, e := range c.Agents {
		was, ok := seen[e.ID]
		delete(seen, e.ID)
		is := seenOf(e)
		if was.state == "" {
			is.state = ""
		}
		if ok && (is.version < was.version || is.version == was.version && is != was) {
			return false
		}
	}
	return len(seen) == 0
}

// apply takes over changes. Nothing that has ended here comes back by an older
// entry, or by one that does not know of an end that is not in the store yet.
func (r *Registry) apply(c Changes, asked time.Time) {
	r.mu.Lock()
	type end struct {
		running map[*running]struct{}
		cause   error
	}
	var ends []end
	for _, e := range c.Agents {
		if a, cause := r.take(e); cause != nil {
			ends = append(ends, end{a.stop(), cause})
		}
	}
	now := r.now()
	maps.DeleteFunc(r.dropped, func(_ Hash, expires time.Time) bool { return !now.Before(expires) })
	for _, d := range c.Dropped {
		r.dropped[d.Token] = d.Expires
	}
	r.takeKeys(c.Keys)
	r.seq = max(r.seq, c.Seq)
	if until := asked.Add(r.maxStale); r.shared && until.After(r.fresh) {
		r.fresh = until
		if r.watchdog == nil {
			r.watchdog = time.AfterFunc(time.Until(until), r.watch)
		} else {
			r.watchdog.Reset(time.Until(until))
		}
	}
	r.mu.Unlock()
	for _, e := range ends {
		cancelAll(e.running, e.cause)
	}
}

// take takes over an entry and returns why what runs under the agent ends, if it
// does. The caller holds mu.
func (r *Registry) take(e Entry) (*agent, error) {
	a, ok := r.agents[e.ID]
	if !ok {
		a = &agent{running: make(map[*running]struct{})}
		r.agents[e.ID] = a
	}
	if e.Version <= a.Version {
		return a, nil
	}
	was := a.Entry
	a.Entry = e
	if !a.Expires.Equal(was.Expires) {
		r.awaitLapse(a)
	}
	switch {
	case e.State != Active:
		a.unstored = false
	case a.unstored:
		a.State = was.State
	}
	a.Life = max(a.Life, was.Life)
	if a.Ended.Before(was.Ended) {
		a.Ended = was.Ended
	}
	switch {
	case a.State != Active:
		return a, a.State.cause()
	case a.Life != was.Life: // it was ended and reinstated since this host looked
		return a, ErrRevoked
	case r.ended(a) != nil: // it has another, earlier end of its registration
		return a, ErrLapsed
	case a.Profile != was.Profile, was.Issuer != "" && a.Issuer != was.Issuer:
		return a, ErrActor
	}
	return a, nil
}

// stale returns ErrStale if this host may have missed something. The caller holds
// mu.
func (r *Registry) stale() error {
	if !r.shared {
		return nil
	}
	// By the monotonic clock, which nobody sets back, and by the wall clock, which
	// goes on while a machine is suspended.
	if now := time.Now(); now.Before(r.fresh) && now.Round(0).Before(r.fresh.Round(0)) {
		return nil
	}
	return ErrStale
}

// watch ends what runs when the store has been lost for too long.
func (r *Registry) watch() {
	r.mu.Lock()
	if r.stale() == nil { // it was just confirmed
		r.watchdog.Reset(time.Until(r.fresh))
		r.mu.Unlock()
		return
	}
	var all []map[*running]struct{}
	for _, a := range r.agents {
		all = append(all, a.stop())
	}
	r.mu.Unlock()
	for _, running := range all {
		cancelAll(running, ErrStale)
	}
}

// expire makes this host stale at once.
func (r *Registry) expire() {
	r.mu.Lock()
	r.fresh = time.Time{}
	if r.watchdog == nil {
		r.watchdog = time.AfterFunc(r.maxStale, r.watch)
	}
	r.watchdog.Stop()
	r.mu.Unlock()
	r.watch()
}

// shareEnds puts ends into the store that it did not take when they happened.
func (r *Registry) shareEnds(ctx context.Context) {
	ends := map[string]State{}
	r.mu.RLock()
	if r.stale() == nil {
		for id, a := range r.agents {
			if a.unstored {
				ends[id] = a.State
			}
		}
	}
	r.mu.RUnlock()
	for id, state := range ends {
		if err := r.share(ctx, id, state, true); err != nil && ctx.Err() == nil {
			r.logger.Warn("agentid: an end is not in the store yet", "agent", id, "error", err)
		}
	}
}

// entry returns an agent as it is in the store, in which its end is by then, if it
// has ended here.
func (r *Registry) entry(ctx context.Context, agentID string) (Entry, error) {
	e, unstored, err := r.look(ctx, agentID)
	if err != nil || !unstored {
		return e, err
	}
	if err := r.share(ctx, agentID, e.State, true); err != nil {
		return Entry{}, err
	}
	e, _, err = r.look(ctx, agentID)
	return e, err
}

func (r *Registry) look(ctx context.Context, agentID string) (e Entry, unstored bool, err error) {
	if r.shared {
		if err := r.Sync(ctx); err != nil {
			return Entry{}, false, err
		}
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	a, ok := r.agents[agentID]
	if !ok {
		return Entry{}, false, fmt.Errorf("%w: %q", ErrUnknown, agentID)
	}
	return a.Entry, a.unstored, nil
}

// put stores an entry, and takes it over once it is stored.
func (r *Registry) put(ctx context.Context, e Entry) error {
	if err := r.store.Put(ctx, e); err != nil {
		if errors.Is(err, ErrConflict) {
			return fmt.Errorf("%w: %q", ErrConflict, e.ID)
		}
		return fmt.Errorf("agentid: store: %w", err)
	}
	r.apply(Changes{Agents: []Entry{e}}, time.Time{})
	return nil
}
