package credential

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/twinward-dev/twinward/audit"
)

// What people do to a vault: each act says who does it and why, is on record
// before it takes effect, and does not happen if it cannot be recorded. One act
// is done at a time, so that the order of the records is theirs.

// Bind says where the named secret may go, in place of what was said before.
// Leases that are out keep their binding.
func (b *Broker) Bind(ctx context.Context, name string, to Binding, by audit.Change) error {
	origin, err := bareOrigin(to.Origin)
	if err == nil {
		to.Origin = origin
		err = b.act(ctx, name, by, func(e *entry) error {
			_, public := to.Scheme.(GrantExchanger) // whose client may have no secret
			if _, err := b.fresh(ctx, e); err != nil && !(public && errors.Is(err, ErrUnknown)) {
				return err
			}
			if err := b.record(ctx, "bind_credential", name, by, map[string]string{"origin": origin}); err != nil {
				return err
			}
			e.mu.Lock()
			defer e.mu.Unlock()
			e.bound.Store(true)
			e.binding.Store(&to)
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("bind %q: %w", name, err)
	}
	return nil
}

// BindSpec keeps in the store where the named secret may go, for all brokers
// over it. The error is [ErrReadOnly] unless that is a [BindingStore].
func (b *Broker) BindSpec(ctx context.Context, name string, to BindingSpec, by audit.Change) error {
	err := to.Validate()
	if err == nil {
		_, err = b.opts.Binding(to)
	}
	if err == nil {
		err = b.act(ctx, name, by, func(e *entry) error {
			if b.bindings == nil {
				return ErrReadOnly
			}
			if _, err := b.fresh(ctx, e); err != nil {
				return err
			}
			detail := map[string]string{"origin": to.Origin, "type": to.Type}
			if err := b.record(ctx, "bind_credential", name, by, detail); err != nil {
				return err
			}
			if err := b.bindings.SetBinding(ctx, name, to); err != nil {
				return b.clean(err)
			}
			return b.await(ctx, e)
		})
	}
	if err != nil {
		return fmt.Errorf("bind %q: %w", name, err)
	}
	return nil
}

// Put stores a new version of a secret, or the first, which is pending: it is
// leased only after [Broker.Promote]. The note is kept with it in the clear.
func (b *Broker) Put(ctx context.Context, name string, s Secret, note string, by audit.Change) (Ref, error) {
	ref, err := b.put(ctx, name, s, note, by, "put_credential", true)
	if err != nil {
		return Ref{}, fmt.Errorf("put %q: %w", name, err)
	}
	return ref, nil
}

// Rotate puts a new value of a secret in place: [Broker.Put] and
// [Broker.Promote] as one act. Leases taken later get the new value, those that
// are out keep the old one, and the scrubber knows both.
func (b *Broker) Rotate(ctx context.Context, name string, s Secret, by audit.Change) (Ref, error) {
	ref, err := b.put(ctx, name, s, "", by, audit.ActionRotateCredential, false)
	if err != nil {
		return Ref{}, fmt.Errorf("rotate %q: %w", name, err)
	}
	return ref, nil
}

func (b *Broker) put(ctx context.Context, name string, s Secret, note string, by audit.Change, action string, pending bool) (ref Ref, err error) {
	if err := s.checkLength(); err != nil {
		return Ref{}, err
	}
	err = b.act(ctx, name, by, func(e *entry) error {
		store, versions, err := b.versions(ctx, name)
		if err != nil {
			return err
		}
		var newest uint64
		if n := len(versions); n > 0 {
			newest = versions[n-1].Ref.Version
		} else if !pending {
			return fmt.Errorf("%w: %q", ErrUnknown, name)
		}
		// A store may number in steps; what is on record is that this one was
		// put after the newest.
		detail := map[string]string{"version": strconv.FormatUint(newest+1, 10)}
		if err := b.record(ctx, action, name, by, detail); err != nil {
			return err
		}
		// Known before the store has it, which may quote it in an error.
		if err := b.scrubber.AddVersion(Ref{Name: name}, s); err != nil {
			return err
		}
		defer func() { _ = b.scrubber.Remove(Ref{Name: name}, s) }()
		if ref, err = store.Put(ctx, name, s, newest, note); err != nil {
			return b.clean(err)
		}
		if !pending {
			if err := store.SetState(ctx, ref, StatePending, StateCurrent); err != nil {
				return b.clean(err)
			}
		}
		return b.await(ctx, e)
	})
	return ref, err
}

// Promote makes a pending version current, or the previous one again. The
// version that was current is previous from now on, and the one that was
// previous is revoked.
func (b *Broker) Promote(ctx context.Context, ref Ref, by audit.Change) error {
	if ref.Canary() {
		return fmt.Errorf("promote %s: %w", ref, ErrCanary)
	}
	return b.move(ctx, ref, StateCurrent, audit.ActionRotateCredential, by)
}

// Revoke ends the use of a version: it is not leased any more, and leases of it
// that are out refuse with [ErrRevoked]. If the store cannot be told, because it
// is down or can only be read, the error says so, and this broker still does not
// use the version any more if it has used it; others do.
func (b *Broker) Revoke(ctx context.Context, ref Ref, by audit.Change) error {
	return b.move(ctx, ref, StateRevoked, "revoke_credential", by)
}

// Destroy makes the value of a revoked or pending version unreadable for good.
func (b *Broker) Destroy(ctx context.Context, ref Ref, by audit.Change) error {
	return b.move(ctx, ref, StateDestroyed, "destroy_credential", by)
}

func (b *Broker) move(ctx context.Context, ref Ref, to State, action string, by audit.Change) error {
	err := b.act(ctx, ref.Name, by, func(e *entry) error {
		detail := map[string]string{"version": strconv.FormatUint(ref.Version, 10)}
		store, versions, err := b.versions(ctx, ref.Name)
		if l := e.known.Load().find(ref); err != nil && l != nil && to == StateRevoked {
			// The store cannot be told. At least it ends here.
			unrecorded := b.record(ctx, action, ref.Name, by, detail)
			if unrecorded == nil {
				e.revoke(l)
			}
			return errors.Join(err, unrecorded)
		}
		if err != nil {
			return err
		}
		from := State("")
		for _, v := range versions {
			if v.Ref == ref {
				from = v.State
			}
		}
		if from == "" {
			return ErrUnknown
		}
		if err := CheckMove(from, to); err != nil {
			return err
		}
		if err := b.record(ctx, action, ref.Name, by, detail); err != nil {
			return err
		}
		if l := e.known.Load().find(ref); l != nil && to == StateRevoked {
			e.revoke(l)
		}
		if err := store.SetState(ctx, ref, from, to); err != nil {
			return b.clean(err)
		}
		return b.await(ctx, e)
	})
	if err != nil {
		return fmt.Errorf("%s %s: %w", strings.TrimSuffix(action, "_credential"), ref, err)
	}
	return nil
}

// act does one administrative act at a time.
func (b *Broker) act(ctx context.Context, name string, by audit.Change, do func(*entry) error) error {
	if err := by.Validate(); err != nil {
		return err
	}
	select {
	case b.admin <- struct{}{}:
		defer func() { <-b.admin }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return do(b.entry(name))
}

// versions returns what a change starts from.
func (b *Broker) versions(ctx context.Context, name string) (WritableStore, []Version, error) {
	store, ok := b.store.(WritableStore)
	if !ok {
		return nil, nil, ErrReadOnly
	}
	list, err := store.List(ctx, name)
	if err != nil {
		return nil, nil, b.storeError(err)
	}
	return store, list, nil
}

// record writes an act down, unless this is a broker without a log.
func (b *Broker) record(ctx context.Context, action, name string, by audit.Change, detail map[string]string) error {
	if b.log == nil {
		return nil
	}
	return b.log.Append(ctx, audit.Event{
		Kind: audit.KindCredential, Door: audit.DoorAdmin, Action: action,
		Resource: "Credential::" + strconv.Quote(name), Change: &by, Detail: detail,
	})
}

// clean scrubs an error of the store.
func (b *Broker) clean(err error) error { return b.scrubber.err(err) }
