// Package mcpx puts the Model Context Protocol under governance: every request
// of an agent is decided by policy, on record before it acts, and on record
// again before the agent sees the answer.
//
// There are two ways in, and one implementation of governance behind both.
//
//   - [Govern] is middleware for a server that you wrote with the go-sdk. One
//     line, added last, and the server's own tools, prompts and resources are
//     governed on every transport.
//   - [Gateway] is one endpoint in front of many servers that others wrote. It
//     holds their credentials, so that the agents do not.
//
// With [Remote], a session of a sandbox uses a gateway on another host.
//
// # How to think about a call
//
// Somebody asks: the [audit.Actor], which comes from the door of a sandbox
// session or from a token that was verified for this very request, never from
// what a client says about itself and never from the first request of a longer
// session. They ask for a tool that a person approved: the catalogue in
// [governance.Bundle] pins each definition, and a live tool that is absent from
// it or differs is drift and cannot be called. The arguments that policy
// decides are the bytes that the tool receives. Then the intent becomes
// durable, the credential is leased for this one call, exactly one request
// goes out, what comes back is scrubbed, the outcome becomes durable, and only
// then is the agent answered. If any of this fails, the answer is no.
//
// # What an agent is told
//
// A refused tools/call is an ordinary result with isError, a short text and
// _meta["dev.twinward/denial"] (see [Denial]), so that a model can adapt and
// the session lives on. Other refused methods answer a JSON-RPC error with
// [CodeDenied] and the same data. A tool that the agent must not know about
// answers exactly as one that does not exist. Policy text is for the auditor,
// who finds it in the record under the decision's id.
//
// # When a person has to agree
//
// A permit with @approval("group") stops a call until a person of the group has
// agreed to it: to this one call of this actor, with these bytes as arguments, by
// the policies in force. GatewayOptions.Approver says how people are asked.
// [ApproverFunc] is a callback. [Desk] is a page that the host serves behind its
// login; the agent is told its address and calls again. [ClientApprover] is a
// form at the client that called, for hosts who know that a person, and not the
// agent, answers there. Only a yes of somebody of all the groups counts, once,
// and it is on record who that was. The agent cannot approve: it reaches neither
// callback nor desk, and forms only where the host says so. Prompts and resources
// can wait for a person as well; subscriptions and completions cannot, and are
// then denied.
//
// # What takes long
//
// A server of 2026-07-28 may answer a call with a task, which the client asks for
// until it has ended. It stays one act on record: its outcome is written before the
// client has the result, which is governed like any answer, and says how often the
// client has asked. Its id is the gateway's and good for its owner only; policy
// decides again at each poll, for the session as it is by then. A task ends with its
// agent, its time, or the gateway, which keeps tasks in memory, and is then cancelled
// at its server. The tasks of 2025-11-25 are not offered to either side.
//
// A stream that an upstream ends early is taken up again where it ended
// (Last-Event-ID); the call is not sent a second time.
// [GatewayOptions.Resumable] gives clients the same.
//
// # What servers ask
//
// A server may ask its client something in the middle of a call: a form or a page
// for the user, an answer of the client's model, its roots. None of it is passed
// on unless a policy permits the actor the action elicit, or sample, on that
// server, and the client offers it; roots besides only with Upstream.Roots. Pages
// are https or refused, forms that ask for passwords and keys are refused, what
// does not show in a text is escaped, and _meta["dev.twinward/server"] says who
// asks. Nobody but the client answers. Each question is on record as an act, and
// how it was answered as its outcome. A page that a server of the older era wants
// opened before it does a call at all (-32042) is a question too.
//
// Client and server may be of either era of the protocol. Where a server asks in
// the middle of a call and the client answers by calling again, the call is
// parked in this process for a minute; policy decides each time that the client
// comes. What clients carry in between is sealed for the same call of the same
// actor. Numbers in forms and answers above 2^53 may lose digits.
//
// # When a server changes
//
// What an agent is shown of a tool is what was approved, byte for byte.
// [Gateway.Drifts] tells an operator which live tools differ from that, in which
// places and how, and [Gateway.Approve] puts exactly what they have looked at into
// force. Text that cannot be seen, such as tag characters, shows in the file that
// [ReadCatalog] writes, and a tool that has some is not offered until a reviewer
// has said that it may be.
//
// # What comes back
//
// An answer is at most MaxAnswer bytes; what is structured in it fits the output
// schema that was approved; secrets of the vault are taken out of it in all
// encodings; and a [Labeler] may say what kind of data it holds, which policies
// can ask for later in the session. What fails this is withheld, and on record as
// done.
//
// # Lists
//
// An agent sees what some policy could permit it, and needs no permit for that. A
// forbid of the action list_tools takes a server out of its lists and searches, and
// what a permit of it demands, such as a rate, has to be met. Who subscribes to a
// resource hears of it for as long as policy lets it, also when its server has been
// started again meanwhile; it is then told that something may have changed.
//
// # Many agents
//
// What a gateway holds for clients (sessions, tasks, subscriptions, calls that wait)
// is bounded for each agent with its user, and in all. The last quarter of all is for
// those who hold little, so that nobody is crowded out by a few, or by one agent with
// many users.
//
// # Long lists
//
// With GatewayOptions.Search, an agent that may use many tools is listed one that
// finds others: see [Search].
//
// # Attacks
//
// The command twinward-attack fires nearly three hundred attacks at an MCP
// endpoint, this one or any other, and says which got through. The tests of this
// package play the same corpus, and show which attacks get through where a guard
// is left out.
//
// # Trust
//
// The go-sdk parses what arrives, and it is lenient: it keeps duplicate keys,
// ignores trailing data and does not look at Origin. The endpoints of a
// [Gateway] therefore check each HTTP request as a whole before the SDK sees
// it. [Govern] works behind the SDK, where only the arguments of a call are
// still raw; they are checked just as strictly.
//
// Nothing here starts while MCPGODEBUG is set in the environment, since that
// variable can switch safe defaults of the SDK off.
//
// # BENCHMARKS
//
// An ordinary tools/call through a [Gateway] does not go through the SDK: the
// bytes that the door has scanned are decided, recorded and spliced into the one
// request of an HTTP upstream. What only the SDK can do goes its way, under the
// same governance: calls of clients that can be asked for something, logs, and
// messages of unusual shape. A table of calls holds both ways to the same
// decisions, records and answers.
//
// "go test -bench Hop ./mcpx" measures the processor time per call of a gateway
// with bearer tokens, four policies and a log on disk that is not waited for
// ([audit.BestEffort]), in a process of its own, taking turns with a bare
// httputil.ReverseProxy and with a floor: that proxy with nothing but the token
// verified, the call decided and both records written. Medians of six counts of one
// run on two quiet cores of an AMD EPYC (2026-11-29), µs:
//
//	arguments  at once  CPU: gateway, proxy  ratio  of the floor   p50 of both
//	64 B       1        187 and 135          1.39   1.27           236 and 186
//	64 B       8        89 and 74            1.17   1.28           479 and 373
//	16 KiB     1        281 and 181          1.53   1.46           309 and 220
//	16 KiB     8        168 and 104          1.59   1.54           967 and 667
//
// On a machine that was busy with other things the ratios were 1.2 to 1.9. One call
// at a time wakes threads that eight at once find awake.
//
// Each call is exactly one request upstream, which the benchmark counts. Of what
// a call of 64 B costs, 60 % is HTTP on both sides, which a proxy needs as well;
// of the rest, a quarter is the decision, a quarter the two records and their
// signatures, and a sixth the strict scan. At 16 KiB the arguments are read five times: by the scan, by the engine
// that checks for itself, into Cedar's values, into the record's commitment, and
// onto the wire. Arguments of tools that write are kept too by default, which
// doubled the cost of 16 KiB.
//
// [Govern] adds 47 allocations and 24 to 40 µs to a call of a server in memory that
// takes 90 µs (BenchmarkMiddleware). 10,000 sessions of clients of the older protocol
// that have asked once take 80 MB (BenchmarkIdleSessions). In front of a server over
// stdio, deciding each call and having it on disk first, a gateway had 1.05 to
// 1.15 times the p50 of supergateway 4.0 (npm), which does neither, and 0.4 to 0.6
// times its p99; beside other work up to 1.5 times its p50 (BenchmarkBesideSupergateway). A
// burst of 1,000 progress notifications arrives whole and in order (TestProgressBurst).
package mcpx

import (
	"context"
	"errors"
	"net/http"
	"os"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"

	"github.com/twinward-dev/twinward/audit"
)

// Agents says whether an actor may still act. The registry in
// credential/agentid implements it.
type Agents interface {
	// Context returns a context that is cancelled when the actor's agent is
	// revoked, or an error when it already is, or is unknown.
	Context(ctx context.Context, a audit.Actor) (context.Context, context.CancelFunc, error)
}

// A Verifier checks the bearer token of one request for one audience. The
// registry in credential/agentid implements it.
type Verifier interface {
	// Verify returns who the token speaks for and until when.
	Verify(ctx context.Context, token, audience string) (audit.Actor, time.Time, error)
}

var (
	// ErrDebug is returned while MCPGODEBUG is set.
	ErrDebug = errors.New("mcpx: MCPGODEBUG is set, which can switch off safety defaults of the MCP SDK: unset it and start again")
	// ErrClosed is returned once a Gateway is closed.
	ErrClosed = errors.New("mcpx: the gateway is closed")
	// ErrUpstream wraps errors about an upstream that cannot be added.
	ErrUpstream = errors.New("mcpx: upstream")
	// ErrCatalog is returned when a server's tools cannot be written down.
	ErrCatalog = errors.New("mcpx: catalogue")
)

// debugged reports whether the SDK's compatibility switches are in the
// environment.
func debugged() bool { return os.Getenv("MCPGODEBUG") != "" }

// actorKey is where the actor lies in the token information that the SDK hands
// to the middleware with each request.
const actorKey = "dev.twinward/actor"

// visitKey is where the visit lies there, if a gateway's door let it in.
const visitKey = "dev.twinward/visit"

// TokenVerifier makes v usable with the go-sdk's auth.RequireBearerToken, for
// an author who serves a governed server over HTTP without a [Gateway]. Tokens
// must have been issued for the audience, which is the canonical URL of the
// endpoint. The text of verification errors does not reach the client.
func TokenVerifier(v Verifier, audience string) auth.TokenVerifier {
	return func(ctx context.Context, token string, _ *http.Request) (*auth.TokenInfo, error) {
		if v == nil || audience == "" {
			return nil, auth.ErrInvalidToken
		}
		a, until, err := v.Verify(ctx, token, audience)
		if err != nil || a.Validate() != nil {
			return nil, auth.ErrInvalidToken
		}
		return tokenInfo(a, until), nil
	}
}

// tokenInfo carries an actor through the SDK. UserID binds SDK sessions to it.
func tokenInfo(a audit.Actor, until time.Time) *auth.TokenInfo {
	return &auth.TokenInfo{UserID: owner(a), Expiration: until, Extra: map[string]any{actorKey: a}}
}

// actorOf returns the actor that tokenInfo put there.
func actorOf(t *auth.TokenInfo) (audit.Actor, bool) {
	if t == nil {
		return audit.Actor{}, false
	}
	a, ok := t.Extra[actorKey].(audit.Actor)
	return a, ok && a.Validate() == nil
}

// owner is what sessions, ours and upstream ones, belong to: issuer, agent and
// user, not a token, so that a session survives a fresh token.
func owner(a audit.Actor) string {
	return quoteJoin(a.Issuer, a.Agent, a.User)
}
