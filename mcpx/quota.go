package mcpx

import "strconv"

// A quota counts what principals hold of something that is bounded in all and for
// each owner, who is an agent, for one of its users or for none. Several owners who
// take all that they may must not crowd out the others, and neither must one agent
// with many users: the last quarter of all is for agents that hold less than a
// quarter, and in there for owners that hold less than an eighth of theirs.
//
// The zero value of its maps is empty. Whoever has it locks it.
type quota struct {
	all, one int

	total  int
	owners map[string]int
	agents map[string]int
}

func newQuota(all, one int) quota { return quota{all: all, one: one} }

// room reports whether an owner may hold one more.
func (q *quota) room(owner string) bool {
	mine := q.owners[owner]
	if q.total < q.all-q.all/4 {
		return mine < q.one
	}
	return q.total < q.all && mine < max(1, q.one/8) && q.agents[agentOf(owner)] < q.all/4
}

func (q *quota) add(owner string) {
	if q.owners == nil {
		q.owners, q.agents = make(map[string]int), make(map[string]int)
	}
	q.total++
	q.owners[owner]++
	q.agents[agentOf(owner)]++
}

func (q *quota) drop(owner string) {
	q.total--
	lower(q.owners, owner)
	lower(q.agents, agentOf(owner))
}

// lower takes one away, and forgets who has none.
func lower(m map[string]int, key string) {
	if m[key]--; m[key] <= 0 {
		delete(m, key)
	}
}

// agentOf is the part of an owner that says which agent it is: all but the user.
func agentOf(owner string) string {
	n := 0
	for range 2 { // issuer and agent, as quoteJoin writes them
		part, err := strconv.QuotedPrefix(owner[n:])
		if err != nil {
			return owner
		}
		if n += len(part); n < len(owner) {
			n++ // the space
		}
	}
	return owner[:n]
}
