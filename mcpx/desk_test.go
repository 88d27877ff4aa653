package mcpx_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/mcpx"
	"github.com/twinward-dev/twinward/mcpx/mcptest"
)

// An office is a gateway whose approvals are given at a desk, behind a login
// that believes the X-User header.
type office struct {
	*world
	desk  *mcpx.Desk
	pages *httptest.Server
	now   time.Time
	told  []string
}

var staff = map[string][]string{"lena": {"staff", "lead"}, "mo": {"staff"}, "sue": {"lead"}, "pat": {"lead", "security"}}

func newOffice(t *testing.T, policies string) *office {
	o := &office{now: time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)}
	o.pages = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { o.desk.ServeHTTP(w, r) }))
	t.Cleanup(o.pages.Close)
	late := &lateRecorder{}
	var err error
	o.desk, err = mcpx.NewDesk(late, o.pages.URL+"/approvals", func(r *http.Request) (mcpx.Person, error) {
		user := r.Header.Get("X-User")
		if user == "" {
			return mcpx.Person{}, errors.New("not signed in")
		}
		return mcpx.Person{Name: user, Groups: staff[user]}, nil
	}, &mcpx.DeskOptions{
		Life: time.Hour, Good: 10 * time.Minute,
		Now: func() time.Time { return o.now },
		Ask: func(r mcpx.ApprovalRequest, page string) { o.told = append(o.told, r.Tool+" "+page) },
	})
	require.NoError(t, err)
	o.world = newWorld(t, &setup{policy: policies, options: func(opts *mcpx.GatewayOptions) { opts.Approver = o.desk }})
	late.Recorder = o.log
	return o
}

type lateRecorder struct{ audit.Recorder }

// visit is a person's browser.
func (o *office) visit(user, method, page string, form url.Values, header ...string) (int, string) {
	r, err := http.NewRequest(method, page, strings.NewReader(form.Encode()))
	require.NoError(o.t, err)
	if user != "" {
		r.Header.Set("X-User", user)
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	require.NoError(o.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(o.t, err)
	return resp.StatusCode, string(b)
}

var tokenField = regexp.MustCompile(`name="token" value="([0-9a-f]+)"`)

// answer opens a page and answers it.
func (o *office) answer(user, page, answer, reason string) (int, string) {
	code, body := o.visit(user, http.MethodGet, page, nil)
	if code != http.StatusOK {
		return code, body
	}
	token := ""
	if m := tokenField.FindStringSubmatch(body); m != nil {
		token = m[1]
	}
	return o.visit(user, http.MethodPost, page, url.Values{"token": {token}, "answer": {answer}, "reason": {reason}})
}

// pageOf reads the address that an agent is told.
func pageOf(t testing.TB, res *mcp.CallToolResult) string {
	t.Helper()
	_, rest, ok := strings.Cut(mcptest.Text(res), " to open ")
	require.True(t, ok, mcptest.Text(res))
	page, _, _ := strings.Cut(rest, ",")
	return page
}

func (o *office) call(a *mcptest.Agent, args string) *mcp.CallToolResult {
	o.t.Helper()
	res, err := a.Call(o.t.Context(), slackTo, args)
	require.NoError(o.t, err)
	return res
}

// The agent is told the page and to come again; a lead agrees there; the same
// call then goes through, once.
func TestDesk(t *testing.T) {
	eras(t, func(t *testing.T, version string) {
		o := newOffice(t, withApproval)
		a := o.agent(carlBot, version)
		first := o.call(a, announce)
		d := denial(t, first)
		assert.Equal(t, []any{"approval", true}, []any{d.Reason, d.Retryable})
		page := pageOf(t, first)
		assert.Equal(t, []string{"post_message " + page}, o.told)
		assert.Equal(t, page, pageOf(t, o.call(a, announce)), "it is asked once")
		assert.Len(t, o.told, 1)

		code, body := o.visit("", http.MethodGet, page, nil)
		assert.Equal(t, http.StatusUnauthorized, code)
		assert.NotContains(t, body, "#general")
		code, body = o.visit("mo", http.MethodGet, page, nil)
		assert.Equal(t, http.StatusNotFound, code)
		assert.NotContains(t, body, "#general")
		code, body = o.visit("lena", http.MethodGet, page, nil)
		assert.Equal(t, http.StatusOK, code)
		assert.Contains(t, body, "#general")
		assert.Contains(t, body, d.DecisionID)

		mark := o.mark()
		code, body = o.answer("lena", page, "yes", "looks right")
		require.Equal(t, http.StatusOK, code, body)
		ev := o.since(mark)[0].Event
		assert.Equal(t, audit.KindApproval, ev.Kind)
		assert.Equal(t, &audit.Change{By: "lena", Reason: "looks right"}, ev.Change)
		assert.Equal(t, map[string]string{"verdict": "yes", "decision": d.DecisionID, "groups": "lead"}, ev.Detail)
		code, _ = o.answer("sue", page, "no", "too late")
		assert.NotEqual(t, http.StatusOK, code, "answered already")

		assert.Empty(t, o.slack.Calls())
		res := o.call(a, announce)
		require.Equal(t, "posted to #general", mcptest.Text(res))
		assert.Equal(t, "lena", intent(t, o.world, slackTo).Decision.Approval.By)
		again := o.call(a, announce)
		assert.Equal(t, "approval", denial(t, again).Reason, "once")
		assert.NotEqual(t, page, pageOf(t, again))
		assert.Len(t, o.slack.Calls(), 1)
	})
}

// X3 at the desk: agree, then change something.
func TestDeskThenChange(t *testing.T) {
	o := newOffice(t, withApproval)
	a := o.agent(carlBot, modern)
	agreed := func() {
		t.Helper()
		code, body := o.answer("lena", pageOf(t, o.call(a, announce)), "yes", "ok")
		require.Equal(t, http.StatusOK, code, body)
	}
	refused := func(name string, a *mcptest.Agent, args string) {
		t.Helper()
		assert.Equal(t, "approval", denial(t, o.call(a, args)).Reason, name)
		assert.Empty(t, o.slack.Calls(), name)
	}
	agreed()
	refused("arguments", a, `{"channel":"#general","text":"hello "}`)
	refused("bytes of the arguments", a, `{"text":"hello","channel":"#general"}`)
	refused("actor", o.agent(other, modern), announce)
	refused("user", o.agent(doraBot, modern), announce)
	o.now = o.now.Add(10 * time.Minute)
	refused("expiry", a, announce)
	agreed()
	o.reload(t, policy+withApproval+`@id("more") permit (principal, action == Action::"snowflake__query", resource);`)
	refused("policy", a, announce)

	agreed()
	after := newOffice(t, withApproval)
	assert.Equal(t, "approval", denial(t, after.call(after.agent(carlBot, modern), announce)).Reason, "restart")

	o.now = o.now.Add(time.Minute)
	assert.Equal(t, "posted to #general", mcptest.Text(o.call(a, announce)), "nothing changed")
}

// A no stands, so that an agent cannot ask until somebody is tired of it.
func TestDeskNo(t *testing.T) {
	o := newOffice(t, withApproval)
	a := o.agent(carlBot, modern)
	page := pageOf(t, o.call(a, announce))
	code, _ := o.answer("sue", page, "no", "never")
	require.Equal(t, http.StatusOK, code)
	for range 2 {
		res := o.call(a, announce)
		assert.Equal(t, "approval", denial(t, res).Reason)
		assert.False(t, denial(t, res).Retryable)
		assert.Equal(t, map[string]string{"by": "sue", "reason": "never"}, o.last().Event.Detail)
	}
	assert.Len(t, o.told, 1)
	o.now = o.now.Add(time.Hour)
	assert.NotEqual(t, page, pageOf(t, o.call(a, announce)), "the question has ended")
}

// What a browser can be made to send from elsewhere is no answer.
func TestDeskForgery(t *testing.T) {
	o := newOffice(t, withApproval)
	a := o.agent(carlBot, modern)
	page := pageOf(t, o.call(a, announce))
	other := pageOf(t, o.call(a, `{"channel":"#general","text":"other"}`))
	token := func(user, page string) string {
		_, body := o.visit(user, http.MethodGet, page, nil)
		m := tokenField.FindStringSubmatch(body)
		require.NotNil(t, m, body)
		return m[1]
	}
	good := url.Values{"token": {token("lena", page)}, "answer": {"yes"}, "reason": {"r"}}
	with := func(key string, v ...string) url.Values {
		f := url.Values{}
		for k := range good {
			f[k] = good[k]
		}
		f[key] = v
		return f
	}
	mark := o.mark()
	for name, c := range map[string]struct {
		user, method, page string
		form               url.Values
		header             []string
	}{
		"no token":                  {"lena", "POST", page, with("token"), nil},
		"token of another question": {"lena", "POST", page, with("token", token("lena", other)), nil},
		"token of another person":   {"lena", "POST", page, with("token", token("sue", page)), nil},
		"token used by another":     {"sue", "POST", page, good, nil},
		"two tokens":                {"lena", "POST", page, with("token", good.Get("token"), good.Get("token")), nil},
		"cross-site":                {"lena", "POST", page, good, []string{"Sec-Fetch-Site", "cross-site"}},
		"other origin":              {"lena", "POST", page, good, []string{"Sec-Fetch-Site", "", "Origin", "https://evil.example"}},
		"in the query":              {"lena", "POST", page + "?" + good.Encode(), nil, nil},
		"by GET":                    {"lena", "GET", page + "?" + good.Encode(), nil, nil},
		"not in the group":          {"mo", "POST", page, good, nil},
		"not signed in":             {"", "POST", page, good, nil},
		"two answers":               {"lena", "POST", page, with("answer", "yes", "no"), nil},
		"no reason":                 {"lena", "POST", page, with("reason", "  "), nil},
		"no answer":                 {"lena", "POST", page, with("answer", "maybe"), nil},
		"another page":              {"lena", "POST", page[:len(page)-1], good, nil},
		"method":                    {"lena", "PUT", page, good, nil},
	} {
		code, body := o.visit(c.user, c.method, c.page, c.form, c.header...)
		if c.method != "GET" {
			assert.GreaterOrEqual(t, code, 400, "%s: %s", name, body)
		}
		assert.Empty(t, o.since(mark), name)
		assert.Contains(t, mcptest.Text(o.call(a, announce)), page, name)
		mark = o.mark()
	}
	o.log.Fail(errors.New("disk full"))
	code, _ := o.visit("lena", "POST", page, good)
	assert.Equal(t, http.StatusServiceUnavailable, code, "what is not on record does not count")
	o.log.Fail(nil)
	assert.Equal(t, "approval", denial(t, o.call(a, announce)).Reason)
	code, _ = o.visit("lena", "POST", page, good)
	assert.Equal(t, http.StatusOK, code)
	assert.Equal(t, "posted to #general", mcptest.Text(o.call(a, announce)))
}

// Who agrees has to be of all the groups.
func TestDeskGroups(t *testing.T) {
	o := newOffice(t, withApproval+`@id("more") @approval("security") permit (principal, action == Action::"slack__post_message", resource) when { context.args.channel == "#general" };`)
	a := o.agent(carlBot, modern)
	page := pageOf(t, o.call(a, announce))
	code, body := o.visit("lena", http.MethodGet, page, nil)
	assert.Equal(t, http.StatusOK, code)
	assert.Contains(t, body, "You may say no, but not yes.")
	code, _ = o.answer("lena", page, "yes", "ok")
	assert.Equal(t, http.StatusForbidden, code)
	code, _ = o.answer("pat", page, "yes", "ok")
	assert.Equal(t, http.StatusOK, code)
	assert.Equal(t, "posted to #general", mcptest.Text(o.call(a, announce)))
	assert.Equal(t, []string{"lead", "security"}, intent(t, o.world, slackTo).Decision.Approval.Groups)
}

// The page shows what would be sent, and nothing of it is markup.
func TestDeskShowsEverything(t *testing.T) {
	o := newOffice(t, withApproval)
	a := o.agent(carlBot, modern)
	page := pageOf(t, o.call(a, `{"channel":"#general","text":"<script>alert(1)</script>\u202e\u200b`+"\u2066"+`"}`))
	_, body := o.visit("lena", http.MethodGet, page, nil)
	assert.NotContains(t, body, "<script>")
	assert.Contains(t, body, "&lt;script&gt;")
	assert.Contains(t, body, `\u2066`)
	assert.NotContains(t, body, "\u2066")
}

// Questions are bounded for each actor.
func TestDeskIsBounded(t *testing.T) {
	o := newOffice(t, withApproval)
	a := o.agent(carlBot, modern)
	for i := range 16 {
		pageOf(t, o.call(a, fmt.Sprintf(`{"channel":"#general","text":"%d"}`, i)))
	}
	assert.Contains(t, mcptest.Text(o.call(a, announce)), "none could be asked")
	pageOf(t, o.call(o.agent(other, modern), announce))
	o.now = o.now.Add(time.Hour)
	pageOf(t, o.call(a, announce))
}

// A client that shows pages shows this one, and the call waits for the answer.
func TestDeskByElicitation(t *testing.T) {
	eras(t, func(t *testing.T, version string) {
		o := newOffice(t, withApproval)
		action, reply := "accept", "yes"
		client := &mcp.ClientOptions{
			Capabilities: &mcp.ClientCapabilities{Elicitation: &mcp.ElicitationCapabilities{URL: &mcp.URLElicitationCapabilities{}}},
			ElicitationHandler: func(_ context.Context, r *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
				if action == "accept" {
					code, body := o.answer("lena", r.Params.URL, reply, "seen")
					assert.Equal(t, 200, code, body)
				}
				return &mcp.ElicitResult{Action: action}, nil
			},
		}
		a := connectAs(t, o.world, carlBot, version, client)
		if version == legacy {
			_, err := a.Call(t.Context(), slackTo, announce)
			require.ErrorContains(t, err, "URL elicitation required", "the client shows it and calls again")
			page := regexp.MustCompile(regexp.QuoteMeta(o.pages.URL) + `/approvals/\w+`).FindString(string(a.Seen()))
			code, body := o.answer("lena", page, "yes", "seen")
			require.Equal(t, 200, code, body)
			assert.Equal(t, "posted to #general", mcptest.Text(o.call(a, announce)))
			return
		}
		assert.Equal(t, "posted to #general", mcptest.Text(o.call(a, announce)))
		reply = "no"
		assert.Equal(t, "approval", denial(t, o.call(a, announce)).Reason)
		action = "decline"
		assert.Equal(t, "approval", denial(t, o.call(a, `{"channel":"#general","text":"x"}`)).Reason)
		assert.Len(t, o.slack.Calls(), 1)
	})
}

func TestNewDesk(t *testing.T) {
	who := func(*http.Request) (mcpx.Person, error) { return mcpx.Person{}, nil }
	log := audittest.NewLog(t)
	for _, base := range []string{"", "/x", "http://host.example/x", "https://u:p@host.example/", "https://host.example/?q", "ftp://host.example"} {
		_, err := mcpx.NewDesk(log, base, who, nil)
		assert.ErrorIs(t, err, mcpx.ErrDesk, base)
	}
	_, err := mcpx.NewDesk(nil, "https://host.example/x", who, nil)
	assert.ErrorIs(t, err, mcpx.ErrDesk)
	_, err = mcpx.NewDesk(log, "https://host.example/x", nil, nil)
	assert.ErrorIs(t, err, mcpx.ErrDesk)
	_, err = mcpx.NewDesk(log, "https://host.example/x", who, nil)
	assert.NoError(t, err)
}
