package agentid

import (
	"container/heap"
	"time"
)

// An expiryQueue yields hashes when they expire.
type expiryQueue struct{ q expiring }

func (e *expiryQueue) add(h Hash, at time.Time) { heap.Push(&e.q, expires{h, at}) }

func (e *expiryQueue) forget(now time.Time, gone func(Hash)) {
	for len(e.q) > 0 && !now.Before(e.q[0].at) {
		gone(heap.Pop(&e.q).(expires).h)
	}
}

type expires struct {
	h  Hash
	at time.Time
}

// expiring is a heap, the earliest first.
type expiring []expires

func (e expiring) Len() int           { return len(e) }
func (e expiring) Less(i, j int) bool { return e[i].at.Before(e[j].at) }
func (e expiring) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *expiring) Push(x any)        { *e = append(*e, x.(expires)) }
func (e *expiring) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	(*e)[last] = expires{}
	*e = (*e)[:last]
	return x
}
