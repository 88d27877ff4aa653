package inference

import (
	"net"
	"net/http"
	"sync"
)

// countNew counts the connections that a server gets.
func countNew(n *int) func(net.Conn, http.ConnState) {
	var mu sync.Mutex
	return func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			mu.Lock()
			*n++
			mu.Unlock()
		}
	}
}
