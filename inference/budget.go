package inference

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// Spend is the money side of a [Config]: what models cost, and how much of them
// agents may use. The zero value limits nothing and knows no price.
//
// In Prices, MaxOutput, MaxInput and ImageTokens a key is "backend/model", or "backend/*" for the
// other models of a backend, or "*" for all others. Without a key that fits
// there is no price, and what needs one is denied.
type Spend struct {
	// Prices say what models cost.
	Prices map[string]Price `yaml:"prices"`
	// MaxOutput is the limit in tokens that a call gets which names none itself.
	// It is written into the request, so that the backend keeps it as well. A
	// call without any limit is denied when a budget applies to it.
	MaxOutput map[string]int64 `yaml:"max_output"`
	// MaxInput is the most tokens that a model reads: what its provider calls the
	// context window. A call is not estimated at more, and is estimated at all of it
	// if its bytes say nothing about its tokens: with documents, sounds, videos, what
	// is to be fetched by its address, files in the host's account, content of an
	// unknown type, and tools that the provider runs. Where it is not said, calls with
	// such content are estimated at 2,097,152, and what provider-side tools read is not
	// in the estimate but charged when it is known.
	MaxInput map[string]int64 `yaml:"max_input"`
	// ImageTokens is the most tokens that an image may become, whatever its size in
	// bytes. Where it is not said it is what providers document for their dearest
	// model: 5,000 of Anthropic's, 16,000 of Gemini's, 50,000 of all others.
	ImageTokens map[string]int64 `yaml:"image_tokens"`
	// Budgets limit what is used in a window. All that apply must have room.
	Budgets []Budget `yaml:"budgets"`
	// Rates limit what is used in a minute. All that apply must have room. Each
	// host counts for itself; for all hosts together use a budget by the minute.
	Rates []RateLimit `yaml:"rates"`
	// BytesPerToken is how many bytes of a request, without its images, stand for one
	// token when its input is estimated. Zero: 1, of which no tokenizer makes more. With 4, as
	// is usual for English, more agents work at once within a budget, and it can
	// be overshot by the input of a request that is not usual.
	BytesPerToken int64 `yaml:"bytes_per_token"`
	// Unfinished says what an answer costs of which the backend has not given
	// the last count, because it was cut, cancelled or broke off.
	Unfinished Unfinished `yaml:"unfinished"`
}

// Unfinished is how answers are charged whose count nobody knows.
type Unfinished string

const (
	// ChargeReserved charges all that was reserved. It is the default: providers
	// bill what nobody has seen, such as reasoning, so that an agent which
	// cancels each call in time would pay nothing.
	ChargeReserved Unfinished = "reserved"
	// ChargeSeen charges what was seen to arrive, which may be too little.
	ChargeSeen Unfinished = "seen"
)

// A Scope says who shares an account.
type Scope string

const (
	PerAgent   Scope = "agent"   // every agent has an account of its own
	PerProfile Scope = "profile" // every profile, by the policy bundle
	PerTeam    Scope = "team"    // every team, by the policy bundle
	PerUser    Scope = "user"    // every person that agents act for
	PerHost    Scope = "host"    // all calls share one
)

// A Window is the span of time that a [Budget] is for. Windows are fixed, in
// UTC: a day begins at midnight. A call belongs to the window in which it began.
type Window string

const (
	WindowRequest Window = "request" // one call
	WindowMinute  Window = "minute"
	WindowHour    Window = "hour"
	WindowDay     Window = "day"
	WindowMonth   Window = "month"
	WindowTotal   Window = "total" // for ever
)

// A Budget limits what its accounts may use in a window, in tokens, in money or
// in both. Tokens are input, cached or not, and output.
type Budget struct {
	// Name is on record when it denies: [a-z0-9-], 1 to 32 characters. What was
	// used is counted under it, so that a new name is a new account. Required.
	Name string `yaml:"name"`
	// Per says who has an account. Required. A call that has nobody in this
	// scope, such as one of an agent that acts for no user, is not counted.
	Per Scope `yaml:"per"`
	// Of limits the budget to these agents, profiles, teams or users. Empty: all.
	Of []string `yaml:"of"`
	// Window is how long the budget is for. Required.
	Window Window `yaml:"window"`
	// Tokens and USD are the limits. Zero: none; one is required.
	Tokens int64    `yaml:"tokens"`
	USD    MicroUSD `yaml:"usd"`
}

// A RateLimit limits what its accounts may use in a minute: a token bucket
// that holds as much as a minute's worth and fills steadily.
type RateLimit struct {
	// Name, Per and Of are as in [Budget].
	Name string   `yaml:"name"`
	Per  Scope    `yaml:"per"`
	Of   []string `yaml:"of"`
	// Requests and Tokens are the limits for a minute. Zero: none; one is
	// required. A call takes as many tokens as are estimated, with the output
	// limit that it gets, and gives back what it did not use; nothing of it if
	// nobody has counted and it may have cost. What it used beyond is owed, so that
	// there is no room for as long as it takes to fill, for each call at most a day.
	Requests int64 `yaml:"requests"`
	Tokens   int64 `yaml:"tokens"`
}

// Limits of a [Spend].
const (
	maxBudgets       = 64
	maxMembers       = 1024
	maxTokens        = 1_000_000_000_000
	maxBytesPerToken = 8
)

var (
	scopes  = []Scope{PerAgent, PerProfile, PerTeam, PerUser, PerHost}
	windows = []Window{WindowRequest, WindowMinute, WindowHour, WindowDay, WindowMonth, WindowTotal}
	// pricedRE matches the keys of prices and of what else is said of models.
	pricedRE = regexp.MustCompile(`^(\*|[a-z0-9-]{1,32}/(\*|[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}))$`)
)

// validate returns what is wrong with s, or nil.
func (s *Spend) validate() error {
	for key, p := range s.Prices {
		if !pricedRE.MatchString(key) {
			return fmt.Errorf("prices: %q: want backend/model, backend/* or *", key)
		}
		if err := p.validate(); err != nil {
			return fmt.Errorf("prices: %q: %w", key, err)
		}
	}
	for _, list := range []struct {
		name   string
		tokens map[string]int64
	}{{"max_output", s.MaxOutput}, {"max_input", s.MaxInput}, {"image_tokens", s.ImageTokens}} {
		for key, n := range list.tokens {
			if !pricedRE.MatchString(key) {
				return fmt.Errorf("%s: %q: want backend/model, backend/* or *", list.name, key)
			}
			if n < 1 || n > maxTokens {
				return fmt.Errorf("%s: %q: want 1 to %d tokens", list.name, key, int64(maxTokens))
			}
		}
	}
	if len(s.Budgets) > maxBudgets || len(s.Rates) > maxBudgets {
		return fmt.Errorf("more than %d budgets or rates", maxBudgets)
	}
	names := map[string]bool{}
	for i, b := range s.Budgets {
		if err := (account{"budgets", i, b.Name, b.Per, b.Of}).validate(names); err != nil {
			return err
		}
		if !slices.Contains(windows, b.Window) {
			return fmt.Errorf("budget %q: window %q: want one of %s", b.Name, b.Window, joined(windows))
		}
		if err := limits(b.Tokens, int64(b.USD), maxTokens, maxUSD*microsPerUSD); err != nil {
			return fmt.Errorf("budget %q: tokens and usd: %w", b.Name, err)
		}
	}
	names = map[string]bool{}
	for i, r := range s.Rates {
		if err := (account{"rates", i, r.Name, r.Per, r.Of}).validate(names); err != nil {
			return err
		}
		if err := limits(r.Requests, r.Tokens, maxRate, maxRate); err != nil {
			return fmt.Errorf("rate %q: requests and tokens: %w", r.Name, err)
		}
	}
	if s.BytesPerToken < 0 || s.BytesPerToken > maxBytesPerToken {
		return fmt.Errorf("bytes_per_token: want 1 to %d", maxBytesPerToken)
	}
	if s.Unfinished != "" && s.Unfinished != ChargeReserved && s.Unfinished != ChargeSeen {
		return fmt.Errorf("unfinished: %q: want %s or %s", s.Unfinished, ChargeReserved, ChargeSeen)
	}
	return nil
}

// limits checks two limits of which zero means none.
func limits(a, b, mostA, mostB int64) error {
	switch {
	case a == 0 && b == 0:
		return errors.New("one of them is required")
	case a < 0 || a > mostA || b < 0 || b > mostB:
		return fmt.Errorf("want at least 0 and at most %d and %d", mostA, mostB)
	}
	return nil
}

// An account is what budgets and rates have in common.
type account struct {
	list string
	i    int
	name string
	per  Scope
	of   []string
}

func (a account) validate(names map[string]bool) error {
	switch {
	case !nameRE.MatchString(a.name):
		return fmt.Errorf("%s[%d]: name %q must be 1 to 32 of a-z, 0-9 and -", a.list, a.i, a.name)
	case names[a.name]:
		return fmt.Errorf("%s: %q appears twice", a.list, a.name)
	case !slices.Contains(scopes, a.per):
		return fmt.Errorf("%s: %q: per %q: want one of %s", a.list, a.name, a.per, joined(scopes))
	case a.per == PerHost && len(a.of) > 0:
		return fmt.Errorf("%s: %q: of makes no sense per host", a.list, a.name)
	case len(a.of) > maxMembers || slices.Contains(a.of, ""):
		return fmt.Errorf("%s: %q: of: want at most %d names, none empty", a.list, a.name, maxMembers)
	}
	names[a.name] = true
	return nil
}

func joined[T ~string](list []T) string {
	words := make([]string, len(list))
	for i, s := range list {
		words[i] = string(s)
	}
	return strings.Join(words, ", ")
}

// lookup finds the entry of a model.
func lookup[T any](m map[string]T, backend, model string) (v T, ok bool) {
	if v, ok = m[backend+"/"+model]; ok {
		return v, true
	}
	if v, ok = m[backend+"/*"]; ok {
		return v, true
	}
	v, ok = m["*"]
	return v, ok
}

// A payer is who answers for a call, in every scope. Memberships are those of
// the policy bundle.
type payer struct {
	actor    audit.Actor
	profiles []string
	teams    []string
}

// in returns those that pay in a scope, of those that are named.
func (p payer) in(s Scope, of []string) []string {
	var who []string
	switch s {
	case PerAgent:
		who = []string{p.actor.Agent}
	case PerProfile:
		who = p.profiles
	case PerTeam:
		who = p.teams
	case PerUser:
		if p.actor.User == "" {
			return nil
		}
		who = []string{p.actor.User}
	case PerHost:
		return []string{""}
	}
	if len(of) == 0 {
		return who
	}
	return slices.DeleteFunc(slices.Clone(who), func(w string) bool { return !slices.Contains(of, w) })
}

// bounds returns when the window that holds t begins and ends. Both are zero
// for one that never ends, and for a single request.
func (w Window) bounds(t time.Time) (from, to time.Time) {
	t = t.UTC()
	y, m, d := t.Date()
	switch w {
	case WindowMinute:
		from = t.Truncate(time.Minute)
		return from, from.Add(time.Minute)
	case WindowHour:
		from = t.Truncate(time.Hour)
		return from, from.Add(time.Hour)
	case WindowDay:
		from = time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
		return from, from.AddDate(0, 0, 1)
	case WindowMonth:
		from = time.Date(y, m, 1, 0, 0, 0, 0, time.UTC)
		return from, from.AddDate(0, 1, 0)
	}
	return time.Time{}, time.Time{}
}

// accountID names what is used under a budget by one payer in one window, such
// as `daily agent "bot" 2026-11-29T00:00:00Z`.
func (b Budget) accountID(who string, from time.Time) string {
	id := b.Name + " " + string(b.Per) + " " + strconv.Quote(who)
	if b.Window == WindowTotal {
		return id + " total"
	}
	return id + " " + string(b.Window) + " " + from.Format(time.RFC3339)
}

// claims are the accounts that a call of p at t is charged to. Budgets for a
// single request have none.
func (s *Spend) claims(p payer, t time.Time) []Claim {
	var out []Claim
	for _, b := range s.Budgets {
		if b.Window == WindowRequest {
			continue
		}
		from, to := b.Window.bounds(t)
		for _, who := range p.in(b.Per, b.Of) {
			out = append(out, Claim{Budget: b.Name, Account: b.accountID(who, from), Ends: to, Limit: Amount{b.Tokens, b.USD}})
		}
	}
	return out
}

// perRequest returns the budget for a single request that amount does not fit,
// if there is one.
func (s *Spend) perRequest(p payer, amount Amount) (Budget, bool) {
	for _, b := range s.Budgets {
		if b.Window == WindowRequest && len(p.in(b.Per, b.Of)) > 0 && !amount.within(Amount{b.Tokens, b.USD}) {
			return b, true
		}
	}
	return Budget{}, false
}

// applies reports whether any budget limits the calls of p, and whether one
// does so in money.
func (s *Spend) applies(p payer) (any, money bool) {
	for _, b := range s.Budgets {
		if len(p.in(b.Per, b.Of)) > 0 {
			any, money = true, money || b.USD > 0
		}
	}
	return any, money
}
