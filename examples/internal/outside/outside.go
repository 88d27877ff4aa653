// Package outside gathers evidence about a process or a session that owes nothing
// to what the program under test says: its memory, and the packets on its
// network. It needs Linux.
package outside

import "errors"

// ErrUnsupported is returned where there is no Linux.
var ErrUnsupported = errors.New("outside: this needs Linux")

// Traffic is what was seen on the network of a session, outgoing packets only:
// on loopback each comes in once more.
type Traffic struct {
	// Interfaces are those that the session has.
	Interfaces []string `json:"interfaces"`
	Packets    int      `json:"packets"`
	// To are the destinations: protocol, address and port.
	To []string `json:"to"`
	// Asked are the names that were asked of the name server.
	Asked []string `json:"asked"`
	// Secrets counts those of the secrets that were in a packet.
	Secrets int `json:"secrets"`
}
