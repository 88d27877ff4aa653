package inference

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"
)

// An Amount is what was or may be used.
type Amount struct {
	Tokens int64
	Cost   MicroUSD
}

// Plus adds two amounts. What does not fit is the largest amount there is.
func (a Amount) Plus(b Amount) Amount {
	return Amount{addSaturating(a.Tokens, b.Tokens), addSaturating(a.Cost, b.Cost)}
}

// within reports whether a keeps to a limit, of which zero means none.
func (a Amount) within(limit Amount) bool {
	return (limit.Tokens == 0 || a.Tokens <= limit.Tokens) && (limit.Cost == 0 || a.Cost <= limit.Cost)
}

// A Claim is one account that a [Hold] is set aside on.
type Claim struct {
	// Budget is the name of the budget, and Account that of the account: it holds
	// the window, so that a new window is a new account.
	Budget, Account string
	// Ends is when the window ends, after which the account can be forgotten.
	// Zero: never.
	Ends time.Time
	// Limit is how much all holds and payments of the account may come to. Zero
	// in a field: no limit.
	Limit Amount
}

// A Hold is an amount that is set aside on several accounts while a call is
// under way.
type Hold struct {
	// ID is unique.
	ID string
	// At is when the call began. Expires is long after it must have ended: a hold
	// that is still there then belongs to a host that died, and counts as spent.
	At, Expires time.Time
	Amount      Amount
	Claims      []Claim
}

// A Ledger keeps what was used under budgets. It is safe for concurrent use. A
// ledger that cannot answer returns an error, and the call is denied.
//
// What is held counts as used, so that calls at once cannot overshoot. A hold
// ends by being settled, or never: when the host dies, the amount stays used.
// There is no way in which a hold is given back because nobody came for it.
type Ledger interface {
	// Reserve holds h.Amount on all of h.Claims, or on none. When one has no room
	// the error is a [*BudgetError].
	Reserve(ctx context.Context, h Hold) error
	// Settle ends a hold: spent is used instead of what was held, even where that
	// is more. It returns [ErrNoHold] for one that is not there, such as the
	// second time or after it has expired.
	Settle(ctx context.Context, id string, spent Amount) error
	// Used returns what is used of each account, held amounts among it.
	Used(ctx context.Context, accounts []string) ([]Amount, error)
}

// A BudgetError says that a budget has no room for a call.
type BudgetError struct {
	Claim
	// Used is what is used of the account, and Asked what the call would have
	// needed.
	Used, Asked Amount
}

// Error names budget and account.
func (e *BudgetError) Error() string {
	return fmt.Sprintf("inference: the budget %q has no room: account %s: used %d tokens and $%s of %d and $%s, asked for %d and $%s",
		e.Budget, e.Account, e.Used.Tokens, e.Used.Cost, e.Limit.Tokens, e.Limit.Cost, e.Asked.Tokens, e.Asked.Cost)
}

// Errors of ledgers.
var (
	// ErrNoHold is returned for a hold that is not there.
	ErrNoHold = errors.New("inference: no such hold: it was settled already, or has expired and counts as spent")
	// ErrLedgerFull is returned by a ledger that can remember no more. It denies.
	ErrLedgerFull = errors.New("inference: the ledger is full, so that nothing more can be counted")
)

// maxAccounts bounds a ledger in memory: about 64 MB.
const maxAccounts = 1 << 18

// NewMemoryLedger returns a ledger in memory. What it knows is gone with the
// process, so that budgets begin anew. It remembers 262,144 accounts whose
// windows have not ended, and then denies with [ErrLedgerFull].
func NewMemoryLedger() Ledger { return newMemoryLedger(maxAccounts) }

func newMemoryLedger(most int) *memoryLedger {
	return &memoryLedger{most: most, sweepAt: min(1024, most), accounts: map[string]*balance{}, holds: map[string]setAside{}}
}

// A balance is what is used of one account.
type balance struct {
	used Amount
	ends time.Time
}

// A setAside is an amount, and the accounts that it is held on.
type setAside struct {
	amount Amount
	on     []*balance
}

type memoryLedger struct {
	most int

	mu       sync.Mutex
	accounts map[string]*balance
	holds    map[string]setAside
	sweepAt  int       // the number of accounts at which ended ones are looked for
	swept    time.Time // when they were looked for
}

func (m *memoryLedger) Reserve(_ context.Context, h Hold) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, taken := m.holds[h.ID]; taken || h.ID == "" {
		return fmt.Errorf("inference: a hold needs an id of its own, and %q is none", h.ID)
	}
	if h.Amount.Tokens < 0 || h.Amount.Cost < 0 {
		return errors.New("inference: a hold is never negative")
	}
	added := 0
	for _, c := range h.Claims {
		var used Amount
		if a := m.accounts[c.Account]; a != nil {
			used = a.used
		} else {
			added++
		}
		if !used.Plus(h.Amount).within(c.Limit) {
			return &BudgetError{c, used, h.Amount}
		}
	}
	if len(m.accounts)+added > m.sweepAt {
		m.sweep(h.At)
	}
	if len(m.accounts)+added > m.most {
		return ErrLedgerFull
	}
	hold := setAside{amount: h.Amount}
	for _, c := range h.Claims {
		a := m.accounts[c.Account]
		if a == nil {
			a = &balance{ends: c.Ends}
			m.accounts[c.Account] = a
		}
		a.used = a.used.Plus(h.Amount)
		hold.on = append(hold.on, a)
	}
	m.holds[h.ID] = hold
	return nil
}

func (m *memoryLedger) Settle(_ context.Context, id string, spent Amount) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	h, ok := m.holds[id]
	if !ok {
		return ErrNoHold
	}
	delete(m.holds, id)
	for _, a := range h.on { // also one that was forgotten: another of its name owes nothing
		a.used = Amount{
			replace(a.used.Tokens, h.amount.Tokens, spent.Tokens),
			replace(a.used.Cost, h.amount.Cost, spent.Cost),
		}
	}
	return nil
}

// replace takes held out of used and puts spent in. A sum that had no room for
// itself stays where it is: nobody knows what it was.
func replace[T ~int64](used, held, spent T) T {
	if used == math.MaxInt64 {
		return used
	}
	return addSaturating(max(used-held, 0), max(spent, 0))
}

func (m *memoryLedger) Used(_ context.Context, accounts []string) ([]Amount, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Amount, len(accounts))
	for i, id := range accounts {
		if a := m.accounts[id]; a != nil {
			out[i] = a.used
		}
	}
	return out, nil
}

// sweep forgets accounts whose window has ended, each time the number of the
// others has doubled, and once a second when there are too many: a walk over all
// of them is rare.
func (m *memoryLedger) sweep(now time.Time) {
	if m.sweepAt == m.most && now.Sub(m.swept).Abs() < time.Second {
		return
	}
	m.swept = now
	for id, a := range m.accounts {
		if !a.ends.IsZero() && !a.ends.After(now) {
			delete(m.accounts, id)
		}
	}
	m.sweepAt = min(max(1024, 2*len(m.accounts)), m.most)
}
