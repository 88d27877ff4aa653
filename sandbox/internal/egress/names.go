package egress

import (
	"encoding/binary"
	"net/netip"
	"sync"
)

// synthetic is the range that names are mapped into. It is set aside for
// benchmarks (RFC 2544), so no real destination lives there.
var synthetic = netip.MustParsePrefix("198.18.0.0/15")

// maxNames bounds the names of one session; patterns make it finite.
const maxNames = 16 << 10

// names maps each allowed name to one synthetic address, for good: an address
// is never given to a second name, so a connection always belongs to the name
// that its program asked for.
type names struct {
	mu     sync.RWMutex
	byName map[string]netip.Addr
	byAddr map[netip.Addr]string
}

func newNames() *names {
	return &names{byName: make(map[string]netip.Addr), byAddr: make(map[netip.Addr]string)}
}

// address returns the address of a name that policy allows, made on first use.
// It is false when the session has used up its names: limit, which is at most
// maxNames.
func (n *names) address(name string, limit int) (netip.Addr, bool) {
	n.mu.RLock()
	a, ok := n.byName[name]
	n.mu.RUnlock()
	if ok {
		return a, true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if a, ok := n.byName[name]; ok {
		return a, true
	}
	if len(n.byName) >= limit {
		return netip.Addr{}, false
	}
	base := synthetic.Addr().As4()
	var b [4]byte
	// The first 256 stay free: 198.18.0.0 and its neighbours look special to
	// some programs.
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(base[:])+256+uint32(len(n.byName)))
	a = netip.AddrFrom4(b)
	n.byName[name], n.byAddr[a] = a, name
	return a, true
}

// name returns whose address a is.
func (n *names) name(a netip.Addr) (string, bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	name, ok := n.byAddr[a.Unmap()]
	return name, ok
}
