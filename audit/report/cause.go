package report

import (
	"cmp"
	"strings"

	"github.com/twinward-dev/twinward/audit"
)

// Cause says in words why something was denied, such as "denied by policy
// no-dms (slack.cedar:3:1)".
func Cause(d audit.Decision) string {
	if len(d.Errors) > 0 && (d.Reason == audit.GuardPolicyError || d.Reason == "") {
		return "refused because a policy failed: " + strings.Join(d.Errors, "; ")
	}
	if profile, ok := strings.CutPrefix(d.Reason, audit.ReasonNotInProfile); ok {
		name, _, _ := strings.Cut(strings.TrimPrefix(profile, ":"), "@")
		return "denied by profile " + cmp.Or(name, "(unnamed)") + ", which does not include it"
	}
	if d.Reason == audit.ReasonNoPermit {
		s := "denied because no policy permits it"
		if len(d.Nearest) > 0 {
			s += " (nearest: " + strings.Join(d.Nearest, ", ") + ")"
		}
		return s
	}
	if text, ok := guardTexts[d.Reason]; ok {
		return "refused: " + text + " (" + d.Reason + ")"
	}
	var names []string
	for _, p := range d.Policies {
		name := p.ID
		if p.Position != "" {
			name += " (" + p.Position + ")"
		}
		names = append(names, name)
	}
	switch {
	case len(names) == 1:
		return "denied by policy " + names[0]
	case len(names) > 1:
		return "denied by policies " + strings.Join(names, ", ")
	case audit.IsGuard(d.Reason):
		return "refused (" + d.Reason + ")"
	case d.Reason != "":
		return "denied by " + d.Reason
	}
	return "denied; the cause is not on record"
}

// guardTexts say what each guard of package audit refuses.
var guardTexts = map[string]string{
	audit.GuardNoActor:      "nobody was named who asks",
	audit.GuardActor:        "session and token name different agents",
	audit.GuardToken:        "the token is not valid here",
	audit.GuardRevoked:      "the agent was revoked",
	audit.GuardOrigin:       "it came from a web page of another origin",
	audit.GuardHeaders:      "headers and body disagree",
	audit.GuardSession:      "the session is another caller's",
	audit.GuardLimit:        "too many sessions, or too much held of all requests",
	audit.GuardMedia:        "not JSON in UTF-8",
	audit.GuardSize:         "too large to be decided",
	audit.GuardStrictJSON:   "the JSON can be read in two ways",
	audit.GuardArguments:    "the arguments do not fit the approved definition",
	audit.GuardMethod:       "no action covers the method",
	audit.GuardState:        "what the client carried was not made for this request",
	audit.GuardUnknown:      "nobody configured it",
	audit.GuardStoredObject: "it is in the account that all agents share",
	audit.GuardTranslation:  "the backend cannot be told this",
	audit.GuardPinDrift:     "the tool is not the one that was approved",
	audit.GuardNoSnapshot:   "no policy was in force",
	audit.GuardStale:        "the host could not confirm its policy in time",
	audit.GuardPolicyError:  "a policy failed to evaluate",
	audit.GuardPanic:        "the host failed while deciding",
	audit.GuardFacts:        "the history that policies ask about was not at hand",
	audit.GuardDeadline:     "the decision took too long",
	audit.GuardObligation:   "the door cannot meet what a permit demands",
	audit.GuardApproval:     "a person has to agree first",
	audit.GuardRate:         "the permitted rate is used up",
	audit.GuardBudget:       "the budget has no room, or nobody could tell",
	audit.GuardRateLimit:    "the door's own rate is used up",
	audit.GuardContent:      "the host's inspector did not let the content pass",
	audit.GuardCredential:   "no credential was to be had",
	audit.GuardPrivateRange: "the address is private",
	audit.GuardUnlistedHost: "no rule allows the host",
	audit.GuardUnlistedPort: "no rule allows the port",
	audit.GuardRawAddress:   "an address was dialled, not a name",
	audit.GuardNotServed:    "the host does not serve the name",
	audit.GuardClientHello:  "no TLS came on the TLS port",
	audit.GuardSNI:          "TLS was for another name",
	audit.GuardECH:          "TLS hid its name",
	audit.GuardHost:         "the request was for another host",
	audit.GuardConnections:  "too many connections",
	audit.GuardNames:        "too many names",
	audit.GuardBytes:        "more bytes than the session may carry",
	audit.GuardProgram:      "the rule is for other programs",
	audit.GuardProxy:        "it was no request for a proxy",

	audit.GuardHTTPMethod:    "no rule allows the HTTP method",
	audit.GuardHTTPPath:      "no rule allows the path",
	audit.GuardHTTPDeny:      "a rule denies the request",
	audit.GuardAmbiguousPath: "the path can be read in two ways",
	audit.GuardBadRequest:    "the HTTP request can be read in two ways",
	audit.GuardOverride:      "the request named a second method or path",
	audit.GuardUpgrade:       "the protocol asked for hides requests",

	audit.GuardProgramHidden: "which program it is cannot be seen, as a process of the session hides what it has open",
}
