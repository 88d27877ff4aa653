package sandbox

import (
	"context"
	"slices"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/sandbox/internal/egress"
)

// An Attempt is a connection to a destination that no rule allows, put to
// [Options.Ask].
type Attempt struct {
	Actor audit.Actor
	Host  string // canonical name; what a program inside wrote, so do not render it as markup
	Port  uint16
	// Program is the executable of the process that holds the connection, as far
	// as it could be found; of several attempts, that of the first.
	Program string
}

// A Verdict says what follows from an [Answer].
type Verdict int

const (
	// Deny refuses, and is remembered until the network of the session is set anew.
	Deny = Verdict(egress.AnswerDeny)
	// Once lets one connection through, within a minute.
	Once = Verdict(egress.AnswerOnce)
	// ForSession lets connections through until the session ends or its network
	// is set anew.
	ForSession = Verdict(egress.AnswerSession)
	// Always is ForSession, and becomes one of [Session.Suggestions].
	Always = Verdict(egress.AnswerAlways)
)

// An Answer is what a person, or a program in their place, says about an
// [Attempt]. The zero Answer denies.
type Answer struct {
	Verdict Verdict
	// By is who answers, as in [audit.Change]. An answer of nobody allows nothing.
	By string
	// Reason may be empty.
	Reason string
}

// An AskFunc decides about destinations that no rule of the policy allows.
//
// With one, every public name exists for programs inside: it has a synthetic
// address, and nothing about it leaves this machine before a connection to it
// was allowed. Besides the ports of the policy, 443 and 80 can be reached, and
// any port through the proxy. A program connects at once and then waits for the
// answer, so that it is its patience with TLS or HTTP that counts; one that gives
// up and tries again finds the answer.
//
// Nobody is asked about names of [Options.Governed], local names, or bare
// addresses. What is allowed in this way still cannot lead to a private address,
// and a governance engine still decides about it. Each answer is on record before
// it counts.
//
// It is called in goroutines of their own, at most 16 at one time; attempts at
// one destination make one call. It must return when ctx is done.
type AskFunc func(ctx context.Context, a Attempt) Answer

// ask configures the door's ask mode.
func (s *Session) ask(c *egress.Config) error {
	ask := s.opts.Ask
	if ask == nil {
		return nil
	}
	c.AskTimeout = s.opts.AskTimeout
	c.Ask = func(ctx context.Context, q egress.Question) egress.Answer {
		a := ask(ctx, Attempt{Actor: q.Actor, Host: q.Host, Port: q.Port, Program: q.Program})
		return egress.Answer{Verdict: egress.Verdict(a.Verdict), By: a.By, Reason: a.Reason}
	}
	c.Suggest = s.live.suggest
	for _, text := range s.opts.Governed {
		g, err := parseGoverned(text)
		if err != nil {
			return err
		}
		c.Governed = append(c.Governed, g.patterns...)
	}
	return nil
}

func (n *network) suggest(host string, port uint16) {
	n.suggesting.Lock()
	defer n.suggesting.Unlock()
	if w := (Wish{Host: host, Port: port}); !slices.Contains(n.suggested, w) {
		n.suggested = append(n.suggested, w)
	}
}

// Suggestions are the connections about which [Always] was answered, in the order
// of the answers, without those that the policy in force allows by now.
// [Policy.Suggest] writes the rules for them.
func (s *Session) Suggestions() []Wish {
	s.live.mu.Lock()
	now := s.live.policy
	s.live.mu.Unlock()
	s.live.suggesting.Lock()
	defer s.live.suggesting.Unlock()
	return slices.DeleteFunc(slices.Clone(s.live.suggested), func(w Wish) bool {
		return len(now.Network.deciding(w.Host, w.Port)) > 0
	})
}
