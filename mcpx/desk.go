package mcpx

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// A Person is who sits before the browser, as the host knows them.
type Person struct {
	// Name is the person, as policies name users.
	Name string
	// Groups are those that @approval annotations mean.
	Groups []string
}

// A Desk is an [Approver] with a page: an http.Handler that the host serves to
// people, behind its own login, where agents have no business. The agent is told
// the address of the question and to come again; a client that can show pages is
// asked to show it to its user. People who are not of all the groups that are
// asked for cannot agree, those of none of them see nothing.
//
// A yes is on record before it counts ([audit.KindApproval]), is good for one
// call, and ends with DeskOptions.Good. A no stands until the question ends.
//
// What is asked and answered is in this process: after a restart the agent asks
// again. Hosts that share one address have to bring an agent's calls and the
// person who answers to the same one of them, by the path of the page, or give
// an [ApproverFunc] over a store of their own.
type Desk struct {
	log  audit.Recorder
	base *url.URL
	who  func(*http.Request) (Person, error)
	opts DeskOptions
	key  [32]byte
	same *http.CrossOriginProtection

	mu      sync.Mutex
	asked   map[string]*matter // by id
	current map[string]*matter // by call
}

// DeskOptions are what can be changed about a [Desk].
type DeskOptions struct {
	// Life is how long people have to answer. Zero means an hour.
	Life time.Duration
	// Good is how long a yes waits for the agent to call again. Zero means ten
	// minutes.
	Good time.Duration
	// Ask is told of each question, so that the host can tell people of it. It
	// must not block.
	Ask func(r ApprovalRequest, page string)
	// Now is the clock. Nil means [time.Now].
	Now func() time.Time
	// Logger hears of answers that were refused. Nil means silence.
	Logger *slog.Logger
}

// A matter is one question.
type matter struct {
	id      string
	r       ApprovalRequest
	asked   time.Time
	expires time.Time
	verdict *Verdict      // nil until there is one
	done    chan struct{} // closed then
}

// Limits of what a desk holds.
const (
	maxMatters         = 1024
	maxMattersPerActor = 16
	maxMatterArgs      = 256 << 10
)

// ErrDesk is wrapped by the error of [NewDesk].
var ErrDesk = errors.New("mcpx: desk")

// NewDesk returns a desk whose pages are below base, an absolute URL at which the
// host serves it. Who says who opens a page, by the host's own login; an error
// means nobody. Answers are recorded in log.
func NewDesk(log audit.Recorder, base string, who func(*http.Request) (Person, error), opts *DeskOptions) (*Desk, error) {
	u, err := url.Parse(base)
	switch {
	case log == nil || who == nil:
		return nil, fmt.Errorf("%w: it needs a log and a function that says who opens a page", ErrDesk)
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("%w: the base must be an absolute URL without query", ErrDesk)
	case u.Scheme != "https" && !(u.Scheme == "http" && loopback(u.Host)):
		return nil, fmt.Errorf("%w: the base must be https, or on this machine", ErrDesk)
	}
	d := &Desk{
		log: log, base: u, who: who, same: http.NewCrossOriginProtection(),
		asked: make(map[string]*matter), current: make(map[string]*matter),
	}
	rand.Read(d.key[:])
	if opts != nil {
		d.opts = *opts
	}
	if d.opts.Life <= 0 {
		d.opts.Life = time.Hour
	}
	if d.opts.Good <= 0 {
		d.opts.Good = 10 * time.Minute
	}
	if d.opts.Now == nil {
		d.opts.Now = time.Now
	}
	if d.opts.Logger == nil {
		d.opts.Logger = slog.New(slog.DiscardHandler)
	}
	return d, nil
}

// Approve implements [Approver].
func (d *Desk) Approve(ctx context.Context, r ApprovalRequest) (Verdict, error) {
	m, fresh, err := d.open(r)
	if err != nil {
		return Verdict{}, err
	}
	page := d.page(m)
	if fresh && d.opts.Ask != nil {
		d.opts.Ask(m.r, page)
	}
	if r.Returned {
		select {
		case <-m.done:
		case <-ctx.Done():
			return Verdict{}, ctx.Err()
		}
	}
	if v, ok := d.take(m); ok {
		return v, nil
	}
	return Verdict{}, &AwaitingError{URL: page}
}

// open returns what is asked already about the same call by the same policies,
// or asks.
func (d *Desk) open(r ApprovalRequest) (m *matter, fresh bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if m := d.current[r.Call]; m != nil && m.r.Policy == r.Policy && d.living(m) {
		return m, false, nil
	}
	d.drop(d.current[r.Call])
	open := newQuota(maxMatters, maxMattersPerActor)
	for _, m := range d.asked {
		if !d.living(m) {
			d.drop(m)
		} else {
			open.add(owner(m.r.Actor))
		}
	}
	switch {
	case len(r.Args) > maxMatterArgs:
		return nil, false, fmt.Errorf("mcpx: desk: the arguments are more than the %d bytes that a page shows", maxMatterArgs)
	case !open.room(owner(r.Actor)):
		return nil, false, errFull
	}
	now := d.opts.Now()
	m = &matter{id: rand.Text(), r: r, asked: now, expires: now.Add(d.opts.Life), done: make(chan struct{})}
	m.r.Args, m.r.Groups = slices.Clone(r.Args), slices.Clone(r.Groups)
	d.asked[m.id], d.current[r.Call] = m, m
	return m, true, nil
}

func (d *Desk) living(m *matter) bool { return d.opts.Now().Before(m.expires) }

// drop forgets a matter, which may be nil. The caller holds the lock.
func (d *Desk) drop(m *matter) {
	if m == nil {
		return
	}
	delete(d.asked, m.id)
	if d.current[m.r.Call] == m {
		delete(d.current, m.r.Call)
	}
}

// take returns the answer to m if there is one. A yes is returned once.
func (d *Desk) take(m *matter) (Verdict, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if m.verdict == nil || !d.living(m) || d.asked[m.id] != m {
		return Verdict{}, false
	}
	if m.verdict.Approved {
		d.drop(m)
	}
	return *m.verdict, true
}

func (d *Desk) page(m *matter) string { return d.base.JoinPath(m.id).String() }

// ServeHTTP implements http.Handler.
func (d *Desk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	say := func(status int, text string) {
		w.WriteHeader(status)
		fmt.Fprintln(w, text)
	}
	p, err := d.who(r)
	if err != nil || p.Name == "" {
		say(http.StatusUnauthorized, "Sign in first, then open this page again.")
		return
	}
	d.mu.Lock()
	m := d.asked[path.Base(r.URL.Path)]
	if m != nil && !d.living(m) {
		m = nil
	}
	d.mu.Unlock()
	switch {
	case m == nil || !slices.ContainsFunc(m.r.Groups, func(g string) bool { return slices.Contains(p.Groups, g) }):
		// Who may not answer does not learn whether there is something to answer.
		say(http.StatusNotFound, "There is no such question, it has ended, or it is not yours to answer.")
	case r.Method == http.MethodGet:
		h.Set("Content-Type", "text/html; charset=utf-8")
		if err := d.write(w, m, p); err != nil {
			d.opts.Logger.Warn("mcpx: a page could not be written", "error", err)
		}
	case r.Method != http.MethodPost:
		h.Set("Allow", "GET, POST")
		say(http.StatusMethodNotAllowed, "Open this page in a browser.")
	default:
		status, text := d.answer(w, r, m, p)
		say(status, text)
	}
}

// answer takes what a person has sent.
func (d *Desk) answer(w http.ResponseWriter, r *http.Request, m *matter, p Person) (status int, text string) {
	r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
	form := func(name string) string {
		if v := r.PostForm[name]; len(v) == 1 {
			return v[0]
		}
		return ""
	}
	if d.same.Check(r) != nil || r.ParseForm() != nil || !hmac.Equal([]byte(form("token")), []byte(d.token(m, p))) {
		d.opts.Logger.Warn("mcpx: an answer came from another page than ours", "person", p.Name, "decision", m.r.Decision)
		return http.StatusForbidden, "This answer does not come from the page. Open the page again."
	}
	yes, reason := form("answer") == "yes", strings.TrimSpace(form("reason"))
	switch {
	case !yes && form("answer") != "no":
		return http.StatusBadRequest, "Answer yes or no."
	case yes && !allOf(m.r.Groups, p.Groups):
		return http.StatusForbidden, "You may not agree to this: it takes somebody of all of " + strings.Join(m.r.Groups, ", ") + "."
	case reason == "":
		return http.StatusBadRequest, "Say why, in a few words. Go back and try again."
	}
	v := Verdict{Approved: yes, By: p.Name, Reason: clip(reason, 500), Groups: slices.Clone(p.Groups)}
	d.mu.Lock()
	defer d.mu.Unlock()
	if m.verdict != nil || d.asked[m.id] != m || !d.living(m) {
		return http.StatusConflict, "This was answered already, or has ended."
	}
	if err := d.record(r.Context(), m, v); err != nil {
		d.opts.Logger.Error("mcpx: an answer could not be recorded, so it does not count", "person", p.Name, "error", err)
		return http.StatusServiceUnavailable, "Your answer could not be recorded, so it does not count. Try again later."
	}
	if m.verdict = &v; yes {
		m.expires = d.opts.Now().Add(d.opts.Good)
	}
	close(m.done)
	if yes {
		return http.StatusOK, "You agreed to this one call. You can close this page."
	}
	return http.StatusOK, "You did not agree. You can close this page."
}

// record puts an answer on record before it counts.
func (d *Desk) record(ctx context.Context, m *matter, v Verdict) error {
	verdict := "no"
	if v.Approved {
		verdict = "yes"
	}
	count := slices.DeleteFunc(slices.Clone(v.Groups), func(g string) bool { return !slices.Contains(m.r.Groups, g) })
	return d.log.Append(context.WithoutCancel(ctx), audit.Event{
		Kind: audit.KindApproval, Door: audit.DoorTool, Actor: m.r.Actor, Args: m.r.Args,
		Action: m.r.Action, Resource: m.r.Resource,
		Change: &audit.Change{By: v.By, Reason: v.Reason},
		Detail: map[string]string{"verdict": verdict, "decision": m.r.Decision, "groups": strings.Join(count, " ")},
	})
}

// token binds the form to the question and to who was shown it.
func (d *Desk) token(m *matter, p Person) string {
	h := hmac.New(sha256.New, d.key[:])
	fmt.Fprint(h, quoteJoin(m.id, p.Name))
	return hex.EncodeToString(h.Sum(nil))
}

// write writes the page of a question. All that comes from elsewhere is escaped
// (html/template would double what a program with a gateway weighs).
func (d *Desk) write(w io.Writer, m *matter, p Person) error {
	d.mu.Lock()
	asked, until, answered := m.asked, m.expires, m.verdict != nil
	d.mu.Unlock()
	const layout = "2006-01-02 15:04:05 MST"
	var b strings.Builder
	put := func(format string, args ...string) {
		safe := make([]any, len(args))
		for i, a := range args {
			safe[i] = html.EscapeString(a)
		}
		fmt.Fprintf(&b, format, safe...)
	}
	ascii := strconv.QuoteToASCII
	who := m.r.Actor
	put(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Approval</title>
<h1>An agent asks</h1>
<dl>
<dt>Agent</dt><dd><b>%s</b>`, ascii(who.Agent))
	if who.User != "" {
		put(", for %s", ascii(who.User))
	}
	put(`</dd>
<dt>wants to</dt><dd><b>%s</b> of <b>%s</b>, once</dd>
`, m.r.what(), m.r.Server)
	if len(m.r.Args) > 0 {
		put("<dt>with exactly</dt><dd><pre>%s</pre></dd>\n", Visible(m.r.Args))
	}
	put(`<dt>It takes somebody of</dt><dd>%s</dd>
<dt>Asked</dt><dd>%s, until %s; decision %s</dd>
</dl>
`, strings.Join(m.r.Groups, ", "), asked.UTC().Format(layout), until.UTC().Format(layout), m.r.Decision)
	if answered {
		put("<p>This was answered.</p>\n</html>\n")
	} else {
		yes := "You may say no, but not yes."
		if allOf(m.r.Groups, p.Groups) {
			yes = `<button name="answer" value="yes">I agree to this one call</button>`
		}
		put(`<form method="post">
<input type="hidden" name="token" value="%s">
<p><label>Why: <input name="reason" required maxlength="200" size="60" autocomplete="off"></label></p>
<p>`+yes+`
<button name="answer" value="no">I do not agree</button></p>
<p>You are %s.</p>
</form>
</html>
`, d.token(m, p), p.Name)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
