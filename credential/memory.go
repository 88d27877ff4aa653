package credential

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/twinward-dev/twinward/audit"
)

// Memory is a [Vault] in memory: for tests, and for hosts that are given their
// secrets at start. Secrets start without a binding. It is safe for concurrent
// use.
type Memory struct {
	scrubber *Scrubber

	admin sync.Mutex // one administrative act at a time, so that the log's order is theirs
	log   audit.Recorder

	mu      sync.RWMutex
	entries map[string]*entry
}

type entry struct {
	secret  Secret
	version uint64
	binding Binding
}

// NewMemory returns a vault that holds the given secrets, each as version 1 and
// bound to nothing: see [Memory.Bind].
func NewMemory(secrets map[string]Secret) *Memory {
	m := &Memory{scrubber: new(Scrubber), entries: make(map[string]*entry, len(secrets))}
	for name, s := range secrets {
		m.entries[name] = &entry{secret: s, version: 1}
	}
	// Secrets that cannot be scrubbed cannot be leased either: NewLease refuses
	// them with an error that names them.
	_ = m.scrubber.addAll(secrets)
	return m
}

// RecordTo makes every later Bind and Rotate a record in log before it takes
// effect; an act that cannot be recorded does not happen.
func (m *Memory) RecordTo(log audit.Recorder) {
	m.admin.Lock()
	defer m.admin.Unlock()
	m.log = audit.OrRefuse(log)
}

// Lease implements [Vault].
func (m *Memory) Lease(ctx context.Context, r LeaseRequest) (*Lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.RLock()
	e, ok := m.entries[r.Credential]
	var found entry
	if ok {
		found = *e
	}
	m.mu.RUnlock()
	if !ok {
		return nil, fmt.Errorf("%w: %q", ErrUnknown, r.Credential)
	}
	return NewLease(r, Ref{r.Credential, found.version}, found.secret, found.binding, &LeaseOptions{Scrubber: m.scrubber})
}

// Bind says where the named secret may go, in place of what was said before.
// Leases that are out keep their binding.
func (m *Memory) Bind(name string, b Binding, by audit.Change) error {
	if err := by.Validate(); err != nil {
		return err
	}
	origin, err := bareOrigin(b.Origin)
	if err != nil {
		return fmt.Errorf("bind %q: %w", name, err)
	}
	b.Origin = origin
	return m.change(name, func(version uint64) audit.Event {
		return changed("bind_credential", name, by, map[string]string{"origin": origin})
	}, func(e *entry) { e.binding = b })
}

// Rotate replaces the value of the named secret. Leases taken later get the new
// value, those that are out keep the old one, and the scrubber knows both. It
// returns the new version.
func (m *Memory) Rotate(name string, s Secret, by audit.Change) (Ref, error) {
	if err := by.Validate(); err != nil {
		return Ref{}, err
	}
	ref := Ref{Name: name}
	err := s.checkLength()
	if err == nil {
		err = m.change(name, func(version uint64) audit.Event {
			ref.Version = version + 1
			return changed(audit.ActionRotateCredential, name, by, map[string]string{"version": strconv.FormatUint(ref.Version, 10)})
		}, func(e *entry) {
			// Known to the scrubber before anybody can send it.
			if err = m.scrubber.Add(name, s); err == nil {
				e.secret, e.version = s, ref.Version
			}
		})
	}
	if err != nil {
		return Ref{}, fmt.Errorf("rotate %q: %w", name, err)
	}
	return ref, nil
}

// Names returns the names of all secrets, sorted.
func (m *Memory) Names() []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Sorted(maps.Keys(m.entries))
}

// Scrubber knows every secret of the vault in every version it ever had.
func (m *Memory) Scrubber() *Scrubber { return m.scrubber }

// change records an act and then does it.
func (m *Memory) change(name string, event func(version uint64) audit.Event, act func(*entry)) error {
	m.admin.Lock()
	defer m.admin.Unlock()
	m.mu.RLock()
	e, ok := m.entries[name]
	m.mu.RUnlock()
	if !ok {
		return fmt.Errorf("%w: %q", ErrUnknown, name)
	}
	if m.log != nil {
		// Entries change under admin only, so e.version may be read.
		if err := m.log.Append(context.Background(), event(e.version)); err != nil {
			return err
		}
	} else {
		event(e.version)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	act(e)
	return nil
}

func changed(action, name string, by audit.Change, detail map[string]string) audit.Event {
	return audit.Event{
		Kind: audit.KindCredential, Door: audit.DoorAdmin, Action: action,
		Resource: "Credential::" + strconv.Quote(name), Change: &by, Detail: detail,
	}
}
