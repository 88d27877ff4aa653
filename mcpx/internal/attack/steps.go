package attack

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
)

func pass(a answer) Result             { return Result{Verdict: Pass, Reason: a.reason()} }
func fail(why string, a answer) Result { return Result{Verdict: Fail, Reason: why + ": " + a.reason()} }

// steps are cases of the client's side that take more than one request: S1, S2,
// S4, C1, C2, D2, H4.
func steps() []Case {
	stranger := func(name, method string, body bool) Case {
		return Case{ID: "S1", Name: name, Want: Refused, Guards: []string{"session"}, Era: Legacy, Other: true, Play: func(ctx context.Context, p *Player, era string) Result {
			s, err := p.base(ctx, era, p.Tool, p.Args)
			if err != nil {
				return fail(err.Error(), answer{})
			}
			if s.header[0][1] == "-" {
				return Result{Verdict: Skipped, Reason: "the endpoint has no sessions"}
			}
			if s.method = method; !body {
				s.body = ""
			}
			before := p.seen()
			a := p.fire(ctx, s, p.Other)
			if a.verdict() != refused || p.seen() != before {
				return fail("another agent uses the session", a)
			}
			return pass(a)
		}}
	}
	return []Case{
		stranger("another agent calls in this one's session", http.MethodPost, true),
		stranger("another agent listens to this one's session", http.MethodGet, false),
		stranger("another agent ends this one's session", http.MethodDelete, false),
		{ID: "S2", Name: "a session id of the client's own", Want: Refused, Guards: []string{"session"}, Era: Legacy, Header: [][2]string{{headerSession, "00000000-0000-4000-8000-000000000000"}}, Play: nil},
		{ID: "S2", Name: "a session that has ended", Want: Refused, Guards: []string{"session"}, Era: Legacy, Play: ended},
		{ID: "S2", Name: "initialize with an id that the client chose", Want: Harmless, Guards: []string{"session"}, Era: Legacy, Play: fixated},
		{ID: "S4", Name: "a made-up requestState", Want: Harmless, Era: Modern, Old: `"name":`, New: `"requestState":"AAAA","inputResponses":{"a":{"action":"accept","content":{}}},"name":`},
		{ID: "C1", Name: "lists are one agent's own", Want: Allowed, Era: Modern, Play: private},
		{ID: "C1", Name: "a cursor that the server did not give", Want: Refused, Play: cursor},
		{ID: "C2", Name: "a hidden tool answers like one that is not there", Want: Refused, Guards: []string{"unknown", "not-in-profile", "no-permit", "nothing-destroys"}, Play: oracle},
		{ID: "D2", Name: "what the client presents goes no further", Want: Allowed, Upstream: true, Play: passthrough},
		{ID: "H4", Name: "headers that only infrastructure may send", Want: Harmless, Upstream: true, Play: control},
	}
}

// fresh opens a session besides the player's own.
func (p *Player) fresh(ctx context.Context) (shot, [2]string, answer) {
	a := p.fire(ctx, p.initialize(), p.Header)
	session := [2]string{headerSession, a.header.Get(headerSession)}
	s, _ := p.base(ctx, Legacy, p.Tool, p.Args)
	s.header[0] = session
	return s, session, a
}

func ended(ctx context.Context, p *Player, _ string) Result {
	s, session, _ := p.fresh(ctx)
	if session[1] == "" {
		return Result{Verdict: Skipped, Reason: "the endpoint has no sessions"}
	}
	a := p.fire(ctx, shot{method: http.MethodDelete, header: [][2]string{session, {headerVersion, Legacy}}}, p.Header)
	if a.verdict() == refused {
		return fail("a session cannot be ended", a)
	}
	before := p.seen()
	if a = p.fire(ctx, s, p.Header); a.verdict() != refused || p.seen() != before {
		return fail("the session goes on", a)
	}
	return pass(a)
}

func fixated(ctx context.Context, p *Player, _ string) Result {
	const id = "attacker-chosen-session"
	s := p.initialize()
	s.header = [][2]string{{headerSession, id}}
	a := p.fire(ctx, s, p.Header)
	if a.verdict() == answered && a.header.Get(headerSession) == id {
		return fail("the client's id is taken", a)
	}
	return pass(a)
}

func private(ctx context.Context, p *Player, era string) Result {
	a := p.request(ctx, era, "tools/list", "", "", p.Header)
	var list struct {
		Result struct {
			CacheScope string `json:"cacheScope"`
		} `json:"result"`
	}
	if a.verdict() != answered {
		return fail("no list", a)
	}
	if r, ok := a.message(); !ok || json.Unmarshal(r, &list) != nil || list.Result.CacheScope != "private" {
		return fail("cacheScope is "+quote(list.Result.CacheScope), a)
	}
	return Result{Verdict: Pass, Reason: "cacheScope is private"}
}

func cursor(ctx context.Context, p *Player, era string) Result {
	if a := p.request(ctx, era, "tools/list", "", `"cursor":"AAAA"`, p.Header); a.verdict() != refused {
		return fail("it is taken", a)
	} else {
		return pass(a)
	}
}

// oracle compares a tool that is not listed with one that does not exist.
func oracle(ctx context.Context, p *Player, era string) Result {
	if p.Forbidden == "" {
		return Result{Verdict: Skipped, Reason: "no forbidden tool is named"}
	}
	list := p.request(ctx, era, "tools/list", "", "", p.Header)
	if strings.Contains(list.body, quote(p.Forbidden)) {
		return Result{Verdict: Skipped, Reason: "the forbidden tool is listed"}
	}
	absent := p.Forbidden[:len(p.Forbidden)-1] + "9"
	a, b := p.call(ctx, era, p.Forbidden, "{}"), p.call(ctx, era, absent, "{}")
	// Ids of events are different each time, and so only the messages are compared.
	said, _ := a.message()
	other, _ := b.message()
	if a.status != b.status || string(said) != strings.ReplaceAll(string(other), absent, p.Forbidden) {
		return fail("they differ: "+b.reason(), a)
	}
	return pass(a)
}

const clientSecret = "client-secret-5f2d"

func passthrough(ctx context.Context, p *Player, era string) Result {
	s, err := p.base(ctx, era, p.Tool, p.Args)
	if err != nil {
		return fail(err.Error(), answer{})
	}
	secrets := []string{clientSecret}
	if own := p.Header.Get("Authorization"); own != "" {
		secrets = append(secrets, strings.TrimPrefix(own, "Bearer "))
	} else {
		s.header = append(s.header, [2]string{"Authorization", "Bearer " + clientSecret})
	}
	s.header = append(s.header, [2]string{"Cookie", "session=" + clientSecret}, [2]string{"Proxy-Authorization", "Basic " + clientSecret})
	a := p.fire(ctx, s, p.Header)
	for _, secret := range secrets {
		if strings.Contains(p.Upstream.Seen(), secret) {
			return fail("the upstream got the client's credential", a)
		}
	}
	if a.verdict() != answered {
		return fail("refused", a)
	}
	return pass(a)
}

func control(ctx context.Context, p *Player, era string) Result {
	s, err := p.base(ctx, era, p.Tool, p.Args)
	if err != nil {
		return fail(err.Error(), answer{})
	}
	const mark = "control-8c1e"
	for _, name := range []string{
		"X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "X-Real-Ip", "X-Mcp-Toolname", "X-Mcp-Servername",
		"X-Mcp-Authorized", "Mcp-Init-Host", "Router-Key", "X-Vault-Tokens", "X-Original-Url", "X-Rewrite-Url", "X-Http-Method-Override", "Baggage",
	} {
		s.header = append(s.header, [2]string{name, mark})
	}
	s.body = strings.Replace(s.body, `"name":`, `"secret":"`+mark+`","name":`, 1)
	before := p.seen()
	a := p.fire(ctx, s, p.Header)
	if strings.Contains(p.Upstream.Seen(), mark) {
		return fail("the upstream got them", a)
	}
	for _, c := range p.Upstream.Calls()[before:] {
		if why := c.Forbidden(); why != "" {
			return fail(why, a)
		}
	}
	return pass(a)
}
