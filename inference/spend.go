package inference

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

const (
	// pieceSlack is how many more pieces than tokens a stream may have: the events
	// that begin and end it, its blocks and its signatures. It is reserved too.
	pieceSlack = 16
	// A stream has at most so many bytes: for each token, which comes in an event of
	// its own and is repeated with the whole text, each time with the probabilities
	// of twenty others; for the request, which responses repeat; and besides.
	bytesOfToken = 16 << 10
	echoes       = 8
	streamFrame  = 1 << 20
	// ledgerPatience is how long a call waits for the ledger.
	ledgerPatience = 10 * time.Second
	// holdLife is after how long a hold can only belong to a host that died.
	holdLife = 24 * time.Hour
)

// members is what the router asks the engine about agents.
type members interface {
	Memberships(agent string) governance.Memberships
}

// A spending is the money side of a call.
type spending struct {
	who    *payer
	rates  []rateUse
	taken  int64 // tokens, from each of rates
	billed int64 // tokens, in the end
	held   *held
	lost   Amount            // what attempts before were charged
	detail map[string]string // for the record of a denial
}

// held is what is set aside for a call of one target.
type held struct {
	id     string // of the hold in the ledger; "" if no account is charged
	amount Amount
	output int64 // tokens that the stream may have; 0: no budget applies
	price  Price
	priced bool
	tried  bool // a request went out that may have cost it
}

// payer returns who answers for the call.
func (c *call) payer() payer {
	if c.who == nil {
		c.who = &payer{actor: c.actor}
		if m, ok := c.engine.(members); ok {
			in := m.Memberships(c.actor.Agent)
			c.who.profiles, c.who.teams = in.Profiles, in.Teams
		}
	}
	return *c.who
}

// writes reports whether the call has an output that costs.
func (c *call) writes() bool { return c.op.action == actInvoke }

// outputLimit is the most tokens that a call of t may produce: of all of its
// answers together. Zero: nothing limits it.
func (c *call) outputLimit(t *target) int64 {
	return mulSaturating(c.eachLimit(t), max(c.env.choices, 1))
}

// eachLimit is the most tokens that each answer of t may have: what the request
// says, or else the default.
func (c *call) eachLimit(t *target) int64 {
	if c.env.maxOutput > 0 || !c.writes() {
		return c.env.maxOutput
	}
	limit, _ := lookup(c.routes.spend.MaxOutput, t.backend.Name, t.model)
	return limit
}

// limitEdits put the limit into the request where it does not say so itself, or
// says so under a name only that the backend may not read. A key that is there
// gets another value, for of two the backend might read either.
func (c *call) limitEdits(t *target) []edit {
	limit := c.eachLimit(t)
	if limit == 0 || !c.writes() {
		return nil
	}
	key, which := "max_tokens", 0
	switch {
	case c.protocol == Gemini:
		return c.sayInConfig("maxOutputTokens", limit)
	case c.protocol == OpenAIResponses:
		key = "max_output_tokens"
	case c.protocol == OpenAI && t.readsBoth():
		if c.env.maxOutput > 0 {
			return nil
		}
		key, which = "max_completion_tokens", 1 // newer models refuse the old name
	}
	return c.say(key, which, limit)
}

// say puts a limit under a key into the request.
func (c *call) say(key string, which int, limit int64) (edits []edit) {
	text := strconv.FormatInt(limit, 10)
	for i, at := range c.env.limits {
		if at.empty() {
			continue
		}
		// A null under another name says nothing; a zero may.
		if first := c.body[at.lo]; first == '0' || first == 'n' && i == which {
			edits = append(edits, edit{at, text})
		}
	}
	if c.env.limits[which].empty() {
		at := c.env.open + 1
		edits = append(edits, edit{span{at, at}, strconv.Quote(key) + ":" + text + ","})
	}
	return edits
}

// sayInConfig puts a limit into Gemini's generationConfig.
func (c *call) sayInConfig(key string, limit int64) []edit {
	e, text := &c.env, strconv.FormatInt(limit, 10)
	member := strconv.Quote(key) + ":" + text
	first := func(at int, bare bool, member string) []edit {
		if !bare {
			member += ","
		}
		return []edit{{span{at + 1, at + 1}, member}}
	}
	switch at := e.limits[0]; {
	case !at.empty() && (c.body[at.lo] == '0' || c.body[at.lo] == 'n'):
		return []edit{{at, text}}
	case !at.empty():
		return nil
	case e.config.empty():
		return first(e.open, e.bare, `"generationConfig":{`+member+"}")
	case c.body[e.config.lo] != '{':
		return []edit{{e.config, "{" + member + "}"}}
	}
	return first(e.config.lo, e.confBare, member)
}

// limit takes the call from the rates that apply to it, or refuses it.
func (c *call) limit() bool {
	s := &c.routes.spend
	if len(s.Rates) == 0 {
		return true
	}
	output, _ := c.env.outputLimit()
	tokens := addSaturating(int64(c.size), output)
	if rt := c.routes.byModel[routeKey{c.protocol, c.wanted}]; rt != nil {
		tokens = 0
		for _, t := range rt.targets { // the dearest, for nobody has chosen yet
			tokens = max(tokens, addSaturating(c.estInput(t), max(output, c.outputLimit(t))))
		}
	}
	uses, err := c.limiter.take(s.Rates, c.payer(), tokens, c.opts.Now())
	if err == nil {
		c.rates = uses
		if len(uses) > 0 {
			c.taken = tokens
		}
		return true
	}
	ref := refusal{status: http.StatusTooManyRequests, code: "rate_limit_exceeded", message: "too many model calls in a minute: wait"}
	if over := (*rateError)(nil); errors.As(err, &over) {
		c.detail = map[string]string{"rate": over.name}
		if ref.after = over.after; over.after == 0 {
			ref.message, ref.final = "this call is larger than what is allowed in a whole minute: send less, or ask for less output", true
		}
	} else {
		c.opts.Logger.Warn("inference: rate limits", slog.Any("error", err))
	}
	c.refuse(ref, c.op.action, fmt.Sprintf("Model::%q", c.wanted), guarded(audit.GuardRateLimit))
	return false
}

// attributes are what policy may know of the money side: the estimated input,
// and of the money budget with the least left, what it is and what is used of
// it, in micro-dollars.
func (c *call) attributes(t *target, attrs map[string]any) error {
	attrs["est_input"] = c.estInput(t)
	claims := c.routes.spend.claims(c.payer(), c.opts.Now())
	if len(claims) == 0 {
		return nil
	}
	accounts := make([]string, len(claims))
	for i, cl := range claims {
		accounts[i] = cl.Account
	}
	ctx, cancel := context.WithTimeout(c.ctx, ledgerPatience)
	defer cancel()
	used, err := c.opts.Ledger.Used(ctx, accounts)
	if err == nil && len(used) != len(claims) {
		err = errors.New("inference: the ledger did not answer about every account")
	}
	if err != nil {
		return err
	}
	least := MicroUSD(0)
	for i, cl := range claims {
		if left := cl.Limit.Cost - used[i].Cost; cl.Limit.Cost > 0 && (attrs["budget"] == nil || left < least) {
			least, attrs["budget"], attrs["spent"] = left, int64(cl.Limit.Cost), int64(used[i].Cost)
		}
	}
	return nil
}

// reserve sets aside what a call of t may cost at most.
func (c *call) reserve(t *target, d governance.Decision) (*held, *denial) {
	s := &c.routes.spend
	h := &held{}
	h.price, h.priced = lookup(s.Prices, t.backend.Name, t.model)
	some, money := s.applies(c.payer())
	if c.op.whole == nil { // counting tokens costs none
		return h, nil
	}
	if !some {
		h.amount.Tokens = c.taken // what it is charged to its rates if nobody counts it
		return h, nil
	}
	deny := func(ref refusal) (*held, *denial) {
		d.Decision = guarded(audit.GuardBudget)
		return nil, &denial{ref, d}
	}
	if money && !h.priced {
		c.detail = map[string]string{"budget": "no price"}
		return deny(refusal{status: http.StatusForbidden, code: "no_price", message: "the host has no price for this model, and so cannot keep your budget"})
	}
	if c.writes() {
		limit := c.outputLimit(t)
		if limit == 0 {
			c.detail = map[string]string{"budget": "no output limit"}
			return deny(refusal{status: http.StatusBadRequest, code: "output_limit_required", message: "say how many tokens the answer may have at most: without that your budget cannot be kept"})
		}
		h.output = addSaturating(limit, pieceSlack)
	}
	input := c.estInput(t)
	if c.env.compacts { // all is read and summed up, and then what is left is answered
		input, h.output = mulSaturating(input, 2), mulSaturating(h.output, 2)
	}
	h.amount = Amount{addSaturating(input, h.output), h.price.atMost(input, h.output)}
	if b, over := s.perRequest(c.payer(), h.amount); over {
		c.detail = map[string]string{"budget": b.Name}
		return deny(tooLargeForBudget)
	}
	if err := c.hold(h); err != nil {
		return deny(c.noRoom(err))
	}
	return h, nil
}

var tooLargeForBudget = refusal{
	status: http.StatusTooManyRequests, code: "budget_exceeded", final: true,
	message: "this call alone may cost more than your whole budget: send less, or ask for less output",
}

// hold sets h aside in the ledger.
func (c *call) hold(h *held) error {
	now := c.opts.Now()
	claims := c.routes.spend.claims(c.payer(), now)
	if len(claims) == 0 {
		return nil
	}
	// A client that leaves must not leave in doubt whether there is a hold.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), ledgerPatience)
	defer cancel()
	id := audit.NewID()
	err := c.opts.Ledger.Reserve(ctx, Hold{ID: id, At: now, Expires: now.Add(holdLife), Amount: h.amount, Claims: claims})
	if err == nil {
		h.id = id
		return nil
	}
	if full := (*BudgetError)(nil); !errors.As(err, &full) {
		// It may have come to be all the same.
		c.pay(id, Amount{})
	}
	return err
}

// noRoom is what the client is told about a failed reservation.
func (c *call) noRoom(err error) refusal {
	full := (*BudgetError)(nil)
	if !errors.As(err, &full) {
		if c.revoked() { // it was waiting for the ledger
			return revoked
		}
		c.opts.Logger.Error("inference: the ledger cannot be asked, so calls under a budget are denied", slog.Any("error", err))
		return refusal{status: http.StatusServiceUnavailable, code: "no_ledger", message: "the host cannot tell whether your budget has room, so the call is not carried out"}
	}
	c.detail = map[string]string{"budget": full.Budget, "account": full.Account}
	if !full.Asked.within(full.Limit) {
		return tooLargeForBudget
	}
	ref := refusal{status: http.StatusTooManyRequests, code: "budget_exceeded", final: true, message: "your budget for model calls has no room for this call"}
	if !full.Ends.IsZero() {
		ref.after = full.Ends.Sub(c.opts.Now())
		ref.message += ": it begins anew at " + full.Ends.UTC().Format(time.RFC3339)
	}
	return ref
}

// again sets the same aside once more, before a request that may have cost is
// repeated.
func (c *call) again() bool {
	if c.held == nil {
		return true
	}
	if c.held.id == "" {
		return c.spend(c.held, c.held.amount)
	}
	next := *c.held
	next.tried = false
	if err := c.hold(&next); err != nil {
		c.noRoom(err)
		c.note("attempt-denied:" + audit.GuardBudget)
		return false
	}
	c.spend(c.held, c.held.amount)
	c.held = &next
	return true
}

// overspent reports whether a stream has used up what was set aside for it. The
// bytes of all of it are counted as well as the pieces of text: they cannot be
// hidden.
func (c *call) overspent(m *meter) bool {
	h := c.held
	if h == nil || h.output == 0 {
		return false
	}
	most := addSaturating(mulSaturating(h.output, bytesOfToken), int64(echoes*c.size+streamFrame))
	return m.pieces > h.output || m.read > most
}

// usedUp ends a stream that does not keep to its limit.
var usedUp = refusal{
	status: http.StatusTooManyRequests, code: audit.GuardBudget,
	message: "the answer was cut: it is longer than what was set aside of your budget",
}

// mayCost reports whether a call that ended without a count may have cost
// anything. Providers do not bill what they answer with an error, but one of a
// gateway before them says only that it has not seen their answer: 502, 504, and
// Cloudflare's from 520 on. 529 is Anthropic's own.
func mayCost(status audit.Status, code string) bool {
	if status == audit.StatusOK {
		return true
	}
	if rest, ok := strings.CutPrefix(code, "upstream-"); ok {
		if n, err := strconv.Atoi(rest); err == nil {
			return n == http.StatusBadGateway || n == http.StatusGatewayTimeout || n >= 520 && n < statusOverloaded
		}
		switch rest {
		case "down", "open", "unauthorized", "redirect":
			return false
		}
	}
	return code != audit.GuardCredential
}

// charge says in the outcome what the call has cost, and settles with the ledger.
func (c *call) charge() {
	h := c.held
	if h == nil {
		return
	}
	c.held = nil
	u, spent := c.out.Usage, Amount{}
	if u != nil {
		if h.priced {
			u.Cost = int64(h.price.Cost(*u))
		}
		spent = Amount{addSaturating(addSaturating(u.Input, u.Output), addSaturating(u.CacheRead, u.CacheWrite)), MicroUSD(u.Cost)}
	}
	known := u != nil && (u.Final || c.routes.spend.Unfinished == ChargeSeen)
	if h.amount.Tokens > 0 && !known && (u != nil || h.tried && mayCost(c.out.Status, c.out.ErrorCode)) {
		spent = Amount{max(spent.Tokens, h.amount.Tokens), max(spent.Cost, h.amount.Cost)}
		if u == nil && h.id != "" {
			u = &audit.Usage{Model: c.target.model}
			c.out.Usage = u
		}
	}
	if u == nil && h.id != "" && c.lost.Cost > 0 {
		u = &audit.Usage{Model: c.target.model}
		c.out.Usage = u
	}
	if charged := addSaturating(c.lost.Cost, spent.Cost); h.id != "" && u != nil && int64(charged) != u.Cost {
		u.Charged = int64(charged)
	}
	c.billed = addSaturating(c.lost.Tokens, spent.Tokens)
	if !c.spend(h, spent) {
		c.note("unsettled:" + audit.GuardBudget)
	}
}

// spend settles a hold, and notes what it came to. What cannot be settled stays spent as it was reserved.
func (c *call) spend(h *held, spent Amount) bool {
	if h == nil {
		return true
	}
	c.lost = Amount{addSaturating(c.lost.Tokens, spent.Tokens), addSaturating(c.lost.Cost, spent.Cost)}
	if h.id == "" {
		return true
	}
	id := h.id
	h.id = ""
	return c.pay(id, spent)
}

func (c *call) pay(id string, spent Amount) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), ledgerPatience)
	defer cancel()
	if err := c.opts.Ledger.Settle(ctx, id, spent); err != nil {
		c.opts.Logger.Error("inference: a reservation could not be settled, and counts as spent", slog.Any("error", err))
		return false
	}
	return true
}

// free gives back what was set aside for a call that was not carried out.
func (c *call) free() {
	c.spend(c.held, Amount{})
	c.held = nil
	c.limiter.settle(c.rates, c.billed)
	c.rates = nil
}
