package egress

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

const (
	// defaultAskTimeout is how long a person may think.
	defaultAskTimeout = 30 * time.Second
	// maxAsking bounds the questions that wait for an answer at one time, and
	// maxAnswers the destinations that are remembered with one.
	maxAsking  = 16
	maxAnswers = 4096
	// askAgain is how long a question without an answer is not repeated, and how
	// long the one connection of an AnswerOnce may come late: a program may have
	// given up and try again.
	askAgain = time.Minute
	// maxAskedNames bounds the synthetic addresses of names that no rule allows,
	// so that those of others are left.
	maxAskedNames = maxNames / 4
)

// A Question is a destination that no rule allows.
type Question struct {
	Actor   audit.Actor
	Host    string // canonical name
	Port    uint16
	Program string // path of the executable inside, "" if not known
}

// A Verdict is an answer's effect.
type Verdict int

const (
	AnswerDeny    Verdict = iota // remembered until the rules change
	AnswerOnce                   // one connection
	AnswerSession                // until the rules change or the session ends
	AnswerAlways                 // as Session, and it should become a rule
)

func (v Verdict) String() string {
	switch v {
	case AnswerDeny:
		return "deny"
	case AnswerOnce:
		return "once"
	case AnswerSession:
		return "session"
	case AnswerAlways:
		return "always"
	}
	return "unknown"
}

// An Answer says what is to happen, who says so and, if they like, why.
type Answer struct {
	Verdict    Verdict
	By, Reason string
}

// asks are the questions and answers of one snapshot: new rules start without.
type asks struct {
	mu      sync.Mutex
	byPlace map[place]*inquiry
}

type place struct {
	host string
	port uint16
}

// An inquiry is a question that was put, with its answer once done is closed.
type inquiry struct {
	done    chan struct{}
	verdict Verdict
	why     string    // of a refusal, for the record
	left    int       // connections that an AnswerOnce still allows; under asks.mu
	until   time.Time // when a missing answer is forgotten; zero: never
}

// askable reports whether a person may be asked about a name: a public host
// that nobody governs.
func (d *Door) askable(name string) bool {
	if d.conf.Ask == nil || !strings.Contains(name, ".") {
		return false
	}
	for _, local := range []string{".local", ".localhost", ".internal", ".home.arpa", ".onion", ".invalid", ".test"} {
		if strings.HasSuffix(name, local) {
			return false
		}
	}
	for _, g := range d.conf.Governed {
		if g.Match(name) {
			return false
		}
	}
	return true
}

// ask puts t to a person, or takes the answer that there is, and returns the
// rule that it amounts to. It waits; attempts at one destination ask together.
// why says more about a refusal.
func (d *Door) ask(s *snapshot, a *attempt) (r Rule, cause, why string) {
	p := place{a.t.host, a.t.port}
	_ = d.look(a) // for the person's information
	for {
		q, ok := d.inquire(s, p, a.t.program)
		if !ok {
			return Rule{}, CauseAsk, "too many questions"
		}
		select {
		case <-q.done:
		case <-d.ctx.Done():
			return Rule{}, CauseAsk, "the session ended"
		}
		switch q.verdict {
		case AnswerOnce:
			if hungUp(a) {
				return Rule{}, CauseAsk, "the program did not wait"
			}
			if d.takeOnce(s, q, p) {
				return askedRule(p), "", ""
			}
			continue // another attempt took it
		case AnswerSession, AnswerAlways:
			return askedRule(p), "", ""
		}
		return Rule{}, CauseAsk, q.why
	}
}

// askedRule is what an answer allows: this name and port, at public addresses.
func askedRule(p place) Rule {
	return Rule{Host: Pattern{text: p.host}, Ports: []uint16{p.port}, asked: true}
}

// inquire returns the inquiry about p, which is made if there is none.
func (d *Door) inquire(s *snapshot, p place, program string) (*inquiry, bool) {
	s.asks.mu.Lock()
	defer s.asks.mu.Unlock()
	q := s.asks.byPlace[p]
	if q != nil && !q.until.IsZero() && time.Now().After(q.until) {
		q = nil
	}
	if q != nil {
		return q, true
	}
	if len(s.asks.byPlace) >= maxAnswers {
		return nil, false
	}
	select {
	case d.asking <- struct{}{}:
	default:
		return nil, false
	}
	q = &inquiry{done: make(chan struct{})}
	s.asks.byPlace[p] = q
	d.tasks.Add(1)
	go func() {
		defer d.tasks.Done()
		d.pose(s, p, q, program)
	}()
	return q, true
}

// takeOnce uses up a connection that was allowed once.
func (d *Door) takeOnce(s *snapshot, q *inquiry, p place) bool {
	s.asks.mu.Lock()
	defer s.asks.mu.Unlock()
	if q.left == 0 {
		return false
	}
	q.left--
	if s.asks.byPlace[p] == q {
		delete(s.asks.byPlace, p)
	}
	return true
}

// pose asks the host's callback, puts the answer on record, and gives it to those
// who wait. The callback keeps its place among the questions until it returns,
// also when nobody waits for it any more.
func (d *Door) pose(s *snapshot, p place, q *inquiry, program string) {
	ctx, cancel := context.WithTimeout(d.ctx, d.conf.AskTimeout)
	defer cancel()
	got := make(chan Answer, 1)
	go func() {
		defer func() { <-d.asking }()
		defer d.survive()
		defer close(got)
		got <- d.conf.Ask(ctx, Question{Actor: d.conf.Actor, Host: p.host, Port: p.port, Program: program})
	}()
	var answer Answer
	answered := false
	select {
	case answer, answered = <-got:
	case <-ctx.Done():
	}
	verdict, why := d.recordAnswer(s, p, answer, answered)
	s.asks.mu.Lock()
	q.verdict, q.why = verdict, why
	if verdict == AnswerOnce {
		q.left = 1
	}
	if !answered || verdict == AnswerOnce {
		q.until = time.Now().Add(askAgain)
	}
	s.asks.mu.Unlock()
	close(q.done)
}

// recordAnswer returns what an answer amounts to. One that nobody signed, or
// that cannot be recorded, allows nothing.
func (d *Door) recordAnswer(s *snapshot, p place, a Answer, answered bool) (Verdict, string) {
	if !answered {
		return AnswerDeny, "no answer"
	}
	if a.Reason == "" {
		a.Reason = "answered when the session asked"
	}
	c := audit.Change{By: a.By, Reason: a.Reason}
	if c.Validate() != nil || a.Verdict < AnswerDeny || a.Verdict > AnswerAlways {
		return AnswerDeny, "nobody signed the answer"
	}
	t := target{host: p.host, port: p.port}
	err := d.conf.Log.Append(context.WithoutCancel(d.ctx), audit.Event{
		Kind: audit.KindPolicy, Door: audit.DoorCompute, Action: "answer", Resource: t.resource(), Actor: d.conf.Actor, Change: &c,
		Detail: map[string]string{"answer": a.Verdict.String(), "port": strconv.Itoa(int(p.port)), audit.DetailPolicyHash: s.hash},
	})
	if err != nil {
		d.conf.Logger.Error("sandbox: an answer was dropped because it could not be recorded", "host", p.host, "error", err)
		return AnswerDeny, "the answer could not be recorded"
	}
	if a.Verdict == AnswerAlways && d.conf.Suggest != nil {
		d.conf.Suggest(p.host, p.port)
	}
	return a.Verdict, "answered by " + short(a.By)
}
