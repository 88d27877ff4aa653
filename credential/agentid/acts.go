package agentid

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
)

// Register adds an agent, once that is on record, and returns its client
// secret. The secret cannot be had again; an agent that only runs in sandbox
// sessions, or has a key, does not need it.
func (r *Registry) Register(ctx context.Context, a Agent, by audit.Change) (credential.Secret, error) {
	if err := errors.Join(by.Validate(), a.validate()); err != nil {
		return credential.Secret{}, err
	}
	r.admin.Lock()
	defer r.admin.Unlock()
	_, err := r.entry(ctx, a.ID)
	switch {
	case err == nil:
		return credential.Secret{}, fmt.Errorf("%w: %q", ErrExists, a.ID)
	case !errors.Is(err, ErrUnknown):
		return credential.Secret{}, err
	}
	if err := r.record(ctx, "register_agent", a.ID, by, describe(a)); err != nil {
		return credential.Secret{}, err
	}
	secret, sum := newToken("ags_")
	err = r.put(ctx, Entry{Agent: a, Secret: sum, State: Active, Version: 1})
	if errors.Is(err, ErrConflict) {
		err = fmt.Errorf("%w: %q", ErrExists, a.ID)
	}
	if err != nil {
		return credential.Secret{}, err
	}
	return credential.NewSecret(secret), nil
}

// Update replaces what an agent was registered with, all of it, once that is on
// record. Its client secret, its state and its tokens stay as they are. If the
// profile is another one, or another issuer speaks for it, contexts from before
// end with [ErrActor]; and all end when the registration, as it is now, expires.
func (r *Registry) Update(ctx context.Context, a Agent, by audit.Change) error {
	if err := a.validate(); err != nil {
		return errors.Join(by.Validate(), err)
	}
	return r.change(ctx, "update_agent", a.ID, by, func(e *Entry) (map[string]string, error) {
		e.Agent = a
		return describe(a), nil
	})
}

// Assign gives an agent another profile, once that is on record. Contexts under
// the old one end with [ErrActor].
func (r *Registry) Assign(ctx context.Context, agentID, profile string, by audit.Change) error {
	return r.change(ctx, "assign_profile", agentID, by, func(e *Entry) (map[string]string, error) {
		detail := map[string]string{audit.DetailOwner: e.Owner, audit.DetailProfile: profile, "replaces": e.Profile}
		e.Profile = profile
		return detail, nil
	})
}

// NewSecret gives an agent another client secret, once that is on record. The
// old one is void; tokens that were had with it live on.
func (r *Registry) NewSecret(ctx context.Context, agentID string, by audit.Change) (credential.Secret, error) {
	secret, sum := newToken("ags_")
	err := r.change(ctx, "new_secret", agentID, by, func(e *Entry) (map[string]string, error) {
		e.Secret = sum
		return nil, nil
	})
	if err != nil {
		return credential.Secret{}, err
	}
	return credential.NewSecret(secret), nil
}

// Reinstate lets a revoked or frozen agent act again, once that is on record.
// Its client secret is as before; tokens and contexts from before stay ended.
// The error is [ErrRevoked] if it was ended once more in the meantime.
func (r *Registry) Reinstate(ctx context.Context, agentID string, by audit.Change) error {
	return r.change(ctx, "reinstate_agent", agentID, by, func(e *Entry) (map[string]string, error) {
		e.State = Active
		return nil, nil
	})
}

// change records a change of an entry and then makes it.
func (r *Registry) change(ctx context.Context, action, agentID string, by audit.Change, edit func(*Entry) (map[string]string, error)) error {
	if err := by.Validate(); err != nil {
		return err
	}
	r.admin.Lock()
	defer r.admin.Unlock()
	e, err := r.entry(ctx, agentID)
	if err != nil {
		return err
	}
	was := e
	detail, err := edit(&e)
	if err != nil {
		return err
	}
	if err := r.record(ctx, action, agentID, by, detail); err != nil {
		return err
	}
	e.Version++
	err = r.put(ctx, e)
	r.mu.RLock()
	defer r.mu.RUnlock()
	now := r.agents[agentID].Entry
	if (err == nil || errors.Is(err, ErrConflict)) && now.Life != was.Life {
		return fmt.Errorf("%w: %q, while it was being changed", ErrRevoked, agentID)
	}
	return err
}

// Revoke ends an agent: before it returns, its tokens are void, its contexts
// are cancelled with [ErrRevoked], and new ones are refused. It takes effect on
// this host before anything else, also when the log or the store hang or are
// down or ctx is done; the error then matches [ErrNotRecorded] or
// [ErrNotShared], and the call can be repeated. Hosts that share the store
// follow within a moment of its return, and at the latest after
// [Options.MaxStale].
func (r *Registry) Revoke(ctx context.Context, agentID string, by audit.Change) error {
	return r.end(ctx, "revoke_agent", agentID, Revoked, by)
}

// Freeze is [Registry.Revoke] for an agent that is to be looked into: contexts
// are cancelled with [ErrFrozen], at which a host keeps the workspaces of its
// sessions. A revoked agent cannot be frozen any more.
func (r *Registry) Freeze(ctx context.Context, agentID string, by audit.Change) error {
	return r.end(ctx, "freeze_agent", agentID, Frozen, by)
}

// endWait bounds how long an end waits for a store that hangs, so that it gets on
// record all the same.
const endWait = 5 * time.Second

func (r *Registry) end(ctx context.Context, action, agentID string, state State, by audit.Change) error {
	if err := by.Validate(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	// Not under admin, which somebody may hold who waits for the log.
	ended, here := r.endHere(agentID, state)
	if here != nil && !errors.Is(here, ErrUnknown) {
		return here
	}
	sharing, cancel := context.WithTimeout(ctx, endWait)
	defer cancel()
	shared := r.share(sharing, agentID, state, false)
	if errors.Is(shared, ErrUnknown) || here != nil && shared != nil {
		return shared
	}
	if shared != nil {
		shared = fmt.Errorf("%w: end of %q: %w", ErrNotShared, agentID, shared)
	}
	detail := map[string]string{"cancelled": strconv.Itoa(ended)}
	err := r.record(ctx, action, agentID, by, detail)
	if err != nil {
		err = fmt.Errorf("%w: end of %q: %w", ErrNotRecorded, agentID, err)
	}
	return errors.Join(shared, err)
}

// endHere ends an agent on this host and returns how many contexts that
// cancelled.
func (r *Registry) endHere(agentID string, state State) (int, error) {
	r.mu.Lock()
	a, ok := r.agents[agentID]
	switch {
	case !ok:
		r.mu.Unlock()
		return 0, fmt.Errorf("%w: %q", ErrUnknown, agentID)
	case state == Frozen && a.State == Revoked:
		r.mu.Unlock()
		return 0, fmt.Errorf("%w: %q: there is nothing left to freeze", ErrRevoked, agentID)
	}
	a.State = state
	a.Life++
	a.Ended = r.now()
	a.unstored = true
	ending := a.stop()
	r.mu.Unlock()
	cancelAll(ending, state.cause())
	return len(ending), nil
}

// share puts the end of an agent into the store, whoever else is changing it. One
// that was only left over is not put there once somebody else has done that: the
// agent may have been reinstated since.
func (r *Registry) share(ctx context.Context, agentID string, state State, leftOver bool) error {
	for {
		e, unstored, err := r.look(ctx, agentID)
		if err != nil {
			return err
		}
		if !unstored && (leftOver || e.State == Revoked || e.State == state) {
			return nil // it is there already, by whomever; and a revoked agent is not frozen
		}
		e.State = state
		e.Life++ // always: another host may have reinstated it in the life that began here
		e.Ended = r.now()
		e.Version++
		err = r.put(ctx, e)
		if err == nil || !errors.Is(err, ErrConflict) || ctx.Err() != nil {
			return err
		}
	}
}

// stop takes the contexts that run under an agent. The caller holds mu, and
// cancels them when it does not any more.
func (a *agent) stop() map[*running]struct{} {
	ending := a.running
	a.running = make(map[*running]struct{})
	return ending
}

func cancelAll(ending map[*running]struct{}, cause error) {
	for c := range ending {
		c.cancel(cause)
	}
}

func (r *Registry) record(ctx context.Context, action, agentID string, by audit.Change, detail map[string]string) error {
	return r.log.Append(ctx, audit.Event{
		Kind: audit.KindIdentity, Door: audit.DoorAdmin, Action: action,
		Resource: agentResource(agentID), Change: &by, Detail: detail,
	})
}

func agentResource(id string) string { return "Agent::" + strconv.Quote(id) }

// describe is what goes on record of how an agent is registered.
func describe(a Agent) map[string]string {
	detail := map[string]string{audit.DetailOwner: a.Owner}
	for key, value := range map[string]string{
		audit.DetailProfile: a.Profile, "cert_name": a.CertName, "issuer": a.Issuer,
		"keys": strings.Join(thumbprints(a.Keys), " "),
	} {
		if value != "" {
			detail[key] = value
		}
	}
	if !a.Expires.IsZero() {
		detail["expires"] = a.Expires.UTC().Format(time.RFC3339)
	}
	return detail
}
