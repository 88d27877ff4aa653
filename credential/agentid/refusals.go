package agentid

import (
	"strconv"
	"sync"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// quiet is for how long further refusals of the same kind are only counted, so
// that a flood of bad requests cannot fill the log.
const quiet = time.Minute

// A refusals turns a flood of refused clients into counted records: the first
// of a kind is recorded at once, those of the next minute are counted, and the
// count is on the record after that. Kinds are a few for each agent: unknown names
// share one.
type refusals struct {
	mu   sync.Mutex
	last map[clientError]*flood
}

type flood struct {
	since time.Time
	more  int
}

// note returns the event to record for a refusal, if it is to be recorded now.
func (f *refusals) note(why *clientError, now time.Time) (ev audit.Event, first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.last == nil {
		f.last = make(map[clientError]*flood)
	}
	was, again := f.last[*why]
	if again && now.Before(was.since.Add(quiet)) {
		was.more++
		return audit.Event{}, false
	}
	f.last[*why] = &flood{since: now}

	decision := audit.Refusal(audit.NewID(), why.guard)
	ev = audit.Event{
		Kind: audit.KindDenial, Door: audit.DoorAdmin, Action: "issue_token",
		Resource: "TokenEndpoint", Decision: &decision,
	}
	if why.agent != "" {
		// Mostly claimed, and not proved: so it is the resource and not the actor.
		ev.Resource = agentResource(why.agent)
	}
	detail := map[string]string{}
	if why.what != "" {
		detail["refused"] = why.what
	}
	if again && was.more > 0 {
		detail["more_before"] = strconv.Itoa(was.more)
	}
	if len(detail) > 0 {
		ev.Detail = detail
	}
	return ev, true
}
