// Package attack is a corpus of attacks on governed MCP endpoints, and a player
// that fires it at one: raw HTTP requests, since no client library would send
// them. mcpx's own tests play it, and so does the command twinward-attack.
//
// # How a case is judged
//
// By what reached the upstream, where that can be seen: put an [Upstream] behind
// the endpoint. It notes each call byte for byte, and takes one as forbidden if
// any JSON parser would read it so. Where it cannot be seen, the endpoint's
// answers must do; such results are marked, and what only an upstream could tell
// is [Unclear].
//
// After each case the same agent makes one permitted call, because an endpoint
// that refuses everything, or whose session dies of a refusal, is no use.
package attack

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// The two eras of the protocol: with sessions, and without.
const (
	Legacy = "2025-11-25"
	Modern = "2026-07-28"
)

// A Target is an endpoint and what one agent may do there.
type Target struct {
	// URL is the endpoint's. Header is what the agent presents, such as
	// Authorization.
	URL    string
	Header http.Header
	// Other is what another agent presents, who may do the same. Nil leaves out
	// the cases that need two.
	Other http.Header
	// Tool with Args, a JSON object, is a call that is permitted, as long as the
	// member Key of Args, a string, is what it is there. With the value Bad it is
	// forbidden. Empty Key and Bad leave out the cases about arguments.
	Tool, Args, Key, Bad string
	// Forbidden is a tool that exists and that the agent must not call.
	Forbidden string
	// Prefix is what the endpoint puts before the names of Upstream's tools.
	Prefix string
	// Plain has the client of the older era declare no capabilities.
	Plain bool
	// Upstream is behind the endpoint; nil where it cannot be seen.
	Upstream *Upstream
}

// Behind is the target at url with u behind it, in front of which policy lets an
// agent post to #engineering, pay at most 1000, and read.
func Behind(u *Upstream, url, prefix string) Target {
	return Target{
		URL: url, Prefix: prefix, Upstream: u,
		Tool: prefix + "post", Args: `{"channel":"` + goodChannel + `","text":"x"}`, Key: "channel", Bad: "#executive",
		Forbidden: prefix + "erase",
	}
}

// What a case expects.
type Want string

// The expectations of cases.
const (
	Refused  Want = "refused"  // and nothing reaches the upstream
	Harmless Want = "harmless" // refused or not, nothing forbidden reaches it
	Allowed  Want = "allowed"  // and arrives once and unchanged
)

// A Case is one attack, as data or, where it takes several steps, as Play.
//
// In its texts $tool and $forbidden stand for the names of the target's tools,
// $prefix for what is before them, $args for the good arguments, $good and $bad
// for the member that decides, such as "channel":"#executive", $key and $value
// for the halves of the bad one, without quotes, and $escaped for $key with an
// escape sequence in it.
type Case struct {
	// ID is the row of the corpus, Name says what is special here.
	ID, Name string
	Want     Want
	// Guards are the reasons that Twinward's audit log may give.
	Guards []string
	// Era is [Legacy], [Modern], or empty for both.
	Era string

	// Tool and Args are called instead of the permitted ones.
	Tool, Args string
	// Old and New replace a part of the message.
	Old, New string
	// Body is sent instead.
	Body string
	// Method is the HTTP method, if not POST.
	Method string
	// Header replaces headers of the request, or adds to them when a name occurs
	// again; "-" removes one.
	Header [][2]string
	// Raw are lines of a head that Go's client would not write.
	Raw []string

	// Play does what takes more than one request.
	Play func(ctx context.Context, p *Player, era string) Result

	// Argument, Upstream and Other say what of the target the case needs.
	Argument, Upstream, Other bool
}

// A Verdict is how a case ended.
type Verdict string

// The verdicts.
const (
	Pass    Verdict = "pass"
	Fail    Verdict = "FAIL"
	Unclear Verdict = "unclear" // only the upstream could tell
	Skipped Verdict = "skipped" // the target lacks what the case needs
)

// A Result is what came of a case.
type Result struct {
	ID      string  `json:"id"`
	Case    string  `json:"case"`
	Era     string  `json:"era"`
	Want    Want    `json:"expected"`
	Verdict Verdict `json:"result"`
	// Reason is what the endpoint said, or what is wrong.
	Reason string `json:"reason"`
	// Seen says that the upstream was looked at.
	Seen bool `json:"upstream_seen"`
}

// A Player fires cases at one target, one after another.
type Player struct {
	Target
	client   *http.Client
	sessions map[string][2]string // of the older era, by identity
	words    *strings.Replacer
	good     string // the deciding member of Args
	eras     []string
	token    string // what the endpoint presents to the upstream
}

// NewPlayer finds out which eras the target speaks. It is an error when the
// permitted call does not work, since then nothing can be learned.
func NewPlayer(ctx context.Context, t Target) (*Player, error) {
	if t.URL == "" || t.Tool == "" {
		return nil, fmt.Errorf("attack: a URL and a permitted tool are needed")
	}
	p := &Player{Target: t, client: &http.Client{Transport: &http.Transport{DisableCompression: true}, CheckRedirect: noRedirect}, sessions: map[string][2]string{}}
	p.Args = cmp.Or(p.Args, "{}")
	if t.Key != "" {
		var err error
		if p.good, err = memberOf(t.Args, t.Key); err != nil {
			return nil, err
		}
	}
	quoted := quote(t.Bad)
	p.words = strings.NewReplacer("$tool", t.Tool, "$forbidden", cmp.Or(t.Forbidden, "$forbidden"), "$prefix", t.Prefix, "$args", p.Args,
		"$good", p.good, "$bad", quote(t.Key)+":"+quoted, "$escaped", escapeFirst(t.Key), "$key", t.Key, "$value", strings.Trim(quoted, `"`))
	var why string
	for _, era := range []string{Legacy, Modern} {
		a := p.call(ctx, era, p.Tool, p.Args)
		if a.verdict() == answered {
			p.eras = append(p.eras, era)
			continue
		}
		why += fmt.Sprintf("\n%s: %s", era, a.reason())
	}
	if len(p.eras) == 0 {
		return nil, fmt.Errorf("attack: the permitted call of %q does not work:%s", t.Tool, why)
	}
	if t.Upstream != nil && len(t.Upstream.Calls()) == 0 {
		return nil, fmt.Errorf("attack: the permitted call of %q worked, but not at this upstream: put the endpoint in front of it", t.Tool)
	}
	if t.Upstream != nil {
		p.token = t.Upstream.Calls()[0].Header.Get("Authorization")
	}
	return p, nil
}

// Close forgets the player's connections.
func (p *Player) Close() { p.client.CloseIdleConnections() }

// Eras are those that the target speaks, of those that c is about.
func (p *Player) Eras(c Case) []string {
	if c.Era == "" {
		return p.eras
	}
	if slices.Contains(p.eras, c.Era) {
		return []string{c.Era}
	}
	return nil
}

// Play plays one case in one era, and then makes a permitted call.
func (p *Player) Play(ctx context.Context, c Case, era string) Result {
	r := Result{ID: c.ID, Case: c.Name, Era: era, Want: c.Want, Seen: p.Upstream != nil}
	if lack := p.lacks(c); lack != "" {
		r.Verdict, r.Reason = Skipped, lack
		return r
	}
	if c.Play != nil {
		got := c.Play(ctx, p, era)
		r.Verdict, r.Reason = got.Verdict, got.Reason
	} else {
		r.Verdict, r.Reason = p.fireAt(ctx, c, era)
	}
	if p.Upstream != nil {
		p.Upstream.Behave(nil)
	}
	if r.Verdict == Fail {
		return r
	}
	before := p.seen()
	if a := p.call(ctx, era, p.Tool, p.Args); a.verdict() != answered {
		r.Verdict, r.Reason = Fail, "a permitted call afterwards was refused: "+a.reason()
	} else if got := p.seen() - before; p.Upstream != nil && got != 1 {
		r.Verdict, r.Reason = Fail, fmt.Sprintf("a permitted call afterwards reached the upstream %d times", got)
	}
	return r
}

func (p *Player) lacks(c Case) string {
	switch {
	case c.Argument && p.Bad == "":
		return "no argument decides here"
	case c.Upstream && p.Upstream == nil:
		return "needs the upstream of this command behind the endpoint"
	case c.Other && p.Other == nil:
		return "needs another agent"
	case strings.Contains(c.Tool+c.New+c.Body, "$forbidden") && p.Forbidden == "":
		return "no forbidden tool is named"
	}
	return ""
}

// seen counts the calls at the upstream so far.
func (p *Player) seen() int {
	if p.Upstream == nil {
		return 0
	}
	return len(p.Upstream.Calls())
}

// fireAt plays a case that is one request.
func (p *Player) fireAt(ctx context.Context, c Case, era string) (Verdict, string) {
	s, err := p.shot(ctx, c, era)
	if err != nil {
		return Fail, err.Error()
	}
	before := p.seen()
	a := p.fire(ctx, s, p.Header)
	if p.Upstream == nil {
		switch v := a.verdict(); {
		case c.Want == Allowed && v == answered, c.Want != Allowed && v == refused:
			return Pass, a.reason()
		case c.Want == Harmless || v == silent:
			return Unclear, a.reason()
		}
		return Fail, a.reason()
	}
	calls := p.Upstream.Calls()[before:]
	for _, call := range calls {
		if why := call.Forbidden(); why != "" {
			return Fail, "reached the upstream: " + why
		}
	}
	switch {
	case c.Want == Harmless:
		return Pass, a.reason()
	case c.Want == Refused && len(calls) > 0:
		return Fail, "reached the upstream: " + clip(string(calls[0].Arguments), 80)
	case c.Want == Refused && a.verdict() == answered:
		return Fail, "answered as if it were done: " + a.reason()
	case c.Want == Refused:
		return Pass, a.reason()
	case a.verdict() != answered:
		return Fail, "refused: " + a.reason()
	case len(calls) != 1:
		return Fail, fmt.Sprintf("reached the upstream %d times", len(calls))
	}
	want := p.words.Replace(cmp.Or(c.Args, p.Args))
	if !sameJSON([]byte(want), calls[0].Arguments) {
		return Fail, "arrived changed: " + clip(string(calls[0].Arguments), 120)
	}
	return Pass, a.reason()
}
