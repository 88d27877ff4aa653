package sandbox

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/sandbox/internal/egress"
)

// A Resolver finds the addresses of a host; *net.Resolver is one. Names with a
// dot in them are given with a trailing dot, so that no search list applies.
type Resolver = egress.Resolver

// ErrHandled is returned by [Session.Handle] for a name that has a handler.
var ErrHandled = egress.ErrHandled

// The causes that the network door gives in [audit.Decision.Reason], beside
// those of a governance engine. Each refused attempt is a record of kind
// [audit.KindDenial]; repetitions are counted, and the count is recorded when
// the session ends.
const (
	CauseName      = egress.CauseName      // no rule allows the name
	CausePort      = egress.CausePort      // the name is allowed, the port is not
	CauseAddress   = egress.CauseAddress   // an address was dialled, not a name
	CauseNotServed = egress.CauseNotServed // no handler serves the name, or not on this port
	CauseHello     = egress.CauseHello     // port 443, and no TLS came
	CauseSNI       = egress.CauseSNI       // TLS for another name, or for none
	CauseECH       = egress.CauseECH       // TLS whose true name is hidden
	CauseHost      = egress.CauseHost      // an HTTP request for another host
	CausePrivate   = egress.CausePrivate   // the name leads to an address that must not be dialled
	CauseLimit     = egress.CauseLimit     // too many connections at once
	CauseNames     = egress.CauseNames     // too many names
	CauseAsk       = egress.CauseAsk       // nobody who was asked allowed it
	CauseProgram   = egress.CauseProgram   // the rule is for other programs
	// CauseProgramHidden is for a rule with programs while a process inside hides
	// what it has open from the user of this one. Root sees all.
	CauseProgramHidden = egress.CauseProgramHidden
	CauseRate          = egress.CauseRate  // too many connections or DNS questions in a second
	CauseBytes         = egress.CauseBytes // the session, or a connection, carried all that it may
	CauseProxy         = egress.CauseProxy // a request to the proxy that is none
)

// The causes where a rule says protocol http or https, so that each request is
// looked at.
const (
	CauseMethod   = egress.CauseMethod   // no rule of the host allows the method
	CausePath     = egress.CausePath     // no rule allows the method on this path
	CauseDeny     = egress.CauseDeny     // a deny rule covers the request
	CauseSpelling = egress.CauseSpelling // servers could take the path for another one
	CauseRequest  = egress.CauseRequest  // not a request that all servers read alike
	CauseOverride = egress.CauseOverride // a header or parameter names another method or path
	CauseUpgrade  = egress.CauseUpgrade  // to a protocol in which requests could not be seen
)

// Handle serves name with h: over TLS on port 443, with a certificate that the
// session's trust store holds, and over plain HTTP on port 80. HTTP/1.1, HTTP/2
// and WebSocket work, and responses may stream. Each request carries the
// session's actor ([audit.ActorFrom]), is for that name (others are answered
// 421), and reaches h as it was sent.
//
// The policy must allow name on one of the two ports; otherwise the error is a
// [*PolicyError] that says what to add. A second handler for a name is
// [ErrHandled]. Until Handle is called, connections to a name under .local, or
// one whose rule says served, are refused; any other allowed name leads to the
// real host, and connections to that are cut by Handle.
func (s *Session) Handle(name string, h http.Handler) error {
	err := s.door.Handle(name, h)
	if errors.Is(err, egress.ErrNotAllowed) {
		return &PolicyError{
			Field:   "network.allow",
			Problem: fmt.Sprintf("a handler for %q could never be reached, as no rule allows it", name),
			Fix:     fmt.Sprintf("add   - {host: %s, ports: [443, 80]}   under network: allow:", strings.ToLower(name)),
		}
	}
	if errors.Is(err, egress.ErrClosed) {
		err = ErrEnded
	}
	if err != nil {
		return fmt.Errorf("sandbox: handle: %w", err)
	}
	return nil
}

// newDoor makes the network door of a session. It is closed until the launcher
// gives it the session's sockets, with Serve. n is a policy in normal form.
func newDoor(n *Policy, actor audit.Actor, log audit.Recorder, engine *governance.Engine, more egress.Config) (*egress.Door, error) {
	c := more
	c.Actor, c.Log, c.PolicyHash = actor, log, n.Hash()
	if engine != nil {
		c.Decider = engine
	}
	var err error
	if c.Rules, err = egressRules(n); err != nil {
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	return egress.New(c)
}
