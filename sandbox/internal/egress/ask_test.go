package egress

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/twinward-dev/twinward/audit"
)

// asking opens a door at which answer is asked, and every public host echoes.
func asking(t *testing.T, answer func(ctx context.Context, q Question) Answer, edit func(*Config)) *inside {
	dial := echoHost(t)
	return newInside(t, []Rule{allow("a.example.com", []uint16{5432})}, func(c *Config) {
		c.Ask, c.Dial = answer, dial
		c.Resolver = anyHost{}
		c.Governed = []Pattern{allow("**.governed.com", nil).Host}
		if edit != nil {
			edit(c)
		}
	})
}

// anyHost resolves every name to a public address, but those of private.com.
type anyHost struct{}

func (anyHost) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if host == "x.private.com." {
		return ips("10.0.0.1"), nil
	}
	return ips("93.184.216.34"), nil
}

// answers lists the records of answers.
func answers(rs []audit.Record) (out []string) {
	for _, r := range rs {
		if r.Event != nil && r.Event.Kind == audit.KindPolicy {
			out = append(out, fmt.Sprintf("%s %s %s:%s", r.Event.Change.By, r.Event.Detail["answer"], r.Event.Resource, r.Event.Detail["port"]))
		}
	}
	return out
}

func TestAsk(t *testing.T) {
	var asked []string
	var suggested []string
	in := asking(t, func(_ context.Context, q Question) Answer {
		asked = append(asked, fmt.Sprintf("%s %s:%d", q.Actor.Agent, q.Host, q.Port))
		switch q.Host {
		case "once.com":
			return Answer{Verdict: AnswerOnce, By: "alice"}
		case "session.com", "x.private.com":
			return Answer{Verdict: AnswerSession, By: "alice", Reason: "looks right"}
		case "always.com":
			return Answer{Verdict: AnswerAlways, By: "bob"}
		case "unsigned.com":
			return Answer{Verdict: AnswerAlways}
		case "odd.com":
			return Answer{Verdict: 9, By: "alice"}
		case "panic.com":
			panic("oops")
		}
		return Answer{By: "alice"}
	}, func(c *Config) {
		c.Suggest = func(host string, port uint16) { suggested = append(suggested, fmt.Sprint(host, port)) }
	})
	for _, c := range []struct {
		host string
		ok   bool
	}{
		{"a.example.com", true}, // by a rule
		{"once.com", true}, {"once.com", true},
		{"session.com", true}, {"session.com", true},
		{"always.com", true}, {"always.com", true},
		{"no.com", false}, {"no.com", false},
		{"unsigned.com", false}, {"odd.com", false}, {"panic.com", false}, {"panic.com", false},
		{"x.private.com", false}, // allowed by a person, but not there
	} {
		conn := in.dial(c.host, 5432)
		assert.Equal(t, c.ok, says(conn, "hello"), c.host)
		conn.Close()
	}
	// Another port is another question, and a host that a rule lists too.
	assert.False(t, says(in.dial("a.example.com", 8443), "hello"))
	// Nobody is asked about these.
	for _, host := range []string{"api.governed.com", "x.local", "metadata.google.internal", "localhost", "single", "x.home.arpa"} {
		assert.Empty(t, in.ask(host+".", 1).Answers, host)
	}
	in.refused(in.dialAddr(netip.MustParseAddr("9.9.9.9"), 443))

	// New rules start without answers, and cut what lived by one.
	conn := in.dial("session.com", 5432)
	require.True(t, says(conn, "hello"))
	in.put(allow("a.example.com", []uint16{5432}))
	in.refused(conn)
	assert.True(t, says(in.dial("session.com", 5432), "hello"), "asked again")

	rs := in.closed()
	ended(t, rs)
	assert.Equal(t, []string{
		"standup once.com:5432", "standup once.com:5432", "standup session.com:5432", "standup always.com:5432", "standup no.com:5432",
		"standup unsigned.com:5432", "standup odd.com:5432", "standup panic.com:5432", "standup x.private.com:5432", "standup a.example.com:8443",
		"standup session.com:5432",
	}, asked)
	assert.Equal(t, []string{
		`alice once Host::"once.com":5432`, `alice once Host::"once.com":5432`, `alice session Host::"session.com":5432`,
		`bob always Host::"always.com":5432`, `alice deny Host::"no.com":5432`, `alice session Host::"x.private.com":5432`,
		`alice deny Host::"a.example.com":8443`, `alice session Host::"session.com":5432`,
	}, answers(rs))
	assert.Equal(t, []string{"always.com5432"}, suggested)
	for _, r := range rs {
		if r.Intent != nil && r.Intent.Resource == `Host::"once.com"` {
			assert.Equal(t, []string{"network.answer:once.com"}, r.Intent.Decision.PolicyIDs())
		}
		if r.Event != nil && r.Event.Resource == `Host::"no.com"` && r.Event.Kind == audit.KindDenial {
			assert.Equal(t, "answered by alice", r.Event.Detail["why"])
			assert.Equal(t, CauseAsk, r.Event.Decision.Reason)
		}
	}
}

// Without an answer, or a record of it, nothing passes, and the questions that
// wait are few.
func TestAskWithoutAnAnswer(t *testing.T) {
	var calls atomic.Int64
	in := asking(t, func(ctx context.Context, _ Question) Answer {
		calls.Add(1)
		<-ctx.Done()
		return Answer{Verdict: AnswerSession, By: "late"}
	}, func(c *Config) { c.AskTimeout = 50 * time.Millisecond })
	in.refused(in.dial("slow.com", 5432))
	in.refused(in.dial("slow.com", 5432))
	assert.EqualValues(t, 1, calls.Load(), "not asked again at once")
	rs := in.closed()
	assert.Equal(t, []string{CauseAsk + ` Host::"slow.com"`, CauseAsk + ` Host::"slow.com"`}, causes(rs))
	assert.Empty(t, answers(rs))

	in = asking(t, func(context.Context, Question) Answer { return Answer{Verdict: AnswerSession, By: "alice"} }, nil)
	addr := in.addr("x.com")
	in.log.Fail(assert.AnError)
	c := in.dialAddr(addr, 5432)
	in.refused(c)
	in.log.Fail(nil)
	assert.Empty(t, answers(in.closed()))
}

// Attempts at one destination ask together; only so many questions wait; one
// answer of once lets one connection through.
func TestAskTogether(t *testing.T) {
	answer := make(chan Answer)
	var calls atomic.Int64
	in := asking(t, func(ctx context.Context, q Question) Answer {
		calls.Add(1)
		select {
		case a := <-answer:
			return a
		case <-ctx.Done():
			return Answer{}
		}
	}, nil)
	const n = 5
	addr := in.addr("together.com")
	var ok atomic.Int64
	var wg sync.WaitGroup
	var conns []net.Conn
	for range n {
		conns = append(conns, in.dialAddr(addr, 5432))
	}
	for _, c := range conns {
		wg.Go(func() {
			if says(c, "hello") {
				ok.Add(1)
			}
		})
	}
	for _, v := range []Verdict{AnswerOnce, AnswerDeny} { // the others ask again, once
		select {
		case answer <- Answer{Verdict: v, By: "alice"}:
		case <-time.After(time.Minute):
			t.Error("nobody asked")
		}
	}
	wg.Wait()
	assert.EqualValues(t, 1, ok.Load())
	assert.EqualValues(t, 2, calls.Load())

	for i := range maxAsking {
		in.dial(fmt.Sprintf("n%d.com", i), 5432)
	}
	for calls.Load() < 2+maxAsking {
		in.ask("a.example.com.", 1) // passes the time
	}
	in.refused(in.dial("one-more.com", 5432))
	in.closed()
	assert.EqualValues(t, 2+maxAsking, calls.Load())
}

// Names that no rule allows cannot use up the addresses of those that one does.
func TestAskedNamesRunOut(t *testing.T) {
	in := asking(t, func(context.Context, Question) Answer { return Answer{} }, nil)
	for i := range maxAskedNames {
		_, ok := in.door.names.address(fmt.Sprintf("n%d.example.org", i), maxAskedNames)
		require.True(t, ok)
	}
	m := in.ask("more.example.org.", dnsmessage.TypeA)
	assert.Equal(t, dnsmessage.RCodeNameError, m.RCode)
	assert.Equal(t, []string{CauseNames + ` Host::"more.example.org"`}, causes(in.log.Records()))
	assert.True(t, synthetic.Contains(in.addr("a.example.com")))
}
