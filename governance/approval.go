package governance

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance/internal/argument"
)

// An Approval says that a person agreed to one call. It is how a call goes on
// that a permit with @approval has stopped:
//
//  1. The engine denies with the reason [audit.GuardApproval]. The groups stand
//     in the decision's [Demands].
//  2. The door keeps the call and asks people. It makes sure who they are and
//     to which groups they belong: the engine takes the door's word for it.
//  3. Of their answer it makes an Approval with [Decision.Approve], and decides
//     again with [Request.Approval].
//
// The engine checks that it asked for the approval itself, for this call of this
// actor with these arguments, byte for byte, and by the policies in force; that
// it has not expired; and, once the call is allowed, that it was not used
// before. If any of that fails, the call is denied with the same reason, and the
// door decides without the approval to ask again. All other policies and limits
// are asked again too. What was used is remembered in memory: a host of several
// processes brings a call back to the one that stopped it.
//
// Policies see it as context.approval {by: User, groups: Set<String>, at:
// datetime, args: String, policy: String}. So "nobody approves for himself" is
//
//	forbid (principal, action, resource)
//	when { context has approval && context has user && context.approval.by == context.user };
//
// An approval that leaves the host, say with a client that carries its own
// state, must be sealed: whoever can make one up approves.
type Approval struct {
	// ID is that of the decision that asked for it.
	ID string `json:"id"`
	// By is the User who agreed, and Reason why. Neither may be empty.
	By     string `json:"by"`
	Reason string `json:"reason"`
	// Groups are those of By that the door has made sure of.
	Groups []string `json:"groups"`
	// At is when it was given, and Expires until when it can be used, at most 24
	// hours later.
	At      time.Time `json:"at"`
	Expires time.Time `json:"expires"`
	// Call identifies actor, action, target and arguments; Policy the snapshot;
	// Engine the engine that asked, "" for a snapshot alone.
	Call   string `json:"call"`
	Policy string `json:"policy"`
	Engine string `json:"engine,omitempty"`
}

// MaxApproval is the longest time for which an approval can be good.
const MaxApproval = 24 * time.Hour

// ErrNotSuspended is returned by [Decision.Approve] for a decision that asks
// for no approval.
var ErrNotSuspended = errors.New("governance: this decision asks for no approval")

// Approve makes the approval that d asks for: given now by a person of these
// groups, for a reason, and good for some time.
func (d Decision) Approve(by audit.Change, groups []string, now time.Time, good time.Duration) (*Approval, error) {
	if d.Reason != audit.GuardApproval || d.Call == "" {
		return nil, ErrNotSuspended
	}
	if err := by.Validate(); err != nil {
		return nil, fmt.Errorf("governance: approve: %w", err)
	}
	if good <= 0 || good > MaxApproval {
		return nil, fmt.Errorf("governance: approve: good for %s; want more than 0 and at most %s", good, MaxApproval)
	}
	return &Approval{
		ID: d.ID, By: by.By, Reason: by.Reason, Groups: slices.Clone(groups),
		At: now, Expires: now.Add(good), Call: d.Call, Policy: d.PolicyHash, Engine: d.engine,
	}, nil
}

// check returns why a does not count for this request, or nil. On behalf of a
// snapshot that is not in force it does not matter for which one it was given.
func (a *Approval) check(s *Snapshot, r *Request, now time.Time) error {
	switch {
	case a.ID == "" || a.By == "" || a.Reason == "":
		return errors.New("id, by and reason must be set")
	case len(a.ID) > argument.MaxName || len(a.By) > argument.MaxName || len(a.Reason) > argument.MaxText || len(a.Groups) > argument.MaxSet:
		return errors.New("too large")
	case a.Expires.Sub(a.At) > MaxApproval:
		return errors.New("good for too long")
	case a.At.After(now):
		return errors.New("given in the future")
	case !a.Expires.After(now) && !r.further:
		return errApprovalExpired
	case a.Call != r.call():
		return errors.New("for another call")
	case a.Policy != s.hash && !r.beside:
		return errors.New("for other policies than those in force")
	case a.Engine != r.engine && !r.beside:
		return errors.New("asked for by another engine, which knows whether it was used")
	}
	return nil
}

// record is the approval as it goes on record.
func (a *Approval) record() *audit.Approval {
	return &audit.Approval{ID: a.ID, By: a.By, Reason: a.Reason, Groups: slices.Clone(a.Groups), At: a.At}
}

// value is context.approval.
func (a *Approval) value(r *Request) types.Record {
	groups := make([]types.Value, len(a.Groups))
	for i, g := range a.Groups {
		groups[i] = types.String(g)
	}
	args := sha256.Sum256(r.Args)
	return types.NewRecord(types.RecordMap{
		"by":     uid(typeUser, a.By),
		"groups": types.NewSet(groups...),
		"at":     types.NewDatetime(a.At),
		"args":   types.String(hashPrefix + hex.EncodeToString(args[:])),
		"policy": types.String(a.Policy),
	})
}

// call identifies who asks for what with which arguments. Claims are left out: a
// token may be renewed while people think.
func (r *Request) call() string {
	h := sha256.New()
	part := func(b []byte) { fmt.Fprintf(h, "%d\n%s", len(b), b) }
	part([]byte("twinward-call 1"))
	actor, _ := json.Marshal(r.Actor)
	attrs, _ := json.Marshal(r.Attrs) // sorted by name; checked by now
	part(actor)
	part([]byte(r.Action))
	part([]byte(r.Server))
	part([]byte(r.Name))
	part(attrs)
	part(r.Args)
	return hashPrefix + hex.EncodeToString(h.Sum(nil))
}

// maxUsed bounds how many approvals an engine remembers at once.
const maxUsed = 1 << 16

// usedApprovals remembers approvals until they expire anyway.
type usedApprovals struct {
	mu    sync.Mutex
	until map[string]time.Time
}

var (
	errApprovalExpired = errors.New("expired")
	errApprovalUsed    = errors.New("used already")
	errApprovalFull    = errors.New("too many approvals in use")
)

// use marks an approval as used, once. One that expired since it was checked, or
// was checked at a time that a door said, may have been used and forgotten.
func (u *usedApprovals) use(a *Approval, now time.Time) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !a.Expires.After(now) {
		return errApprovalExpired
	}
	if _, used := u.until[a.ID]; used {
		return errApprovalUsed
	}
	if len(u.until) >= maxUsed {
		for id, until := range u.until {
			if !until.After(now) {
				delete(u.until, id)
			}
		}
		if len(u.until) >= maxUsed {
			return errApprovalFull
		}
	}
	if u.until == nil {
		u.until = map[string]time.Time{}
	}
	u.until[a.ID] = a.Expires
	return nil
}
