package egress

import "github.com/twinward-dev/twinward/audit"

// The causes of refusals of requests, where a rule has them looked at.
const (
	CauseMethod   = audit.GuardHTTPMethod
	CausePath     = audit.GuardHTTPPath
	CauseDeny     = audit.GuardHTTPDeny
	CauseSpelling = audit.GuardAmbiguousPath
	CauseRequest  = audit.GuardBadRequest
	CauseOverride = audit.GuardOverride
	CauseUpgrade  = audit.GuardUpgrade
)
