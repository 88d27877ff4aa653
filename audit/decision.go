package audit

import "time"

// An Effect is allow or deny. The zero value is neither and counts as deny.
type Effect string

const (
	Allow Effect = "allow"
	Deny  Effect = "deny"
)

// A Decision is the answer to "may this happen?", in the form that goes on
// record. The zero value denies.
type Decision struct {
	// ID is unique, and is what an agent is told about a denial. See [NewID].
	ID     string `json:"id"`
	Effect Effect `json:"effect"`
	// Policies are those that determined the effect, sorted by id.
	Policies []Policy `json:"policies,omitempty"`
	// Errors are what policies failed with, sorted. Any error in a forbid
	// denies.
	Errors []string `json:"errors,omitempty"`
	// PolicyHash identifies the policy that decided, "sha256:" and 64
	// hexadecimal digits: an engine's snapshot, or a sandbox's own policy where
	// no engine was asked.
	PolicyHash string `json:"policy_hash,omitempty"`
	// Reason is the cause of a denial, never empty for one. It is a policy id,
	// "not-in-profile:<id>@<hash>", "no-permit", or the guard that refused
	// before policy was asked, such as [GuardStrictJSON]. It may name policies,
	// so it is for the auditor and not for the agent.
	Reason string `json:"reason,omitempty"`
	// Nearest are the ids of the permits that came closest, when Reason is
	// "no-permit".
	Nearest []string `json:"nearest,omitempty"`
	// Obligations are what the permitting policies demand besides. They stand on
	// a denial too when it is for want of one, such as an approval.
	Obligations []Obligation `json:"obligations,omitempty"`
	// Approval is who agreed to this one call, where the decision counted it.
	Approval *Approval `json:"approval,omitempty"`
	// Would is what policies that are not enforced would have decided, where
	// that differs. It changed nothing.
	Would []Would `json:"would,omitempty"`
	// Facts are what the act adds to the history, for an allowed one.
	Facts *Facts `json:"facts,omitempty"`
}

// Allowed reports whether the effect is allow.
func (d Decision) Allowed() bool { return d.Effect == Allow }

// PolicyIDs returns the ids of the determining policies, sorted.
func (d Decision) PolicyIDs() []string {
	ids := make([]string, len(d.Policies))
	for i, p := range d.Policies {
		ids[i] = p.ID
	}
	return ids
}

// A Policy names one policy and where it stands.
type Policy struct {
	ID string `json:"id"`
	// Position is file:line:column, for an operator to click.
	Position string `json:"position,omitempty"`
	// Severity, Reason and Owner are what the policy says about itself: info,
	// low, medium, high or critical; why it is there; and who answers for it.
	Severity string `json:"severity,omitempty"`
	Reason   string `json:"reason,omitempty"`
	Owner    string `json:"owner,omitempty"`
}

// A Would is a decision that was made beside the one in force and not applied.
type Would struct {
	// Source says whose decision it is.
	Source WouldSource `json:"source"`
	// PolicyHash identifies the policy that would have decided.
	PolicyHash string `json:"policy_hash,omitempty"`
	Effect     Effect `json:"effect"`
	// Policies, Reason and Obligations are as in [Decision].
	Policies    []Policy     `json:"policies,omitempty"`
	Reason      string       `json:"reason,omitempty"`
	Obligations []Obligation `json:"obligations,omitempty"`
}

// A WouldSource says why a decision is not applied.
type WouldSource string

const (
	// WouldObserved: some of the policies in force are only observed.
	WouldObserved WouldSource = "observed"
	// WouldEnforced: the engine as a whole only observes, and lets pass what its
	// policies deny.
	WouldEnforced WouldSource = "enforced"
	// WouldStaged: the next snapshot, which is not in force yet.
	WouldStaged WouldSource = "staged"
)

// String is the decision in a few words, for people.
func (w Would) String() string {
	s := string(w.Effect) + " if " + string(w.Source)
	if w.Reason != "" {
		return s + ": " + w.Reason
	}
	for i, p := range w.Policies {
		s += []string{": ", ", "}[min(i, 1)] + p.ID
	}
	return s
}

// An Approval is a person's agreement to one call.
type Approval struct {
	// ID names it; an approval is good for one call.
	ID string `json:"id"`
	// By is who agreed, and Reason why.
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	Groups []string  `json:"groups"` // those of By that count here
	At     time.Time `json:"at"`
}

// An Obligation is something that a permit demands besides allowing, such as
// approval by a person. A door that cannot meet one must not act.
type Obligation struct {
	Kind   string `json:"kind"`
	Value  string `json:"value"`
	Policy string `json:"policy"`
}

// The values of [Decision.Reason] that are not about a policy. Guards refuse
// before policy is asked, or on behalf of it. See [IsGuard].
const (
	ReasonNoPermit = "no-permit"
	// ReasonNotInProfile is followed by ":<profile>@<hash>".
	ReasonNotInProfile = "not-in-profile"

	// Who asks.
	GuardNoActor = "no-actor"
	GuardActor   = "actor-conflict"
	GuardToken   = "bad-token"
	GuardRevoked = "revoked"

	// How it is asked.
	GuardOrigin       = "origin"        // a browser page of another origin
	GuardHeaders      = "headers"       // header and body disagree, or a header is repeated
	GuardSession      = "session"       // an MCP session that is not the caller's
	GuardLimit        = "limit"         // too many sessions, or too much held of all requests
	GuardMedia        = "media-type"    // not JSON in UTF-8, or encoded further
	GuardSize         = "too-large"     // more bytes than can be decided
	GuardStrictJSON   = "strict-json"   // text that two parsers could read differently
	GuardArguments    = "arguments"     // do not fit the pinned schema, or cannot be decided exactly
	GuardMethod       = "method"        // an MCP method or HTTP endpoint that no action covers
	GuardState        = "state"         // what a request goes on from was not made here for this very one
	GuardUnknown      = "unknown"       // a tool, name or model that nobody configured
	GuardStoredObject = "stored-object" // of the account that all agents of the host share
	GuardTranslation  = "translation"   // the backend cannot be told this in the protocol that it speaks

	// What stands behind it.
	GuardPinDrift     = "pin-drift"    // the live definition is not the approved one
	GuardNoSnapshot   = "no-policy"    // no policy in force
	GuardPolicyError  = "policy-error" // a forbid failed to evaluate
	GuardPanic        = "panic"
	GuardFacts        = "facts" // the history that policies ask about is full, or not at hand
	GuardDeadline     = "deadline"
	GuardObligation   = "obligation" // the door cannot meet what a permit demands
	GuardApproval     = "approval"   // a person has to agree first, or did not agree to this
	GuardRate         = "rate"       // what a permit allows in a span of time is used up
	GuardCredential   = "credential" // no lease to be had
	GuardPrivateRange = "private-address"

	// What is used up, and what is in it, at the model door.
	GuardBudget    = "model-budget"  // no room in a budget, or nobody can tell
	GuardRateLimit = "model-rate"    // of the door's own, not of a permit
	GuardContent   = "model-content" // the host's inspector does not let it pass
)

// Refusal returns a denying Decision with a guard as its cause, for a door that
// refuses before any policy was asked. The id is most often a [NewID].
func Refusal(id, guard string) Decision {
	return Decision{ID: id, Effect: Deny, Reason: guard}
}
