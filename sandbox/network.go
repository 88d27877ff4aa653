package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/sandbox/internal/confine"
	"github.com/twinward-dev/twinward/sandbox/internal/egress"
)

// A NewSessionError is returned for a change that a living session cannot make:
// start a new one with the policy.
type NewSessionError struct {
	// Part is what would have to change, such as "filesystem".
	Part string
	// Problem says why it cannot.
	Problem string
}

func (e *NewSessionError) Error() string {
	return fmt.Sprintf("%s: %s; start a new session", e.Part, e.Problem)
}

// NetworkLimits bound what a session may do with the hosts that it may reach.
// They are generous, and stop what runs away: with [CauseRate] and [CauseBytes],
// on record. Zero means the default.
type NetworkLimits struct {
	ConnectionsPerSecond int // 5,000; as many may come at once
	QueriesPerSecond     int // DNS questions: 5,000; those above get no answer
	// Sent and Received bound the bytes of the whole session, to and from handlers
	// too: 256 GiB each. Not a byte more passes; connections that share the last
	// of it may end a little before.
	Sent, Received int64
	// ConnectionSent and ConnectionReceived bound one connection; zero means that
	// the session's bounds alone do.
	ConnectionSent, ConnectionReceived int64
}

// A network is the part of a session's policy that can change while it lives.
type network struct {
	mu     sync.Mutex // held by who changes it
	policy *Policy    // normal form, in force
	ports  []uint16   // with a listener inside
	hash   atomic.Pointer[string]

	suggesting sync.Mutex
	suggested  []Wish
}

func (n *network) set(p *Policy) {
	hash := p.Hash()
	n.policy = p
	n.hash.Store(&hash)
}

// proxyPort is where programs inside find the door's proxy, on loopback. It is
// for programs that cannot do without: no other needs one.
const proxyPort = 3128

// listening returns the ports on which a session listens inside from the start.
func (s *Session) listening() []uint16 {
	ports := append(s.policy.ports(), proxyPort)
	if s.opts.Ask != nil {
		ports = append(ports, 443, 80)
	}
	return set(ports)
}

// policyHash identifies the policy in force.
func (s *Session) policyHash() string { return *s.live.hash.Load() }

// SetNetwork puts n in place of the network part of the session's policy, at
// once and as a whole. When it returns, every decision is made by n, and each
// connection, request, tunnel or stream that n would not have let through the
// same way is cut; the others live on. What [Options.Ask] was answered for the
// session is forgotten.
//
// The change is on record before it takes effect, with who made it and why, the
// hashes of both policies and the rules that come and go. When n is invalid, or
// opens a governed host, or the record cannot be written, nothing changes.
//
// Names keep their addresses inside. A port that no rule named before gets a
// listener inside; if a program has taken it in the meantime, the error is a
// [*NewSessionError].
func (s *Session) SetNetwork(ctx context.Context, n Network, c audit.Change) error {
	if err := s.setNetwork(ctx, c, func(now *Policy) (*Policy, error) {
		next := *now
		next.Network = n
		return &next, nil
	}); err != nil {
		return fmt.Errorf("sandbox: set network: %w", err)
	}
	return nil
}

// SetPolicy is [Session.SetNetwork] for a whole policy: its network, inference
// and services are put into force. If any other part differs from the policy
// that the session was started with, the error is a [*NewSessionError] that
// names the part, and nothing changes.
func (s *Session) SetPolicy(ctx context.Context, p *Policy, c audit.Change) error {
	if err := s.setNetwork(ctx, c, func(now *Policy) (*Policy, error) {
		if err := p.Validate(); err != nil {
			return nil, err
		}
		next := p.normal()
		if part := staticDifference(now, next); part != "" {
			return nil, &NewSessionError{Part: part, Problem: "it is fixed when a session starts"}
		}
		return next, nil
	}); err != nil {
		return fmt.Errorf("sandbox: set policy: %w", err)
	}
	return nil
}

func (s *Session) setNetwork(ctx context.Context, c audit.Change, change func(now *Policy) (*Policy, error)) error {
	if err := c.Validate(); err != nil {
		return err
	}
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	if s.ctx.Err() != nil {
		return ErrEnded
	}
	now := s.live.policy
	next, err := change(now)
	if err != nil {
		return err
	}
	if err := next.Validate(); err != nil {
		return err
	}
	next = next.normal()
	if next.trustsPaths() && !s.policy.trustsPaths() && s.policy.Process.Exec != ExecStrict && s.policy.Process.Programs == nil {
		return &NewSessionError{Part: "network", Problem: "a rule lists a program without its sha256, and this session was not made so that what it shows read-only cannot be changed by another way"}
	}
	if !s.opts.AllowUngoverned {
		if err := next.checkGoverned(s.opts.Governed); err != nil {
			return err
		}
	}
	list, err := egressRules(next)
	if err != nil {
		return err
	}
	rules, err := s.door.Compile(list, next.Hash())
	if err != nil {
		return err
	}
	fresh, err := s.listen(next)
	if err != nil {
		return err
	}
	err = s.log.Append(ctx, audit.Event{
		Kind: audit.KindPolicy, Door: audit.DoorCompute, Action: "set_network", Resource: s.resource(), Actor: s.actor, Change: &c,
		Detail: networkDetail(now, next),
	})
	if err == nil {
		err = s.door.Put(rules)
	} else {
		err = fmt.Errorf("record the change: %w", err)
	}
	if err != nil {
		for _, l := range fresh {
			l.Close()
		}
		if errors.Is(err, egress.ErrClosed) {
			err = ErrEnded
		}
		return err
	}
	s.live.set(next)
	for p := range fresh {
		s.live.ports = append(s.live.ports, p)
	}
	return s.door.Listen(fresh)
}

// listen makes listeners inside for the ports that have none.
func (s *Session) listen(p *Policy) (map[uint16]net.Listener, error) {
	if s.sharesHost() {
		return nil, nil // the proxy takes any port
	}
	var missing []uint16
	for _, port := range p.ports() {
		if !slices.Contains(s.live.ports, port) {
			missing = append(missing, port)
		}
	}
	if len(missing) == 0 {
		return nil, nil
	}
	ls, err := s.box.Listen(missing)
	if errors.Is(err, confine.ErrEnded) {
		return nil, err
	}
	if err != nil {
		return nil, &NewSessionError{Part: "network", Problem: fmt.Sprintf("no listener inside for the ports %v: %v", missing, err)}
	}
	return ls, nil
}

// staticDifference names the first part of two policies in normal form that
// differs and cannot be changed in a living session.
func staticDifference(a, b *Policy) string {
	for _, part := range []struct {
		name string
		of   func(*Policy) any
	}{
		{"filesystem", func(p *Policy) any { return p.Filesystem }},
		{"process", func(p *Policy) any { return p.Process }},
		{"environment", func(p *Policy) any { return p.Environment }},
		{"devices", func(p *Policy) any { return p.Devices }},
	} {
		if text(part.of(a)) != text(part.of(b)) {
			return part.name
		}
	}
	// A part that was added to Policy later is static until it is known here.
	a2, b2 := *a, *b
	for _, p := range []*Policy{&a2, &b2} {
		p.Network, p.Inference, p.Services = Network{}, nil, nil
	}
	if a2.Hash() != b2.Hash() {
		return "policy"
	}
	return ""
}

// text returns v as JSON, which has one form for what is in normal form.
func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings and numbers only
	}
	return string(b)
}

// maxDetail bounds the rules in a record: the hash commits to all of them.
const maxDetail = 4096

// networkDetail says what changes between two policies in normal form.
func networkDetail(old, next *Policy) map[string]string {
	detail := map[string]string{audit.DetailPolicyHash: next.Hash(), "replaces": old.Hash()}
	put := func(key string, lines []string) {
		size := 0
		for i, l := range lines {
			if size += len(l) + 1; size > maxDetail {
				lines = append(lines[:i:i], "…")
				break
			}
		}
		if len(lines) > 0 {
			detail[key] = strings.Join(lines, "\n")
		}
	}
	without := func(a, b []string) []string {
		return slices.DeleteFunc(slices.Clone(a), func(r string) bool { return slices.Contains(b, r) })
	}
	was, is := ruleTexts(old), ruleTexts(next)
	put("added", without(is, was))
	put("removed", without(was, is))
	var words []string
	for _, c := range Diff(old, next) {
		words = append(words, c.String())
	}
	put("changes", words)
	return detail
}

func ruleTexts(p *Policy) []string {
	var out []string
	for _, r := range p.rules() {
		out = append(out, text(r))
	}
	return out
}

// egressRules are the rules of a policy in normal form as the door has them.
func egressRules(n *Policy) ([]egress.Rule, error) {
	var out []egress.Rule
	for _, r := range n.rules() {
		p, err := egress.ParsePattern(r.Host)
		if err != nil {
			return nil, fmt.Errorf("policy: %q: %w", r.Host, err)
		}
		served := r.Served || strings.HasSuffix(p.String(), ".local")
		e := egress.Rule{Host: p, Ports: r.Ports, Private: r.Private, Served: served}
		if r.Protocol == ProtocolHTTPS || r.Protocol == ProtocolHTTP {
			e.Protocol = string(r.Protocol)
			if e.HTTP, err = egress.NewHTTPRules(string(r.Access), requestRules(r.Rules), requestRules(r.Deny)); err != nil {
				return nil, fmt.Errorf("policy: %q: %w", r.Host, err)
			}
		}
		for _, p := range r.Programs {
			e.Programs = append(e.Programs, egress.Program{Path: p.Path, SHA256: p.SHA256})
		}
		out = append(out, e)
	}
	return out, nil
}

func requestRules(list []HTTPRule) []egress.HTTPRule {
	var out []egress.HTTPRule
	for _, h := range list {
		out = append(out, egress.HTTPRule{Methods: h.Methods, Path: h.Path})
	}
	return out
}
