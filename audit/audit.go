package audit

import (
	"context"
	"encoding/json"
	"errors"
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
	// Args are the exact bytes that were decided and will be sent on. A log
	// stores a keyed commitment to them, not the bytes: see [Commitment].
	Args json.RawMessage `json:"-"`
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
	// (by the agent), "timeout", "credential" (no lease to be had) and, about
	// the MCP server or model provider, "upstream-down", "upstream-broken",
	// "upstream-unauthorized", "upstream-redirect" and "upstream-too-large".
	// Never the text of an upstream's error, which may hold secrets.
	ErrorCode string `json:"error_code,omitempty"`
	// Bytes counts what went back to the agent.
	Bytes int64 `json:"bytes"`
	// Usage counts model tokens, for the model door.
	Usage *Usage `json:"usage,omitempty"`
	// Latency is measured from Begin to End by the log's clock when zero.
	Latency time.Duration `json:"latency_ns"`
	// CredentialVersion is the version of the secret that was used, if any.
	CredentialVersion uint64 `json:"credential_version,omitempty"`
	// Checks are what was found in the result, such as "scrubbed:github:2".
	Checks []string `json:"checks,omitempty"`
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
}

// An Event is a record that stands alone: a denial, a probe, an
// administrative act, a launch.
type Event struct {
	Kind     Kind   `json:"kind"`
	Door     string `json:"door"`
	Action   string `json:"action"`
	Resource string `json:"resource"`
	Actor    Actor  `json:"actor,omitzero"`
	// Decision is set for denials, and says why.
	Decision *Decision `json:"decision,omitempty"`
	// Change says who did it and why, for administrative acts.
	Change *Change `json:"change,omitempty"`
	// Source says who saw it: "door" (the default when empty: the host itself),
	// "agent" (the agent reported it), "kernel".
	Source string `json:"source,omitempty"`
	// Args are committed to, not stored, as in [Intent].
	Args    json.RawMessage `json:"-"`
	ToolPin string          `json:"tool_pin,omitempty"`
	// Detail holds a few short facts that fit no other field. Never secrets.
	Detail map[string]string `json:"detail,omitempty"`
	Trace  string            `json:"trace,omitempty"`
}

// A Kind says what an [Event] is about.
type Kind string

const (
	KindDenial     Kind = "denial"          // an act that was refused
	KindProbe      Kind = "probe"           // an attempt that the kernel refused, reported by Source
	KindList       Kind = "list"            // what an agent was shown
	KindLaunch     Kind = "sandbox.launch"  // a session started
	KindExit       Kind = "sandbox.exit"    // a session ended
	KindPolicy     Kind = "policy.load"     // a snapshot went into force
	KindIdentity   Kind = "identity"        // an agent was registered, revoked, …; Action says which
	KindLeak       Kind = "credential.leak" // a secret was found in something going back to the agent
	KindCredential Kind = "credential"      // a credential was bound, rotated, …; Action says which
	KindGap        Kind = "gap"             // the log was repaired on opening; Detail says how
)

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
