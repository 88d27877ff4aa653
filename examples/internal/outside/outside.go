// Package outside gathers evidence about a process or a session that owes nothing
// to what the program under test says: its memory, and the packets on its
// network. It needs Linux.
package outside

import "errors"

// ErrUnsupported is returned where there is no Linux.
var ErrUnsupported = errors.New("outside: this needs Linux")
