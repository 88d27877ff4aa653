package audit

import (
	"slices"
	"strings"
)

// The guards of a sandbox's network door, which works below any policy engine.
const (
	GuardUnlistedHost   = "unlisted-host"        // no rule allows the name
	GuardUnlistedPort   = "unlisted-port"        // the name is allowed, the port is not
	GuardRawAddress     = "raw-address"          // the program dialled an address, not a name
	GuardNotServed      = "not-served"           // the host must serve the name, and does not (yet), or not on this port
	GuardClientHello    = "bad-client-hello"     // port 443, and no TLS ClientHello came
	GuardSNI            = "sni-mismatch"         // TLS for another name, or for none
	GuardECH            = "encrypted-hello"      // TLS whose true name cannot be seen
	GuardHost           = "host-mismatch"        // HTTP request for another host
	GuardConnections    = "too-many-connections" // of this session at once
	GuardNames          = "too-many-names"       // of this session
	GuardBytes          = "byte-limit"           // a session or connection carried all that it may
	GuardProgram        = "program"              // the rule is for other programs
	GuardProgramHidden  = "program-hidden"       // which program it is cannot be seen
	GuardProxy          = "bad-proxy-request"    // no CONNECT and no request for a proxy
	reasonProfilePrefix = "profile:"
)

// The guards of that door where it looks into HTTP.
const (
	GuardHTTPMethod    = "http-method"     // no rule of the host allows the method
	GuardHTTPPath      = "http-path"       // no rule allows the method on this path
	GuardHTTPDeny      = "http-deny"       // a rule denies what others may allow
	GuardAmbiguousPath = "ambiguous-path"  // servers could take the path for another one
	GuardBadRequest    = "bad-request"     // not a request that all servers read alike
	GuardOverride      = "method-override" // a header or parameter names another method or path than the request
	GuardUpgrade       = "upgrade"         // to a protocol in which requests could not be seen any more
)

// GuardStale is for a host that could not confirm its policy in time.
const GuardStale = "stale-policy"

// guards are all that may stand in [Decision.Reason] without being a policy's
// id. A test compares them with the constants of this package.
var guards = []string{
	ReasonNoPermit, ReasonNotInProfile,
	GuardNoActor, GuardActor, GuardToken, GuardRevoked,
	GuardOrigin, GuardHeaders, GuardSession, GuardLimit, GuardMedia, GuardSize,
	GuardStrictJSON, GuardArguments, GuardMethod, GuardState, GuardUnknown, GuardStoredObject, GuardTranslation,
	GuardPinDrift, GuardNoSnapshot, GuardStale, GuardPolicyError, GuardPanic, GuardFacts, GuardDeadline,
	GuardObligation, GuardApproval, GuardRate, GuardCredential, GuardPrivateRange,
	GuardBudget, GuardRateLimit, GuardContent,
	GuardUnlistedHost, GuardUnlistedPort, GuardRawAddress, GuardNotServed,
	GuardClientHello, GuardSNI, GuardECH, GuardHost, GuardConnections, GuardNames, GuardProxy, GuardProgram, GuardProgramHidden, GuardBytes,
	GuardHTTPMethod, GuardHTTPPath, GuardHTTPDeny, GuardAmbiguousPath, GuardBadRequest, GuardOverride, GuardUpgrade,
}

// IsGuard reports whether a text is, or begins like, a reason that is not about
// a policy that people wrote: a guard, "no-permit", "not-in-profile:…" or
// "profile:…". A policy of that name could pass for it on record.
func IsGuard(reason string) bool {
	return slices.Contains(guards, reason) ||
		strings.HasPrefix(reason, ReasonNotInProfile) ||
		strings.HasPrefix(reason, reasonProfilePrefix)
}
