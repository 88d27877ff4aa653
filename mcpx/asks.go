package mcpx

import (
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// The SDK answers what a server asks on a goroutine of its own. A server that asks
// and does not wait for the answer could so have its question dealt with after the
// call, and even by the next call of the session, under whose decision it would
// then be asked. So a call that the SDK carries ends when all is answered that was
// asked before its result.

// openAsks are the questions of a server that the SDK has read and not answered.
// The zero value is ready to use, by several goroutines at once.
type openAsks struct {
	mu   sync.Mutex
	of   map[jsonrpc.ID]chan struct{} // each closed once it is answered
	over bool                         // the connection has ended
}

// asked notes a question that was read.
func (o *openAsks) asked(id jsonrpc.ID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over || o.of[id] != nil {
		return
	}
	if o.of == nil {
		o.of = make(map[jsonrpc.ID]chan struct{})
	}
	o.of[id] = make(chan struct{})
}

// answered notes that the SDK is about to answer it.
func (o *openAsks) answered(id jsonrpc.ID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if done := o.of[id]; done != nil {
		close(done)
		delete(o.of, id)
	}
}

// end notes that nothing will be answered any more.
func (o *openAsks) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = true
	for _, done := range o.of {
		close(done)
	}
	clear(o.of)
}

// now are the questions that are open, each closed once it is answered.
func (o *openAsks) now() (all []chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, done := range o.of {
		all = append(all, done)
	}
	return all
}

// quiet waits until everything is answered that the server has asked so far. A
// session in which that takes too long is not used again.
func (w *wire) quiet() {
	all := w.asks.now()
	if len(all) == 0 {
		return
	}
	timer := time.NewTimer(cancelWait)
	defer timer.Stop()
	for _, done := range all {
		select {
		case <-done:
		case <-timer.C:
			w.dead.Store(true)
			return
		}
	}
}

// isAsk reports whether a server asks with this method what only a client knows.
func isAsk(method string) bool {
	return method == askElicit || method == askSample || method == askRoots
}
