package governance

import (
	"sync"
	"sync/atomic"

	"github.com/cedar-policy/cedar-go/types"
)

// maxSeen bounds the principals whose answers a snapshot remembers: with a
// thousand tools they take 4 MB.
const maxSeen = 1024

// seen remembers what Visible found out about tools. Nothing in it can become
// wrong, because it belongs to one snapshot and depends on nothing else. The
// zero value is ready. It is safe for concurrent use.
type seen struct {
	mu  sync.RWMutex
	row map[types.EntityUID]sights
}

// sights are the answers for one principal: by the number of a tool, 0 for not
// known and otherwise a Visibility + 1.
type sights []atomic.Int32

// of returns the answers for a principal, among n tools.
func (m *seen) of(principal types.EntityUID, n int) sights {
	m.mu.RLock()
	row := m.row[principal]
	m.mu.RUnlock()
	if row != nil {
		return row
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if row := m.row[principal]; row != nil {
		return row
	}
	if m.row == nil {
		m.row = map[types.EntityUID]sights{}
	}
	for some := range m.row {
		if len(m.row) < maxSeen {
			break
		}
		delete(m.row, some)
	}
	row = make(sights, n)
	m.row[principal] = row
	return row
}

// once returns what is known of a tool, or finds it out. Tools have numbers;
// what has none is found out each time.
func (r sights) once(t *target, find func() Visibility) Visibility {
	if t.tool == nil {
		return find()
	}
	at := &r[t.tool.number]
	if v := at.Load(); v != 0 {
		return Visibility(v - 1)
	}
	v := find()
	at.Store(int32(v) + 1)
	return v
}
