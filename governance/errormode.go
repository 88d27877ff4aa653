package governance

import "fmt"

// An ErrorMode says what a policy does whose evaluation fails: it compares a
// text with a number, adds up to more than 64 bits, or reads something absent.
// Validation finds most of that before; what is left depends on the values.
//
// Errors of every mode are in Decision.Errors, sorted.
type ErrorMode int

const (
	// DenyOnForbidError denies when a forbid fails. Cedar itself would leave it
	// out and so allow exactly what its author was afraid of. A permit that
	// fails permits nothing.
	DenyOnForbidError ErrorMode = iota
	// DenyOnAnyError denies when any policy fails that is about the request.
	DenyOnAnyError
	// CedarSemantics leaves out a policy that fails, forbid or permit, as Cedar
	// specifies. It is weaker than the other two: a request can be made that is
	// allowed because a forbid fails on it. It is meant for comparing decisions
	// with other engines.
	CedarSemantics
)

// String returns deny-on-forbid-error, deny-on-any-error or cedar-semantics.
func (m ErrorMode) String() string {
	switch m {
	case DenyOnForbidError:
		return "deny-on-forbid-error"
	case DenyOnAnyError:
		return "deny-on-any-error"
	case CedarSemantics:
		return "cedar-semantics"
	}
	return fmt.Sprintf("ErrorMode(%d)", int(m))
}

// denies reports whether the failing of p denies. An unknown mode is as strict
// as the strictest.
func (m ErrorMode) denies(p *policy) bool {
	switch m {
	case DenyOnForbidError:
		return p.forbid
	case CedarSemantics:
		return false
	}
	return true
}
