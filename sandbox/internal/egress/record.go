package egress

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/twinward-dev/twinward/audit"
)

// The causes of refusals here, beside those of a policy engine. They are the
// values of [audit.Decision.Reason].
const (
	CauseName      = audit.GuardUnlistedHost // no rule allows the name
	CausePort      = audit.GuardUnlistedPort // the name is allowed, the port is not
	CauseAddress   = audit.GuardRawAddress   // the program dialled an address, not a name
	CauseNotServed = audit.GuardNotServed    // the host must serve the name, and does not (yet), or not on this port
	CauseHello     = audit.GuardClientHello  // port 443, and no TLS ClientHello came
	CauseSNI       = audit.GuardSNI          // TLS for another name, or for none
	CauseECH       = audit.GuardECH          // TLS whose true name cannot be seen
	CauseHost      = audit.GuardHost         // HTTP request for another host
	CauseLimit     = audit.GuardConnections  // of this session at once
	CauseNames     = audit.GuardNames        // of this session
	CauseAsk       = audit.GuardApproval     // no rule allows it, and nobody who was asked did
	CauseProgram   = audit.GuardProgram      // the rule is for other programs
	// CauseProgramHidden is for a session in which a process hides what it has open
	// from the user of this one: it may hold any connection.
	CauseProgramHidden = audit.GuardProgramHidden

	CauseRate  = audit.GuardRate  // too many connections or DNS questions in a second
	CauseBytes = audit.GuardBytes // the session, or the connection, carried all that it may
	CauseProxy = audit.GuardProxy // a request to the proxy that is none
	// CausePrivate is for a name that leads to an address which must not be
	// dialled.
	CausePrivate = audit.GuardPrivateRange
)

const (
	// denialsEach bounds the records of one cause, name and port. The rest is
	// counted, and the count is recorded when the session ends.
	denialsEach = 8
	// denialsAll bounds the records of one cause in a session, so that a flood of
	// one kind does not hide another.
	denialsAll = 1024
)

// A target is what a program tried to reach.
type target struct {
	host  string // canonical name, or an address, or what was asked for
	port  uint16 // 0 for DNS
	proto string // "tcp", "dns"; "http" or "https" when requests are looked at

	method, path string // of such a request
	kernel       bool   // refused below this door
	program      string // that holds the connection, if it was looked for
}

// scheme is what the port stands for.
func (t target) scheme() string {
	if t.proto == ProtocolHTTP || t.proto == ProtocolHTTPS {
		return t.proto
	}
	switch t.port {
	case 443:
		return "https"
	case 80:
		return "http"
	}
	return "tcp"
}

func (t target) resource() string { return "Host::" + strconv.Quote(t.host) }

// args are the facts that were decided, in the form that a log commits to.
func (t target) args() json.RawMessage {
	facts := map[string]any{"host": t.host, "port": t.port, "scheme": t.scheme()}
	if t.method != "" {
		facts["method"], facts["path"] = t.method, t.path
	}
	if t.program != "" {
		facts["program"] = t.program
	}
	b, _ := json.Marshal(facts)
	return b
}

// A recorder writes what the door did, and keeps floods out of the log.
type recorder struct {
	log    audit.Recorder
	actor  audit.Actor
	logger *slog.Logger

	mu     sync.Mutex
	total  map[denialKey]int // records of one cause and protocol
	seen   map[denialKey]int // how often recorded
	unsaid map[denialKey]int // how often only counted
	broken int               // denials that the log did not take
}

type denialKey struct {
	cause string
	target
}

func newRecorder(c Config) *recorder {
	return &recorder{
		log: audit.OrRefuse(c.Log), actor: c.Actor, logger: c.Logger,
		total: make(map[denialKey]int), seen: make(map[denialKey]int), unsaid: make(map[denialKey]int),
	}
}

// deny records that t was refused, at most each times for the same cause and
// target. detail are pairs of further facts.
func (r *recorder) deny(ctx context.Context, t target, d audit.Decision, each int, detail ...string) {
	if len(t.host) > maxName {
		t.host = t.host[:maxName]
	}
	k := denialKey{d.Reason, t}
	k.method, k.path, k.program = "", "", "" // one count for all of them
	all := denialKey{d.Reason, target{host: "*", proto: t.proto}}
	r.mu.Lock()
	switch {
	case r.seen[k] == 0 && r.total[all] >= denialsAll:
		r.unsaid[all]++
		r.mu.Unlock()
		return
	case r.seen[k] >= each:
		r.unsaid[k]++
		r.mu.Unlock()
		return
	}
	r.total[all]++
	r.seen[k]++
	r.mu.Unlock()
	r.append(ctx, t, d, detail...)
}

func (r *recorder) append(ctx context.Context, t target, d audit.Decision, detail ...string) {
	facts := map[string]string{"protocol": t.proto}
	if t.port != 0 {
		facts["port"] = strconv.Itoa(int(t.port))
	}
	for i := 0; i+1 < len(detail); i += 2 {
		facts[detail[i]] = detail[i+1]
	}
	kind, source := audit.KindDenial, ""
	if t.kernel {
		kind, source = audit.KindProbe, "kernel"
	}
	err := r.log.Append(context.WithoutCancel(ctx), audit.Event{
		Kind: kind, Source: source, Door: audit.DoorCompute, Action: "connect", Resource: t.resource(),
		Actor: r.actor, Decision: &d, Args: t.args(), Detail: facts,
	})
	if err != nil {
		// The attempt is refused either way.
		r.mu.Lock()
		r.broken++
		r.mu.Unlock()
		r.logger.Error("sandbox: a refused connection could not be recorded", "host", t.host, "cause", d.Reason, "error", err)
	}
}

// flush records the counts of what was not recorded one by one.
func (r *recorder) flush(ctx context.Context, s *snapshot) {
	r.mu.Lock()
	unsaid := r.unsaid
	r.unsaid = make(map[denialKey]int)
	r.mu.Unlock()
	keys := slices.SortedFunc(maps.Keys(unsaid), func(a, b denialKey) int {
		if c := strings.Compare(a.cause, b.cause); c != 0 {
			return c
		}
		if c := strings.Compare(a.host, b.host); c != 0 {
			return c
		}
		if c := int(a.port) - int(b.port); c != 0 {
			return c
		}
		return strings.Compare(a.proto, b.proto)
	})
	for _, k := range keys {
		r.append(ctx, k.target, s.refusal(k.cause), "repeated", strconv.Itoa(unsaid[k]))
	}
}

// begin makes the intent durable under which t is reached.
func (r *recorder) begin(ctx context.Context, t target, d grant) (audit.Call, error) {
	return r.log.Begin(ctx, audit.Intent{
		Door: audit.DoorCompute, Action: d.action, Resource: d.resource, Actor: r.actor,
		Decision: d.Decision, Args: t.args(),
	})
}

// end records how a connection ended: bytes that came back, and as a check the
// bytes that were sent out and the program, if it was looked for.
func (r *recorder) end(ctx context.Context, call audit.Call, t target, out audit.Outcome, sent int64) {
	out.Checks = append(out.Checks, "sent:"+strconv.FormatInt(sent, 10))
	if t.program != "" {
		out.Checks = append(out.Checks, "program:"+short(t.program))
	}
	if err := call.End(context.WithoutCancel(ctx), out); err != nil {
		r.logger.Error("sandbox: the end of a connection could not be recorded", "host", t.host, "record", call.Record(), "error", err)
	}
}
