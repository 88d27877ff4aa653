package egress

import (
	"context"
	"io"
	"net/http"
	"net/http/httputil"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// requestDenialsEach is denialsEach for requests: each is about another path.
const requestDenialsEach = 64

// An inspector looks into the requests of the connections whose rule says so.
// Each request is judged, decided and recorded by itself, whatever was allowed
// on the same connection before; what passes goes to the handler of the name or
// to the real host.
type inspector struct {
	door    *Door
	forward *httputil.ReverseProxy
	pools   *pools

	mu   sync.Mutex
	busy map[*exchange]struct{} // requests that were read and are not over
}

func newInspector(d *Door) *inspector {
	in := &inspector{door: d, busy: make(map[*exchange]struct{})}
	in.pools = newPools(d)
	in.forward = newForwarder(in.pools)
	return in
}

// An exchange is one request on its way.
type exchange struct {
	*request
	door   *Door
	flow   *flow
	rule   Rule // in force when the request was judged
	cancel context.CancelFunc

	sent, received atomic.Int64
	status         atomic.Int32
	code           string // why it failed, for the record; set before the handler returns
	cut            atomic.Bool
}

type exchangeKey struct{}

// serve takes one request of f on its way.
func (in *inspector) serve(rw http.ResponseWriter, r *http.Request, f *flow) {
	d := in.door
	x := &exchange{door: d, flow: f}
	var cause, detail string
	x.request, cause, detail = readRequest(r, f)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	x.cancel = cancel
	// From here on a change of rules cuts x, or x sees the rules that it made.
	in.add(x)
	defer in.remove(x)
	snap := d.now()
	var ok bool
	if x.rule, ok = d.current(f); !ok {
		panic(http.ErrAbortHandler) // it was read before the connection was cut
	}
	v := verdict{cause: cause}
	if cause == "" {
		v, detail = x.judge(r, x.rule.HTTP, d.conf.Decider != nil)
	}
	if v.cause != "" {
		no := snap.refusal(v.cause)
		if v.rule != "" {
			no.Policies = []audit.Policy{{ID: ruleID(x.rule, v.rule)}}
		}
		x.refuse(rw, no, detail)
		return
	}
	g, also := d.decideRequest(snap, x, v)
	defer func() {
		for _, a := range also {
			a.asked.Settle(governance.Result{})
		}
	}()
	defer g.asked.Settle(governance.Result{}) // unless it is settled below
	if !g.Allowed() {
		x.refuse(rw, g.Decision, "")
		return
	}
	call, err := d.rec.begin(d.ctx, x.target, g)
	if err != nil {
		d.conf.Logger.Error("sandbox: a request was refused because it could not be recorded", "host", f.host, "error", err)
		x.answer(rw, http.StatusServiceUnavailable, problem{Error: "no_audit", Detail: "The host cannot record this request, so it is not carried out."})
		return
	}
	defer func() {
		p := recover()
		out := x.outcome(ctx, p != nil)
		d.rec.end(d.ctx, call, x.target, out, x.sent.Load())
		g.asked.Settle(governance.ResultOf(out))
		if p != nil {
			panic(p)
		}
	}()
	r = r.WithContext(context.WithValue(ctx, exchangeKey{}, x))
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &countedBody{r.Body, &x.sent}
	}
	w := &countedWriter{ResponseWriter: rw, x: x}
	if f.handler != nil {
		r.URL = targetURL("", "", x.canon, x.query, x.mark)
		r.RequestURI = r.URL.RequestURI()
		f.handler.ServeHTTP(w, r)
		return
	}
	// HTTP/1.1 may answer before it has read the whole request.
	_ = http.NewResponseController(rw).EnableFullDuplex()
	in.forward.ServeHTTP(w, r)
}

// decideRequest asks the engine, if there is one, about each reading of a
// request that a rule has allowed. g is the decision to record; the others were
// asked besides.
func (d *Door) decideRequest(s *snapshot, x *exchange, v verdict) (g grant, others []grant) {
	t := x.target
	for i := -1; i < len(x.canon.more); i++ {
		t.path = x.canon.reading(i)
		one := d.decide(s, t, x.rule)
		if i < 0 {
			g = one
		} else {
			others = append(others, one)
		}
		if d.conf.Decider == nil {
			if v.rule != "" {
				g.Policies[0].ID = ruleID(x.rule, v.rule)
			}
			return g, nil
		}
		if !one.Allowed() {
			if i >= 0 {
				others[len(others)-1], g = g, one
			}
			return g, others
		}
	}
	return g, others
}

// ruleID names a rule about requests on record.
func ruleID(r Rule, of string) string { return "network.allow:" + r.Host.String() + "#" + of }

// outcome says how the request ended.
func (x *exchange) outcome(ctx context.Context, broke bool) audit.Outcome {
	out := audit.Outcome{Status: audit.StatusOK, Bytes: x.received.Load()}
	if s := x.status.Load(); s != 0 {
		out.Checks = append(out.Checks, "status:"+strconv.Itoa(int(s)))
	}
	code := x.code
	if code == "" && broke {
		code = "broken"
	}
	switch {
	case x.cut.Load():
		out.Status, out.ErrorCode = audit.StatusFailed, outPolicy
	case x.door.cutCode(x.flow) != "":
		out.Status, out.ErrorCode = audit.StatusFailed, x.door.cutCode(x.flow)
	case x.door.ctx.Err() != nil && (broke || code != "" || x.status.Load() == http.StatusSwitchingProtocols):
		out.Status = audit.StatusCancelled
	case code != "" && code != "broken":
		out.Status, out.ErrorCode = audit.StatusFailed, code
	case broke && ctx.Err() != nil:
		out.Status, out.ErrorCode = audit.StatusCancelled, "cancelled" // the program left
	case broke:
		out.Status, out.ErrorCode = audit.StatusFailed, code
	}
	return out
}

func (in *inspector) add(x *exchange) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.busy[x] = struct{}{}
}

func (in *inspector) remove(x *exchange) {
	in.mu.Lock()
	defer in.mu.Unlock()
	delete(in.busy, x)
}

// recheck judges the requests that are under way by the rules that are in force
// now, and cuts those which they forbid. Connections to real hosts that wait for
// a next request are closed.
func (in *inspector) recheck() {
	in.mu.Lock()
	for x := range in.busy {
		r, ok := in.door.current(x.flow)
		if ok && x.valid {
			v := r.HTTP.judge(x.method, x.canon)
			ok = v.cause == ""
		}
		if !ok {
			x.cut.Store(true)
			x.cancel()
		}
	}
	in.mu.Unlock()
	in.pools.closeIdle()
}

// countedBody counts what the program sends.
type countedBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}

// countedWriter counts what the program gets.
type countedWriter struct {
	http.ResponseWriter
	x *exchange
}

func (w *countedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *countedWriter) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.x.status.CompareAndSwap(0, int32(status))
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *countedWriter) Write(p []byte) (int, error) {
	w.x.status.CompareAndSwap(0, http.StatusOK)
	// Counted before the program can have them; see [webConn.Write].
	w.x.received.Add(int64(len(p)))
	n, err := w.ResponseWriter.Write(p)
	w.x.received.Add(int64(n - len(p)))
	return n, err
}

func (w *countedWriter) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }
