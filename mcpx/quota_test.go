package mcpx

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/twinward-dev/twinward/audit"
)

func of(agent, user string) string {
	return owner(audit.Actor{Issuer: "iss", Agent: agent, User: user})
}

// take has an owner take all that it gets.
func take(q *quota, owner string) (n int) {
	for q.room(owner) {
		q.add(owner)
		n++
	}
	return n
}

// However many take what they may, there is room for who has nothing.
func TestQuotaIsShared(t *testing.T) {
	q := newQuota(1000, 100)
	assert.Equal(t, 100, take(&q, of("a", "")))
	for i := range 20 { // others who take all that they get
		take(&q, of(fmt.Sprint("b", i), ""))
	}
	assert.Equal(t, 1000-250+12*13, q.total, "thirteen of them found three quarters taken")
	assert.Equal(t, 12, take(&q, of("late", "")), "an eighth")
	q.drop(of("late", ""))
	assert.True(t, q.room(of("late", "")))

	// One agent with many users has three quarters at most.
	q = newQuota(1000, 100)
	n := 0
	for i := range 100 {
		n += take(&q, of("a", fmt.Sprint("u", i)))
	}
	assert.Equal(t, 750, n)
	assert.False(t, q.room(of("a", "another")))
	assert.Equal(t, 12, take(&q, of("c", "u")), "which leaves room for others")
	assert.Equal(t, 750+12, q.total)

	// All is all.
	for i := range 1000 {
		take(&q, of(fmt.Sprint("d", i), ""))
	}
	assert.Equal(t, 1000, q.total)
	assert.False(t, q.room(of("last", "")))

	for o, n := range q.owners {
		for range n {
			q.drop(o)
		}
	}
	assert.Zero(t, q.total)
	assert.Empty(t, q.owners)
	assert.Empty(t, q.agents)
	small := newQuota(8, 2)
	assert.Equal(t, 2, take(&small, of("a", "")))
	for i := range 10 {
		take(&small, of(fmt.Sprint(i), ""))
	}
	assert.Equal(t, 8, small.total, "an eighth is one at least")
}

// Two users of an agent are one agent, whatever is in their names.
func TestAgentOf(t *testing.T) {
	for _, user := range []string{"", "u", "u ", ` "`, `" "x`, "\\", "é\x00"} {
		assert.Equal(t, agentOf(of("a", "")), agentOf(of("a", user)), user)
		assert.NotEqual(t, agentOf(of("a", "")), agentOf(of("b", user)), user)
		assert.NotEqual(t, agentOf(of("a", "")), agentOf(of(`a" "`+user, "")), user)
	}
	assert.Equal(t, "session x", agentOf("session x"))
	assert.Empty(t, agentOf(""))
}

// The links to upstreams of who has the most go first.
func TestLinksOfTheLargestGoFirst(t *testing.T) {
	p := newPool()
	link := func(server int, owner string, used uint64) {
		p.links[poolKey{server: fmt.Sprint(server), owner: owner}] = &link{used: used}
	}
	const small = 100
	for i := range small { // the oldest of all
		link(i, fmt.Sprint("small", i), 0)
	}
	for i := range maxLinks - small {
		link(i, "large", uint64(i+1))
	}
	count := func(owner string) (n int) {
		for key := range p.links {
			if strings.HasPrefix(key.owner, owner) {
				n++
			}
		}
		return n
	}
	for i := range 20 {
		p.evictLocked()
		assert.NotContains(t, p.links, poolKey{server: fmt.Sprint(i), owner: "large"}, "the oldest of those")
		link(1000+i, "large", uint64(1000+i))
	}
	assert.Equal(t, small, count("small"))
	assert.Equal(t, maxLinks-small, count("large"))
	for key, l := range p.links {
		if key.owner == "large" {
			l.users = 1
		}
	}
	p.evictLocked()
	assert.Equal(t, small-1, count("small"), "those of the largest are in use")
	p.evictLocked()
	assert.Equal(t, small-1, count("small"), "there is room")
}
