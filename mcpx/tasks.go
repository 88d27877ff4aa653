package mcpx

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// From 2026-07-28 on, a server may answer a call with a task instead of a result,
// and the client asks how it stands: the extension io.modelcontextprotocol/tasks.
// A server behind the gateway may do so if the client has said in that request that
// it knows tasks.
//
// A task is one act. Its intent is on record before the call, and its outcome when
// its end is seen: by the client that asks, or by the gateway that forgets it. In
// between it lies here, under an id that cannot be guessed, for its owner alone;
// the server's own id goes to nobody. Each time that the client comes, policy
// decides about the call again, for the session as it is by then, and what it may
// have of the result is what it might have had of an answer.
//
// What the client says to a task, and what the task asks of it, are acts of their
// own on record. That it asks how the task stands is none: the outcome says how
// often it has ("polls:3"), and a refusal is on record as ever. A task that ends here
// without its server, because its time is over, its agent revoked or the gateway
// closed, is cancelled there, as far as the server can be reached.
//
// The tasks of 2025-11-25 are another thing, which that version calls experimental:
// nobody is told that they are here, who asks for one is answered with the result,
// and the requests about them are unknown methods. Nor are they asked of a server.

const (
	tasksExtension = "io.modelcontextprotocol/tasks"

	methodGetTask    = "tasks/get"
	methodUpdateTask = "tasks/update"
	methodCancelTask = "tasks/cancel"

	maxTasks         = 1024
	maxTasksPerActor = 64
	maxTaskArgs      = 8 << 20 // bytes of one actor's tasks together
	// taskTime is how long a task is remembered whose server says nothing about
	// that, and maxTaskTime how long at most.
	taskTime    = time.Hour
	maxTaskTime = 24 * time.Hour
	// endedTime is how long at most one is whose end is on record.
	endedTime = 5 * time.Minute
	maxTaskID = 1024 // of the server's own, in bytes
	// maxTaskWords bounds each thing that a server says of how a task stands.
	maxTaskWords = 4 << 10
)

// A task is a call that has not ended.
type task struct {
	id, owner string
	theirs    string // the server's id
	f         *flight
	call      audit.Call
	lasts     time.Duration // once it has ended
	timer     *time.Timer
	unwatch   func() // of the agent's life

	mu    sync.Mutex
	asked map[string]taskAsk // what the client was asked, by key
	polls int                // how often its server has said how it stands
	ended bool               // its outcome is on record
	last  [sha256.Size]byte  // of the end that is on record
}

// A taskAsk is a question of a task.
type taskAsk struct {
	kind   string
	digest [sha256.Size]byte // of what the client saw
}

// tasks are all of them.
type tasks struct {
	mu     sync.Mutex
	of     map[string]*task
	quota  quota
	bytes  map[string]int // of arguments
	closed bool
}

// add remembers t for some time, or reports that there is no room.
func (s *tasks) add(t *task, good time.Duration, forget func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	full := func() bool {
		return !s.quota.room(t.owner) || s.bytes[t.owner]+len(t.f.args) > maxTaskArgs
	}
	if full() { // what has ended makes room: of this owner, else of anybody
		for _, of := range []func(*task) bool{func(o *task) bool { return o.owner == t.owner }, func(*task) bool { return s.quota.total >= s.quota.all-s.quota.all/4 }} {
			for _, o := range s.of {
				if full() && of(o) && o.over() {
					o.unwatch()
					s.remove(o)
				}
			}
		}
	}
	if s.closed || full() {
		return false
	}
	if s.of == nil {
		s.of, s.bytes = make(map[string]*task), make(map[string]int)
	}
	s.of[t.id] = t
	s.quota.add(t.owner)
	s.bytes[t.owner] += len(t.f.args)
	t.timer = time.AfterFunc(good, forget)
	return true
}

// get returns a task to its owner, in the session that began it: what its result
// may tell is held against that one.
func (s *tasks) get(actor audit.Actor, id string) *task {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.of[id]; t != nil && t.owner == owner(actor) && t.f.actor.Session == actor.Session && t.f.actor.Instance == actor.Instance {
		return t
	}
	return nil
}

// drop forgets a task.
func (s *tasks) drop(t *task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(t)
}

// remove is drop under the lock.
func (s *tasks) remove(t *task) {
	if s.of[t.id] != t {
		return
	}
	t.timer.Stop()
	delete(s.of, t.id)
	if s.bytes[t.owner] -= len(t.f.args); s.bytes[t.owner] <= 0 {
		delete(s.bytes, t.owner)
	}
	s.quota.drop(t.owner)
}

// close returns all of them, and takes no more.
func (s *tasks) close() []*task {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	out := make([]*task, 0, len(s.of))
	for _, t := range s.of {
		out = append(out, t)
	}
	return out
}

// over reports whether the end is on record.
func (t *task) over() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ended
}

// is reports whether an answer of the server about the task agrees with what is on
// record: once the end is, only that very end does.
func (t *task) is(answer []byte) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.ended || answer != nil && t.last == sha256.Sum256(answer)
}

// polled counts an answer of the server about the task.
func (t *task) polled() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.polls++
}

// end puts the outcome of a task on record, once: it reports whether this was the
// time. Answer is what the server said of it, if that is how it ended. The times
// that it said how the task stands are summed up there.
func (t *task) end(out audit.Outcome, answer []byte) (now bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return false, nil
	}
	if t.polls > 0 {
		out.Checks = append(slices.Clip(out.Checks), "polls:"+strconv.Itoa(t.polls))
	}
	if err := t.call.End(context.Background(), out); err != nil {
		return true, err
	}
	t.ended = true
	if answer != nil {
		t.last = sha256.Sum256(answer)
		t.timer.Reset(t.lasts)
	}
	t.f.decision.Settle(governance.ResultOf(out))
	t.f.key.Settle(governance.ResultOf(out))
	return true, nil
}

// keep makes of an allowed call, whose intent is call, a task of the gateway's, and
// tells the client of it.
func (g *governor) keep(ctx context.Context, q *query, f *flight, call audit.Call, r *rawReply) (reply, error) {
	own := *f
	own.args = slices.Clone(f.args)
	own.q = nil
	t := &task{id: audit.NewID() + audit.NewID(), owner: owner(q.actor), theirs: r.task.id, f: &own, call: call, lasts: g.endedTime, asked: make(map[string]taskAsk)}
	f.kept = true
	life := func() { /* nobody can end the agent */ }
	if g.agents != nil {
		watched, cancel, err := g.life(context.WithoutCancel(ctx), q.actor)
		if err != nil {
			g.giveUp(t, audit.StatusCancelled, audit.GuardRevoked)
			r := override(f.decision, audit.GuardRevoked)
			r.text = "This agent may not act any more."
			return nil, r
		}
		stop := context.AfterFunc(watched, func() {
			g.giveUp(t, audit.StatusCancelled, audit.GuardRevoked)
			g.tasks.drop(t)
		})
		life = func() { stop(); cancel() }
	}
	t.unwatch = life
	good := taskTime
	if r.task.ttl > 0 {
		good = min(r.task.ttl, maxTaskTime)
	}
	if !g.tasks.add(t, good, func() { g.forget(t, "task-expired") }) {
		life()
		g.giveUp(t, audit.StatusFailed, "tasks-full")
		no := override(f.decision, "tasks-full")
		no.reason, no.text, no.retryable = "tasks-full", "The call was begun, but too many tasks are open already, so its result cannot be had.", false
		return nil, no
	}
	return taskReply(r, t.id, isBrief(f.decision)), nil
}

// isBrief reports whether policy bounds what may come back of a call. Of its task
// then nothing passes but how it stands.
func isBrief(d governance.Decision) bool {
	demands, err := d.Demands()
	return err != nil || demands.MaxBytes > 0 || !demands.Redact.Empty()
}

// taskReply leaves of an answer about a task what says how it stands, under our id.
// What else a server puts there would pass by everything that holds for results.
func taskReply(r *rawReply, id string, brief bool) *rawReply {
	var out []byte
	eachMember(slices.Concat([]byte("{"), r.members, []byte("}")), func(key string, v []byte) bool {
		switch key {
		case "taskId":
			v, _ = json.Marshal(id)
		case "statusMessage":
			if brief || len(v) > maxTaskWords {
				return true
			}
		case "status", "createdAt", "lastUpdatedAt", "ttlMs", "pollIntervalMs":
			if len(v) > maxTaskWords {
				return true
			}
		default:
			return true
		}
		out = appendMember(out, key, v)
		return true
	})
	r.members, r.meta = out, nil
	return r
}

// A taskMark is what an answer says that is a task.
type taskMark struct {
	id  string
	ttl time.Duration // 0 if it is not said
}

// markOf reads it from the members of a result.
func markOf(members []byte) (*taskMark, bool) {
	var m struct {
		ID  string `json:"taskId"`
		TTL *int64 `json:"ttlMs"`
	}
	if json.Unmarshal(slices.Concat([]byte("{"), members, []byte("}")), &m) != nil || m.ID == "" || len(m.ID) > maxTaskID {
		return nil, false
	}
	mark := &taskMark{id: m.ID}
	if m.TTL != nil && *m.TTL > 0 {
		mark.ttl = time.Duration(min(*m.TTL, int64(maxTaskTime/time.Millisecond))) * time.Millisecond
	}
	return mark, true
}

// declaresTasks reports whether a client's capabilities name the extension.
func declaresTasks(capabilities json.RawMessage) (yes bool) {
	eachMember(capabilities, func(key string, v []byte) bool {
		if key == "extensions" {
			eachMember(v, func(key string, v []byte) bool {
				yes = yes || key == tasksExtension && len(v) > 0 && v[0] == '{'
				return true
			})
		}
		return true
	})
	return yes
}
