// Package governance decides what an agent may do: Cedar policies over typed
// requests.
//
// Think of a courthouse. A [Bundle] is the law as written: policies, profiles,
// the catalogue of approved tools, and people with their roles. [Compile] reads
// all of it together, and either finds fault, with a position and a fix for
// each, or makes a [Snapshot]: the law in force, which never changes. An
// [Engine] holds the snapshot of the moment and answers every door the same
// way, [Engine.Decide]: may this actor do this thing? The answer names its
// cause, a policy or a profile or a guard, always. Nobody is let through because
// something failed: no snapshot, an error in a forbid, a panic and a deadline
// all deny.
//
// # What a policy can say
//
// Policies are plain Cedar (https://docs.cedarpolicy.com); each needs a unique
// @id. Every approved tool is an action of its own, so that its arguments are
// typed by its pinned input schema:
//
//	@id("standup-in-engineering")
//	permit (
//	  principal in Profile::"standup",
//	  action == Action::"slack__post_message",
//	  resource
//	)
//	when { context.args.channel == "#engineering" };
//
//	@id("nothing-that-deletes")
//	forbid (principal, action in Action::"destructive", resource);
//
// Tool actions are named "<server>__<tool>" and stand in groups:
// "<server>:<class>" (such as "github:read"), the classes "read", "write" and
// "destructive", and "call_tool" above all. A tool is the resource
// Tool::"<server>__<tool>" in Server::"<server>". The other actions, their
// resources and attributes are listed at [Request]; hosts stand in their
// wildcards (Host::"api.github.com" in Host::"*.github.com") and models in
// their provider (Model::"openai/gpt-5" in Provider::"openai").
//
// Principals are Agent::"<id>", and User::"<id>" when the agent acts for a
// person; then both are asked and both must be allowed. They stand in Team and
// Role entities from entities.json and, agents, in the [Profile] that lists
// them. Memberships come from the bundle only; claims of a token are tags:
// principal.hasTag("scope") && principal.getTag("scope") == "…".
//
// context.now and context.labels are there always; context.session,
// context.approval (see [Approval]), context.user (when the agent is decided for
// a user) and context.agent (when the user is) need a "has" first.
//
// # How arguments reach a policy
//
// Arguments are decided on exactly or not at all; the bytes are never changed.
// First they must fit the tool's pinned inputSchema (JSON Schema 2020-12 and what
// tools use of draft 7, numbers exact, patterns as RE2, nothing fetched, bounded
// in time), then each becomes a Cedar value:
//
//	string            String, at most 64 KiB
//	  date-time, date   datetime, exact in milliseconds; a date is its midnight
//	                    in UTC
//	  ipv4, ipv6        ipaddr; IPv4 written as IPv6 is refused
//	integer           Long
//	number            decimal, exact in four places, else refused
//	boolean           Bool
//	array of those    Set, at most 256 elements
//	object            Record, four levels deep
//	array of objects  Record of Sets, one for each property of the objects, so
//	                  that all can be tested at once:
//	                  ["a", "b"].containsAll(context.args.files.path). Objects
//	                  without the property add nothing; [] is empty Sets
//	several types     Record with one attribute, named string, number, boolean,
//	                  array or object; test it first: context.args.to has string.
//	                  Alternatives that all are objects are one Record
//	free object       {json: String, keys: Set<String>}: an object whose
//	                  properties the schema does not name
//	anything else     String with canonical JSON: lists of lists, deeper objects,
//	                  what the schema does not describe
//	null              no attribute; its path is in context.nulls
//	not in schema     its path is in context.extra; refused if the schema is
//	                  closed, or if it resembles a name that the schema has
//
// The catalogue can pin another form for one path, with "as": {"/path": "…"}:
//
//	long       number: Long
//	scaled(N)  number: the number × 10^N as a Long; money, coordinates
//	text       number: String, exact to the last digit; string with a format: the
//	           String as written; several types, objects, lists: canonical JSON
//	large      string, or what is text: {length: Long, sha256: String} instead of
//	           itself, and then it may be longer than 64 KiB. The hash is of the
//	           string, or of the canonical JSON
//
// Only the pin lets a longer string through: no policy can read the text of such
// an argument, for the schema has none, and [Compile] refuses one that tries.
// Compile lists the numbers that are not pinned, and what of an inputSchema it
// cannot check: patterns beyond RE2, unevaluatedProperties, unevaluatedItems,
// $dynamicRef.
//
// "derived" in the catalogue adds facets as context.derived.<name>, computed from
// arguments by pure functions ([Derived], [Facet]): the clean path, the scheme,
// host and port of a URL, domains of e-mail addresses, the verb of an SQL
// statement, a count, a hash, folded text. A policy that allows paths or URLs
// should read these and not the argument. A facet that cannot be computed exactly
// refuses the call.
//
// Canonical JSON has no white space, members in the order of their names' bytes,
// and exact numbers. [Compile] warns of a comparison with text that is none where
// the argument is: it would never be true.
//
// Text that two JSON parsers could read differently (repeated names, invalid
// UTF-8, half surrogates, trailing data), more than 4 MiB, 64 levels or 2,048
// values never reaches a policy.
//
// # What happened before
//
// A [Fact] in the bundle watches what agents do and tells policies about it, as
// context.facts.<name>: how many calls there were within a window, the sum of an
// argument, how many different values, whether there was one and when the last;
// for an agent or a session, and kept apart by arguments where that is asked for.
// Tools in the catalogue can have labels; context.labels are those of all calls
// of the session, so that a forbid can end what may follow after some data was
// read:
//
//	@id("crm-stays-inside")
//	forbid (principal, action in Action::"social:write", resource)
//	when { context.labels.contains("crm") };
//
// A policy sees both as they were before the call that it decides. Calls under
// way count already; what is denied or fails uses up nothing: see [Result]. An
// engine keeps the history in memory, across reloads, each engine its own; after
// a restart it is rebuilt from the audit log ([Engine.Rebuild]), and a new fact
// gets its history from a tape ([Engine.Backfill]). A [Snapshot] without an
// engine has none, and denies what asks for some unless [Request].History says
// it.
//
// # Obligations
//
// Annotations on a permit demand something besides. What one of the permits
// demands that allow a request is demanded, whatever the others say; combined,
// the strictest wins: see [Decision.Demands].
//
//	@approval("group")    a person of the group agrees first: see [Approval]
//	@rate("10/1m")        no more than 10 in any minute, for each principal that
//	                      the policy permits; the engine counts
//	@max_bytes("65536")   a larger answer is withheld
//	@redact("$..ssn")     blanked in the answer: see [ParseRedaction]
//
// A door says in [Request].Enforces what it can meet; what it cannot meet
// denies. @severity (info, low, medium, high or critical) and @reason go on
// record with the policy; @owner and @description are notes. Any other
// annotation is an error, because a misspelt obligation would be none.
//
// A permit with @expires("2026-12-31") ends by itself with that day, in UTC, or
// at an instant such as "2026-12-31T18:00:00Z". A forbid does not end, because
// it would open what it closes; [Compile] reports both once they are over.
//
// # Who may change policy
//
// A bundle is a folder ([LoadBundle]) that people review like code. With
// [Options].Signers a host takes only folders that an author and another person
// have signed ([SignBundle]). Every change of what is in force says who made it
// and why, and goes on record first. Package governance/postgres carries bundles
// to many hosts; one that cannot confirm its policy in time denies
// ([Engine.FreshUntil]).
//
// # Trying out
//
// Three ways to see what policies would do, weakest last:
//
//   - Engine.Stage holds the next bundle beside the one in force; Promote puts
//     it into force.
//   - @mode("observe") on a policy, permit or forbid: it is evaluated and not
//     applied, and neither hides nor shows a tool.
//   - [Options].Mode [Observe] lets pass whatever policies deny.
//
// Where one of them would have decided otherwise, or for another cause, the
// decision says so in Would, which goes on record with it.
//
// # Asking why, and what if
//
// [Snapshot.Explain] says which conditions of the nearest permits failed, and
// what they read; an agent is told of none of that. [Options].Tape records
// requests with their decisions, which is sensitive: see [Recorded]. [Replay]
// decides a tape again by other policies, [Diff] searches for requests that two
// snapshots decide differently, and [Suggest] writes permits for what was
// allowed. Package policytest holds a bundle to the cases in its tests folder,
// and the command twinward-policy does all of this from a shell.
//
// # When a policy fails
//
// [Options].ErrorMode says what an error in a policy does; a forbid that fails
// denies unless a caller asks for Cedar's own semantics. A decision names the
// policies that determined it and what failed, sorted and in the same words each
// time, with position, @severity, @reason and @owner. [Options].TracerProvider
// and MeterProvider name the spans and metrics of decisions.
//
// # Benchmarks
//
// Medians of six runs on two cores of a shared AMD EPYC (Linux 6.18, Go 1.26).
// One decision on arguments that are Cedar values, and one from 150 bytes of
// JSON, over laws of which six to eight policies concern each request
// (BenchmarkDecision): processor time, beside cedar.Authorize over all policies
// in the same run.
//
//	policies   decision           cedar.Authorize    from JSON
//	10         2.2 µs, 11 allocs  6 times that       7.9 µs, 34 allocs
//	100        2.4 µs, 12 allocs  58 times           9.0 µs, 35 allocs
//	1,000      2.6 µs, 12 allocs  890 times          9.3 µs, 35 allocs
//	10,000     3.4 µs, 12 allocs  8,500 times        12.8 µs, 35 allocs
//
// What no policy reads of the arguments is checked and not made into Cedar
// values, so the last column depends on what policies read. [Replay] decides
// 66,000 to 115,000 requests a second of processor time over 1,000 policies
// (BenchmarkReplay). With 100 facts in a bundle, a call that ten of them count
// and whose policies read these ten takes 12 µs longer; one that all of them
// count, with a policy that reads all, 91 µs (BenchmarkFacts).
//
// Visible for 100 tools and 1,000 policies takes 1.1 ms the first time and 21 µs
// again (BenchmarkVisibleTools). Compiling 10,000 policies and putting them into
// force takes 1.13 s, 1.4 s of processor time (BenchmarkReload).
package governance

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// A Request asks whether an actor may do one thing. Every door asks in the same
// form.
//
//	action                                        Server    Name
//	call_tool                                     server    tool
//	list_tools, sample, elicit                    server    -
//	get_prompt, complete                          server    prompt
//	read_resource, subscribe                      server    resource URI
//	connect                                       -         host
//	exec                                          -         sandbox
//	invoke_model, embed, count_tokens             provider  model
//	list_models                                   provider  -
//	use_hosted_tool                               provider  tool
//	use_credential                                -         credential
type Request struct {
	// Actor is who asks. Without one the request is denied. When it names a
	// user, agent and user must both be allowed.
	Actor audit.Actor
	// Action is one of those above; Server and Name say on what.
	Action string
	Server string
	Name   string
	// Args are the arguments of a tool call, exactly as they will be sent. nil
	// stands for {}. They are not retained.
	Args json.RawMessage
	// Attrs is what the door knows about the request: string, bool, int, int64
	// or []string. The names are a closed vocabulary for each action, all
	// optional; an unknown name or another type denies.
	//
	//	connect          host, scheme, method, path, program string; port int
	//	exec             program, args_digest, policy_hash string
	//	invoke_model,    protocol string; stream bool; tools, betas []string;
	//	embed, count_tokens  max_output, est_input, budget, spent int
	//	use_hosted_tool  protocol, model string
	//	use_credential   server, tool, purpose string
	//	complete         argument string
	Attrs map[string]any
	// Claims are those of a verified token. They become tags of the agent's
	// entity and never memberships.
	Claims map[string]string
	// Time is context.now, and when the act is for the windows of facts; zero is
	// the engine's clock. Whoever sets it for an engine vouches for it: a later
	// one than now lets what was counted expire.
	Time time.Time
	// Enforces are the kinds of obligation that the door can meet. A permit
	// that demands any other denies.
	Enforces []string
	// Approval is set when the request is decided again after a person agreed.
	Approval *Approval
	// History is what policies are told about earlier acts, instead of what the
	// engine knows: for replay and tests. Nothing is counted then. nil is the
	// engine's; a bare [Snapshot] knows none, and denies what asks for some.
	History *History

	engine  string // who asks, for approvals
	counted bool   // rates are met by who asks
	beside  bool   // on behalf of a snapshot that is not in force
	further bool   // an act that was allowed goes on
	past    *visit // the engine's memory, while it decides
}

// A Decision is audit.Decision plus what only the caller in this process needs.
type Decision struct {
	audit.Decision
	// Hidden: the agent must not learn that the thing exists, because it is not
	// in its profile or not known at all.
	Hidden bool
	// Hint is a short text for the agent. It holds no policy text.
	Hint string
	// Pin is the pinned hash of the tool's approved definition, for call_tool.
	Pin string
	// Class is that of the tool, for call_tool.
	Class Class
	// Action and Resource are what was decided, for the record, such as
	// "slack__post_message" and `Tool::"slack__post_message"`.
	Action, Resource string
	// Call identifies actor, action, target and arguments, when the reason is
	// "approval": see [Decision.Approve].
	Call string
	// Principal is whose denial this is, `Agent::"…"` or `User::"…"`, and ""
	// for an allowed request or one that a guard refused.
	Principal string

	engine   string    // that asked for approval
	byPolicy bool      // no permit or a forbid, which Observe lets pass
	uses     []RateUse // to be counted
	agreed   *Approval // by which it was allowed, or nil

	look *look // what was seen of history
	hold *hold // what was reserved, until [Decision.Settle]; nil if nothing was
}

// Errors that come with a denying decision when there was nothing to decide
// with. A denial by policy, profile or arguments is an answer and no error.
var (
	// ErrNoSnapshot is returned while no policy is in force.
	ErrNoSnapshot = errors.New("governance: no policy in force: call Engine.Reload with a bundle; until then everything is denied")
	// ErrPanic is returned when evaluation broke down.
	ErrPanic = errors.New("governance: the evaluation panicked; the request is denied")
)
