package inference

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/governance"
)

// An attempt is one request to a target, and what it came to.
type attempt struct {
	resp    *http.Response // what the target said, if it said anything
	refusal refusal        // what the client is told if it did not
	code    string         // for the record
	failing failing
	never   bool          // not worth asking the same target again
	after   time.Duration // the target asks not to be called for so long
}

// send asks targets one after the other until one of them answers, and relays
// the answer. What the last one said is the answer if none does.
func (c *call) send() {
	defer c.leave()
	limit := c.route.attempts()
	for n := 1; ; n++ {
		a := c.attempt()
		if !mayCost(audit.StatusFailed, a.code) {
			c.held.tried = false
		}
		switch {
		case a.failing == answered, n >= limit, a.failing == unsure && len(c.asks.hosted) > 0:
		case c.ctx.Err() != nil:
			a.close()
			c.cancelled()
			return
		default:
			if pause, ok := c.next(a); ok {
				a.close()
				c.leave()
				if c.estimate > 0 { // the next target is not asked, but answered for
					c.tellEstimate()
					return
				}
				if !c.sleep(pause) {
					c.cancelled()
					return
				}
				continue
			}
		}
		if a.resp != nil {
			defer a.close()
			c.relay(a.resp)
			return
		}
		if c.ctx.Err() != nil {
			c.cancelled()
			return
		}
		if a.after > 0 {
			c.w.Header().Set("Retry-After", strconv.Itoa(int((a.after+time.Second-1)/time.Second)))
		}
		c.failWith(a.refusal)
		return
	}
}

// close gives up the answer. It is not read to its end, which could take long.
func (a attempt) close() {
	if a.resp != nil {
		_ = a.resp.Body.Close()
	}
}

// attempt makes one request to c.target.
func (c *call) attempt() attempt {
	t := c.target
	name := t.backend.Name
	fail := func(f failing, status int, code, format string) attempt {
		return attempt{failing: f, code: code, refusal: refusal{status: status, code: code, message: fmt.Sprintf(format, name)}}
	}
	if c.estimate > 0 { // nothing was decided for a request
		a := fail(undone, http.StatusBadGateway, "estimated", "the backend %q counts no tokens")
		a.never = true
		return a
	}
	if !t.breaker.allow(c.opts.Now()) {
		a := fail(undone, http.StatusServiceUnavailable, "upstream-open", "the backend %q has not answered lately and is not asked for a while")
		a.after = t.breaker.wait(c.opts.Now())
		return a
	}
	transport, err := c.transport()
	if err != nil {
		c.opts.Logger.Error("inference: no credential", slog.String("backend", name), slog.Any("error", err))
		a := fail(undone, http.StatusBadGateway, audit.GuardCredential, "the host has no usable credential for %q")
		a.never = true
		return a
	}
	c.watch = newWatch(c.ctx, t.limits)
	resp, err := c.request(transport)
	now := c.opts.Now()
	switch {
	case err == nil:
	case c.ctx.Err() != nil:
		return attempt{failing: unsure, code: "cancelled"}
	case c.watch.expired() != nil:
		t.breaker.failure(now)
		a := fail(unsure, http.StatusGatewayTimeout, "timeout", "the backend %q did not answer in time")
		a.never = true
		return a
	default:
		t.breaker.failure(now)
		c.opts.Logger.Error("inference: backend", slog.String("backend", name), slog.Any("error", err))
		if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "dial" {
			return fail(undone, http.StatusBadGateway, "upstream-down", "the backend %q cannot be reached")
		}
		return fail(unsure, http.StatusBadGateway, "upstream-broken", "the connection to the backend %q broke off")
	}
	a := attempt{resp: resp, failing: failingStatus(resp.StatusCode)}
	if a.failing != answered {
		a.code = "upstream-" + strconv.Itoa(resp.StatusCode)
		if a.after = retryAfter(resp.Header, now); a.after > 0 {
			t.breaker.rest(now.Add(a.after))
		}
	}
	if breaks(resp.StatusCode) {
		t.breaker.failure(now)
	} else {
		t.breaker.success() // it answers, if only that we ask too much
	}
	return a
}

// request sends the request and waits until the answer has begun.
func (c *call) request(transport http.RoundTripper) (*http.Response, error) {
	url := c.target.url(c.op, &c.env)
	if c.query != "" && !c.target.translated && c.target.backend.wire == plainForm {
		url += "?" + c.query
	}
	up, err := http.NewRequestWithContext(c.watch.ctx, http.MethodPost, url, bytes.NewReader(c.sent))
	if err != nil {
		return nil, err
	}
	if len(c.sent) >= heavy {
		up.GetBody = c.letter.open
		if up.Body, err = up.GetBody(); err != nil {
			return nil, err
		}
	}
	up.Header = backendHeader(c.target.wire(), c.req.Header, c.betas)
	if c.target.backend.PassTrace && c.trace != "" {
		up.Header.Set(traceHeader, c.trace)
	}
	c.held.tried = true
	resp, err := transport.RoundTrip(up)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK && (len(c.route.targets) > 1 || c.target.limits.FirstByte > 0) {
		first := make([]byte, 4<<10)
		n, err := resp.Body.Read(first)
		if err != nil && err != io.EOF {
			_ = resp.Body.Close()
			return nil, err
		}
		resp.Body = &begunBody{io.MultiReader(bytes.NewReader(first[:n]), resp.Body), resp.Body}
	}
	c.watch.begun()
	resp.Body = &watchedBody{ReadCloser: resp.Body, watch: c.watch}
	return resp, nil
}

// next makes the call ready for its next request, to the next target that policy
// permits, or to the same one again; after the first round it says how long to
// wait before. It is false when there is nobody else to ask.
func (c *call) next(a attempt) (pause time.Duration, ok bool) {
	failed := c.target
	c.note("attempt:" + failed.String() + ":" + a.code)
	if a.never {
		c.passed = append(c.passed, failed)
	}
	for range len(c.order) {
		if c.at == len(c.order) {
			c.at, c.round = 0, c.round+1
		}
		if c.round > 0 && c.route.retry.Attempts == 0 {
			return 0, false
		}
		t := c.order[c.at]
		c.at++
		if slices.Contains(c.passed, t) {
			continue
		}
		if c.round > 0 {
			rests := t.breaker.rested(c.opts.Now())
			if pause, ok = c.route.retry.pause(c.round, c.opts.Rand(), rests); !ok {
				c.passed = append(c.passed, t)
				continue
			}
		}
		if t == failed {
			if mayCost(audit.StatusFailed, a.code) && !c.again() {
				return 0, false
			}
			return pause, true // the same decisions hold
		}
		if c.fallBack(t, a.code) {
			return pause, true
		}
	}
	return 0, false
}

// fallBack decides about t and, before anything is sent there, puts it on
// record that the call goes there.
func (c *call) fallBack(t *target, why string) bool {
	was, rendering, decision, keyUse, allowed, held := c.target, c.rendering, c.decision, c.keyUse, c.allowed, c.held
	if c.admit(t) != nil {
		c.passed = append(c.passed, t)
		return false
	}
	detail := map[string]string{"intent": strconv.FormatUint(c.record.Record(), 10), "from": was.String(), "why": why}
	if c.keyUse != nil {
		detail["credential"], detail["credential_decision"] = c.keyUse.Name, c.keyUse.Decision.ID
	}
	err := c.log.Append(context.WithoutCancel(c.ctx), audit.Event{
		Kind: audit.KindFallback, Door: audit.DoorModel, Action: c.decision.Action, Resource: c.decision.Resource,
		Actor: c.actor, Decision: &c.decision.Decision, Args: c.sent, Keep: c.keep(), Detail: detail, Trace: c.trace,
	})
	if err != nil {
		c.opts.Logger.Error("inference: a fallback could not be recorded, so it is not carried out", slog.Any("error", err))
		settleAll(c.allowed, governance.Result{})
		c.passed = append(c.passed, t)
		c.spend(c.held, Amount{})
		c.scrap(c.rendering)
		c.target, c.rendering, c.decision, c.keyUse, c.allowed, c.held = was, rendering, decision, keyUse, allowed, held
		return false
	}
	if mayCost(audit.StatusFailed, why) {
		c.spend(held, held.amount)
	} else {
		c.spend(held, Amount{})
	}
	settleAll(allowed, governance.ResultOf(audit.Outcome{Status: audit.StatusFailed, ErrorCode: why}))
	c.scrap(rendering)
	c.fellBack = true
	c.noteHosted()
	return true
}

// leave ends what the last attempt holds: its lease and its clock.
func (c *call) leave() {
	if c.watch != nil {
		c.watch.stop()
	}
	if c.lease != nil {
		c.head = c.head.Plus(c.lease.Found())
		c.lease.Release()
		c.lease = nil
	}
}

// note puts a short fact on the outcome's record.
func (c *call) note(check string) { c.out.Checks = append(c.out.Checks, check) }

// sleep waits, and reports whether the call still goes on.
func (c *call) sleep(d time.Duration) bool {
	if d <= 0 {
		return c.ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return c.ctx.Err() == nil
	case <-c.ctx.Done():
		return false
	}
}

// transport leases the target's key, if it has one.
func (c *call) transport() (http.RoundTripper, error) {
	b := c.target.backend
	if b.Credential == "" {
		return c.opts.Transport, nil
	}
	if c.opts.Vault == nil {
		return nil, errors.New("inference: the router has no vault")
	}
	lease, err := c.opts.Vault.Lease(c.ctx, credential.LeaseRequest{
		Actor: c.actor, Credential: b.Credential, Origin: c.target.origin,
		Tool: c.target.model, Purpose: "model", Decision: c.keyUse.Decision.ID,
	})
	if err != nil {
		return nil, err
	}
	c.lease = lease
	c.out.CredentialVersion = lease.Ref().Version
	return lease.Transport(c.opts.Transport), nil
}
