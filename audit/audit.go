package audit

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"time"
)

// The doors through which an agent can act.
const (
	DoorTool    = "tool"    // MCP: tools, prompts, resources
	DoorCompute = "compute" // the sandbox: processes, files, network names
	DoorModel   = "model"   // inference
	DoorAdmin   = "admin"   // acts of the people who run the host
)

// ActionRequest is the action on record of an HTTP request that a door refused
// before it was known what was asked for. Its resource is method and path, such
// as "POST /mcp".
const ActionRequest = "request"

// A Recorder makes records durable. The file log, the memory log and the logs
// that hosts share implement it. A Recorder is safe for concurrent use.
//
// An allowed act is one Begin and one End; a denied one is one Append. Callers
// must not act when Begin or Append fails, and must not answer the agent when
// End fails.
type Recorder interface {
	// Begin returns once the intent is durable.
	Begin(ctx context.Context, in Intent) (Call, error)
	// Append returns once the event is durable.
	Append(ctx context.Context, ev Event) error
}

// A Call is an act in progress: its intent is on record, its outcome is not.
type Call interface {
	// Record is the sequence number of the intent.
	Record() uint64
	// End returns once the outcome is durable. The second and later calls
	// return [ErrEnded] and record nothing. End must also be called when ctx is
	// already cancelled: implementations record the outcome all the same.
	End(ctx context.Context, out Outcome) error
}

// An Intent says what is about to happen, for whom and why it is allowed.
type Intent struct {
	// Door is one of the Door constants.
	Door string `json:"door"`
	// Action and Resource are the Cedar action and resource that were decided,
	// such as "slack__post_message" on `Tool::"slack__post_message"`.
	Action   string `json:"action"`
	Resource string `json:"resource"`
	Actor    Actor  `json:"actor"`
	// Decision is the one that allowed the act.
	Decision Decision `json:"decision"`
	// Args are the exact bytes that were decided and will be sent on. The record
	// holds a keyed commitment to them, not the bytes: see [Commitment]. How much
	// is kept of them is a [Level].
	Args json.RawMessage `json:"-"`
	// Keep is how much of Args may be kept at most, and how much is where the host
	// does not say. LevelDefault leaves it to the log.
	Keep Level `json:"-"`
	// Class is what the act can do, if the door knows.
	Class Class `json:"class,omitempty"`
	// ToolPin is the hash of the tool definition that was approved.
	ToolPin string `json:"tool_pin,omitempty"`
	// Credential names the secret that the act will use, never the secret.
	Credential *CredentialUse `json:"credential,omitempty"`
	// Trace is a W3C traceparent, or empty.
	Trace string `json:"trace,omitempty"`
}

// A CredentialUse is the permission to use one credential for one call.
type CredentialUse struct {
	Name     string   `json:"name"`
	Decision Decision `json:"decision"` // on the action use_credential
}

// An Outcome says how an act ended.
type Outcome struct {
	Status Status `json:"status"`
	// ErrorCode is a short stable word. The doors share "revoked", "cancelled"
	// (by the agent), "timeout", "withheld" (done, but a policy keeps the answer
	// back), "credential" (no lease to be had) and, about the MCP server or model
	// provider, "upstream-down", "upstream-broken", "upstream-unauthorized",
	// "upstream-redirect" and "upstream-too-large".
	// Never the text of an upstream's error, which may hold secrets.
	ErrorCode string `json:"error_code,omitempty"`
	// Bytes counts what went back to the agent.
	Bytes int64 `json:"bytes"`
	// Usage counts model tokens, for the model door.
	Usage *Usage `json:"usage,omitempty"`
	// Process says how a program ended and what it used, for the compute door.
	Process *ProcessUse `json:"process,omitempty"`
	// Latency is measured from Begin to End by the log's clock when zero.
	Latency time.Duration `json:"latency_ns"`
	// CredentialVersion is the version of the secret that was used, if any.
	CredentialVersion uint64 `json:"credential_version,omitempty"`
	// Checks are what was found in the result, such as "scrubbed:github:2".
	Checks []string `json:"checks,omitempty"`
	// Result is what went back to the agent, if [WantsResult] says that it is
	// wanted. The record holds no more of it than [Options.Result] says: by
	// default nothing.
	Result []byte `json:"-"`
	// Labels say what kind of data was found in the result, in addition to what
	// the decision says about the tool. Policies can ask for them later in the
	// session.
	Labels []string `json:"labels,omitempty"`
}

// A Status is how an act ended.
type Status string

const (
	StatusOK        Status = "ok"        // done
	StatusFailed    Status = "failed"    // tried, and the other side said no or broke
	StatusCancelled Status = "cancelled" // the agent left or was revoked
)

// Usage counts the tokens of one model call. Input, CacheRead and CacheWrite
// count different tokens; Reasoning is a part of Output.
type Usage struct {
	Model      string `json:"model"`
	Input      int64  `json:"input"`
	Output     int64  `json:"output"`
	CacheRead  int64  `json:"cache_read,omitempty"`
	CacheWrite int64  `json:"cache_write,omitempty"`
	Reasoning  int64  `json:"reasoning,omitempty"`
	// Final is false when the stream was cut before the backend reported usage;
	// the counts are then what had been seen.
	Final bool `json:"final"`
	// Cost is what the tokens cost by the host's prices, in millionths of a US
	// dollar; 0 where it has none. Charged is what the budgets were charged where
	// that is not Cost, because nobody knows the real count.
	Cost    int64 `json:"cost_micro_usd,omitempty"`
	Charged int64 `json:"charged_micro_usd,omitempty"`
}

// A ProcessUse is how a program ended and what it used, with its children that
// it waited for.
type ProcessUse struct {
	ExitCode int           `json:"exit_code"` // -1 when a signal killed it
	Signal   int           `json:"signal,omitempty"`
	User     time.Duration `json:"user_ns"`
	System   time.Duration `json:"system_ns"`
	MaxRSS   int64         `json:"max_rss"` // of the largest, in bytes
}

// An Event is a record that stands alone: a denial, a probe, an
// administrative act, a launch.
type Event struct {
	Kind     Kind   `json:"kind"`
	Door     string `json:"door"`
	Action   string `json:"action"`
	Resource string `json:"resource"`
	Actor    Actor  `json:"actor,omitzero"`
	// Decision is set for denials, and says why; and for a [KindFallback].
	Decision *Decision `json:"decision,omitempty"`
	// Change says who did it and why, for administrative acts.
	Change *Change `json:"change,omitempty"`
	// Source says who saw it: "door" (the default when empty: the host itself),
	// "agent" (the agent reported it), "kernel".
	Source string `json:"source,omitempty"`
	// Args are committed to, as in [Intent], and Keep is as there.
	Args    json.RawMessage `json:"-"`
	Keep    Level           `json:"-"`
	ToolPin string          `json:"tool_pin,omitempty"`
	// Detail holds a few short facts that fit no other field. Never secrets.
	Detail map[string]string `json:"detail,omitempty"`
	Trace  string            `json:"trace,omitempty"`
}

// A Kind says what an [Event] is about.
//
// Allowed acts are not events: a call of a tool or a model, a command and a
// connection out of the sandbox are an [Intent] and its [Outcome], whose
// decision, approval, credential and token counts they carry. The lease of a
// credential is [Intent.Credential], and the version that was sent is
// [Outcome.CredentialVersion].
//
// Below is what each kind fills besides Kind, Door and Action, and what is in
// Detail. KindGap, KindKey, KindFlood, KindConfig, KindErasure, KindPrune,
// KindKEK and KindHold are written by the log itself, and refused by Append.
type Kind string

const (
	// KindDenial is an act that was refused: Door, Action and Resource are what
	// was asked for (or [ActionRequest]), Actor is who asked, zero if nobody
	// could be identified, Decision is why. Args and ToolPin as in [Intent].
	// Detail: "repeated" and "more_before" (see [Event.Count]); from the model door
	// "budget" and "account", "rate" or "found" say what had no room; from the compute
	// door "protocol" and "port"; from the HTTP door "http", "text" and "cause",
	// which are what the client was answered and the error behind it.
	KindDenial Kind = "denial"
	// KindProbe is an attempt that something below the doors refused, such as
	// the kernel; Source says who saw it. Detail: "program" is what the process
	// called itself, "repeated" as in KindDenial.
	KindProbe Kind = "probe"
	// KindList is what an agent was shown: Action is list_tools, list_models and
	// the like, or search_tools with Args. Detail: "shown" and "of" count entries,
	// [DetailPolicyHash], "drift" names tools that are not the approved ones any
	// more, and of a list that a search stands in for, "bytes" and "of_bytes" are
	// its size and that of the whole.
	KindList Kind = "list"
	// KindFallback says that a call of a model, whose intent is on record, goes to
	// another model than the one before, which did not answer: Action and Resource
	// are the new one, Decision is what allows it, Args what is sent. Detail:
	// "intent" is the number of the intent's record, "from" the model before as
	// backend/model, "why" an error code as in [Outcome], "credential" and
	// "credential_decision" as [Intent.Credential].
	KindFallback Kind = "model.fallback"
	// KindLaunch and KindExit are the begin and the end of a sandbox session,
	// Resource. Detail: [DetailPolicyHash] of the sandbox's own policy; "layers",
	// "landlock_abi", "uid", "launcher" and "limits" of the launch; of the exit
	// "why" ("closed", "cancelled", "revoked", "frozen" or "killed"), the counts
	// "commands" and "denials", "user_ms", "system_ms" and "max_rss" of all
	// commands, "limit:…" for each limit that ended programs, and "workspace" if
	// that was kept.
	KindLaunch Kind = "sandbox.launch"
	KindExit   Kind = "sandbox.exit"
	// KindPolicy is a change of rules, with Change. [ActionReload] and
	// [ActionPromote] put an engine's snapshot into force; "stage" and "unstage"
	// change what is only watched, and a store of policies records versions of
	// its own. Detail: [DetailPolicyHash], "replaces" (the hash before), "bundle"
	// (the digest of the files), [DetailAuthor] and [DetailReviewer], "facts_new"
	// (those that begin with an empty history, cut where there are many), and of a
	// reload counts: "policies", "generated" and "tools". Action "load_models" is
	// a model router's configuration. Actions "set_network" and "answer" change
	// what a living sandbox session may reach. [ActionApproveTool] is about the tool
	// in Resource, and ToolPin the new definition; Detail: "replaces" is the pin
	// before, "changed" are the places that differ.
	KindPolicy Kind = "policy.load"
	// KindApproval is what a person said to one call of Actor, on Action and
	// Resource, with Change: who and why. Detail: "verdict" is "yes" or "no",
	// "decision" the id of the one that stopped the call, "groups" those of the
	// person that count.
	KindApproval Kind = "approval"
	// KindIdentity is about the agent in Resource. Action "register_agent",
	// "update_agent", "assign_profile", "new_secret", "freeze_agent",
	// "revoke_agent" and "reinstate_agent" have a Change; Detail: [DetailOwner],
	// [DetailProfile], "keys" (their thumbprints), "cert_name", "issuer" and
	// "expires" as they are from now on, and "cancelled", which counts what a
	// freeze or revocation ended on this host. "issue_token" has no Change, the
	// agent asked for it; Detail: "audience", "ttl", "method" (how the client
	// authenticated), "bound" (to a key or certificate) and "chain" (the agents
	// that a user's authority came through, the latest first). "drop_token" has no
	// Change either. "rotate_key" is about the token endpoint, and has one.
	KindIdentity Kind = "identity"
	// KindLeak is a secret that was found in something going back to the agent,
	// and taken out. Detail: "credential" and "version" name it, "surface" is the
	// part of the answer that held it, "encoding" how it was written, and "found"
	// counts.
	KindLeak Kind = "credential.leak"
	// KindCanary is a KindLeak of a secret that nobody uses: somebody has looked
	// where it was laid out, so that this is an alarm.
	KindCanary Kind = "credential.canary"
	// KindCredential is a credential, Resource, that was bound to where it may
	// go ("bind_credential", Detail "origin"), or given a new value in place of
	// the one before ([ActionRotateCredential]), with Change. "put_credential"
	// stored a value that is not used yet, "revoke_credential" ended the use of
	// one and "destroy_credential" made it unreadable; "test_credential" tried one.
	// Detail: "version". Without a Change, "refused_credential" is what an origin
	// did not take, and "save_vault" a save of the vault in Resource, Detail
	// "generation" and "sha256".
	KindCredential Kind = "credential"
	// KindGap is a repair of the log on opening. Detail: "torn_bytes" and
	// "torn_sha256" of what was removed, "unsigned_first" and "unsigned_last" of
	// the records that were kept without having been signed.
	KindGap Kind = "gap"
	// KindKey is a new key of the log: see [Log.Rotate], which alone writes it.
	// Detail: "old" and "new" are verifier keys, and there is a Change.
	KindKey Kind = "key"
	// KindFlood says that denials like the one described are only counted from
	// here to the end of the minute: see [Log.Append]. A [KindDenial] whose Detail
	// "since" is the number of this record then says how many they were.
	KindFlood Kind = "flood"
	// KindConfig is how the log was opened, if not in its safest way. Detail:
	// "mode" is the name of the [Mode].
	KindConfig Kind = "config"
	// KindErasure says that values were made unreadable, with Change: by
	// [Log.Erase] ([ActionErase]) or [Log.Prune] ([ActionPrune]). There are two of
	// each, Detail "state" is "begun", on record before anything is destroyed, or
	// "done", with "keys" and "values", which count what was. What was erased is in
	// "agent", "user" and "records", or for each class of acts the time before
	// which values were pruned.
	KindErasure Kind = "erasure"
	// KindPrune says that old records were removed and only their hashes kept, with
	// Change: see [Log.PruneRecords]. Detail: "records" is how many are before the
	// first that is left, "root" the Merkle root over them and "next_segment" the
	// first file that is left; "removed" and "kept" of these records, "open" of
	// the calls among them that had no outcome; "sha256" of the file that replaces
	// them, and for each class of acts the time before which records were pruned.
	KindPrune Kind = "prune"
	// KindKEK is a new key-encryption key for the keys of values, with Change: see
	// [Log.RotateKEK]. There are two of each, Detail "state" is "begun" or "done",
	// with "keys", which counts the data keys that were wrapped anew; "new" is the
	// name of the KEK.
	KindKEK Kind = "kek"
	// KindHold is a legal hold of the matter in Resource, with Change: Action
	// "hold" begins it, for what is in Detail as in KindErasure (nothing there
	// means everything), and "release" ends it.
	KindHold Kind = "hold"
)

// Actions that "who authorised it" is answered from.
const (
	// ActionRotateCredential of a [KindCredential] event put a new value in place.
	ActionRotateCredential = "rotate_credential"
	// ActionReload and ActionPromote of a [KindPolicy] event put a policy set into
	// force: from files, and from what was staged.
	ActionReload  = "reload"
	ActionPromote = "promote"
	// ActionApproveTool of a [KindPolicy] event put a live tool's definition in the
	// place of the approved one.
	ActionApproveTool = "approve_tool"
)

// Keys of [Event.Detail] that "who authorised it" is answered from.
const (
	// DetailOwner is who answers for an agent.
	DetailOwner = "owner"
	// DetailProfile is the profile that an agent is registered with.
	DetailProfile = "profile"
	// DetailPolicyHash is as [Decision.PolicyHash].
	DetailPolicyHash = "policy_hash"
	// DetailAuthor and DetailReviewer are who signed the bundle of a policy.
	DetailAuthor   = "author"
	DetailReviewer = "reviewer"
)

// Count is how many acts the event stands for, at least 1. Doors write a flood
// of like denials as one record of the first and counts later: Detail "repeated"
// says that the record is such a count, "more_before" that as many came before
// this one and were only counted.
func (e Event) Count() uint64 {
	if e.Kind != KindDenial {
		return 1
	}
	const most = 1e12 // nobody counts further; sums cannot overflow
	if n, err := strconv.ParseUint(e.Detail["repeated"], 10, 64); err == nil && n > 0 {
		return min(n, most)
	}
	if n, err := strconv.ParseUint(e.Detail["more_before"], 10, 64); err == nil {
		return 1 + min(n, most)
	}
	return 1
}

// A Change is the authority for an administrative act: who did it and why.
// "Who authorised it" is answered from these, so neither may be empty.
type Change struct {
	By     string `json:"by"`     // a person or a pipeline, as the organisation names them
	Reason string `json:"reason"` // free text, such as a ticket number
}

// Validate returns [ErrNoAuthority] unless both fields are set.
func (c Change) Validate() error {
	if c.By == "" || c.Reason == "" {
		return ErrNoAuthority
	}
	return nil
}

var (
	// ErrNoLog is returned when there is no log to write to. Nothing may happen
	// that is not on record, so a nil log refuses everything.
	ErrNoLog = errors.New("audit: no log: pass an audit.Recorder; without one every act is refused")
	// ErrEnded is returned by the second End of a call.
	ErrEnded = errors.New("audit: the call has ended already")
	// ErrNoAuthority is returned for an administrative act without By or Reason.
	ErrNoAuthority = errors.New("audit: an administrative act needs both By and Reason in its audit.Change")
)

// OrRefuse returns rec, or a Recorder that answers everything with [ErrNoLog]
// when rec is nil. Doors pass what they were given through it.
func OrRefuse(rec Recorder) Recorder {
	if rec == nil {
		return refuser{}
	}
	return rec
}

type refuser struct{}

func (refuser) Begin(context.Context, Intent) (Call, error) { return nil, ErrNoLog }
func (refuser) Append(context.Context, Event) error         { return ErrNoLog }
