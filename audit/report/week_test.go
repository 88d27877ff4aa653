package report_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/audit/report"
)

// A host is a log whose clock the test sets.
type host struct {
	*audit.Log
	t   testing.TB
	now time.Time
	mem *audittest.Memory
}

var monday = time.Date(2026, 11, 16, 8, 0, 0, 0, time.UTC)

func newHost(t testing.TB, origin string, now time.Time) *host {
	t.Helper()
	key, err := audit.NewKey(origin)
	require.NoError(t, err)
	h := &host{t: t, now: now, mem: new(audittest.Memory)}
	h.Log, err = audit.New(h.mem, &audit.Options{Key: key, Clock: func() time.Time { return h.now }})
	require.NoError(t, err)
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// log is the host's log as one of several.
func (h *host) log(origin string) report.Log {
	return report.Log{Origin: origin, Records: h.Query(ctx, audit.Filter{})}
}

func (h *host) event(ev audit.Event) {
	h.t.Helper()
	require.NoError(h.t, h.Append(ctx, ev))
	h.now = h.now.Add(time.Second)
}

func (h *host) act(in audit.Intent, out audit.Outcome) {
	h.t.Helper()
	c, err := h.Begin(ctx, in)
	require.NoError(h.t, err)
	h.now = h.now.Add(time.Second)
	require.NoError(h.t, c.End(ctx, out))
	h.now = h.now.Add(time.Second)
}

var (
	oldRules = "sha256:" + strings.Repeat("1", 64)
	newRules = "sha256:" + strings.Repeat("2", 64)
)

func deploy(hash, by, why string) audit.Event {
	return audit.Event{
		Kind: audit.KindPolicy, Door: audit.DoorAdmin, Action: "reload", Resource: fmt.Sprintf("Policy::%q", hash),
		Change: &audit.Change{By: by, Reason: why}, Detail: map[string]string{audit.DetailPolicyHash: hash},
	}
}

func register(agent, owner, profile, by, why string) audit.Event {
	return audit.Event{
		Kind: audit.KindIdentity, Door: audit.DoorAdmin, Action: "register_agent", Resource: fmt.Sprintf("Agent::%q", agent),
		Change: &audit.Change{By: by, Reason: why}, Detail: map[string]string{audit.DetailOwner: owner, audit.DetailProfile: profile},
	}
}

func keyAct(action, name, by, why string) audit.Event {
	return audit.Event{
		Kind: audit.KindCredential, Door: audit.DoorAdmin, Action: action, Resource: fmt.Sprintf("Credential::%q", name),
		Change: &audit.Change{By: by, Reason: why},
	}
}

// goldenWeek is the work of one agent from Monday to Friday.
func goldenWeek(t testing.TB) *host {
	h := newHost(t, "host7", monday)
	standup := audit.Actor{Agent: "standup", User: "ann", Profile: "standup"}
	rules := oldRules
	ids := 0
	decision := func(policies ...audit.Policy) audit.Decision {
		ids++
		return audit.Decision{ID: fmt.Sprint("d", ids), Effect: audit.Allow, Policies: policies, PolicyHash: rules}
	}
	tool := func(name, policy, credential string) audit.Intent {
		in := audit.Intent{Door: audit.DoorTool, Action: name, Resource: fmt.Sprintf("Tool::%q", name), Actor: standup,
			Decision: decision(audit.Policy{ID: policy, Position: policy + ".cedar:1:1"})}
		if credential != "" {
			in.Credential = &audit.CredentialUse{Name: credential, Decision: decision(audit.Policy{ID: "use-" + credential})}
		}
		return in
	}
	ok := audit.Outcome{Status: audit.StatusOK, Bytes: 100, CredentialVersion: 1}
	deny := func(door, action, resource string, d audit.Decision) {
		d.Effect = audit.Deny
		h.event(audit.Event{Kind: audit.KindDenial, Door: door, Action: action, Resource: resource, Actor: standup, Decision: &d})
	}

	h.event(register("standup", "ann", "standup", "olga", "T-1"))
	h.event(deploy(oldRules, "olga", "T-2"))
	h.event(keyAct("bind_credential", "github", "greg", "T-3"))
	h.event(keyAct("bind_credential", "slack", "sue", "T-4"))
	h.event(keyAct("rotate_credential", "slack", "sue", "T-5"))
	for day, work := range []struct{ standups, lists, comments, tickets, models, moves int }{
		{3, 3, 2, 1, 1, 0}, {3, 3, 2, 1, 1, 1}, {2, 3, 1, 1, 1, 1}, {2, 3, 2, 1, 1, 0}, {2, 2, 1, 1, 1, 1},
	} {
		h.now = monday.Add(time.Duration(day)*24*time.Hour + time.Hour)
		if day == 2 {
			h.event(deploy(newRules, "pipeline", "merge 417"))
			rules = newRules
		}
		for range work.lists {
			h.act(tool("github__list_prs", "readers", "github"), ok)
		}
		for range work.models {
			h.act(audit.Intent{Door: audit.DoorModel, Action: "invoke_model", Resource: `Model::"gpt-5"`, Actor: standup, Decision: decision(audit.Policy{ID: "models"})},
				audit.Outcome{Status: audit.StatusOK, Usage: &audit.Usage{Model: "gpt-5", Input: 1000, Output: 200, Final: true}})
		}
		for range work.standups {
			h.act(tool("slack__post_message", "posters", "slack"), ok)
		}
		for range work.comments {
			h.act(tool("github__comment_pr", "reviewers", "github"), ok)
		}
		for range work.tickets {
			h.act(tool("jira__get_issue", "readers", ""), ok)
		}
		for range work.moves {
			in := tool("jira__to_review", "movers", "")
			in.Decision.Approval = &audit.Approval{ID: "a", By: "tom", Reason: "looks right", Groups: []string{"leads"}, At: h.now}
			h.act(in, ok)
		}
		switch day {
		case 1:
			d := decision(audit.Policy{ID: "only-listed-channels", Position: "slack.cedar:12:1", Severity: "high"})
			d.Reason = "only-listed-channels"
			deny(audit.DoorTool, "slack__post_message", `Tool::"slack__post_message"`, d)
		case 3:
			d := decision()
			d.Reason = audit.ReasonNotInProfile + ":standup@563177727993"
			deny(audit.DoorTool, "snowflake__query", `Tool::"snowflake__query"`, d)
		case 4:
			deny(audit.DoorCompute, "connect", `Host::"example.com"`, audit.Refusal("d-net", audit.GuardUnlistedHost))
		}
	}
	return h
}

var weekPhrases = map[string]report.Phrase{
	"slack__post_message": {Did: "posted", Do: "post", One: "standup summary", Many: "standup summaries"},
	"github__comment_pr":  {Did: "commented on", Do: "comment on", One: "PR", Many: "PRs"},
	"github__list_prs":    {Did: "read", Do: "read", One: "list of PRs", Many: "lists of PRs"},
	"jira__get_issue":     {Did: "read", Do: "read", One: "ticket", Many: "tickets"},
	"jira__to_review":     {Did: "moved", Do: "move", One: "ticket to review", Many: "tickets to review"},
	"snowflake__query":    {Did: "queried", Do: "query", One: "Snowflake"},
}

func TestGoldenWeek(t *testing.T) {
	h := goldenWeek(t)
	opts := &report.Options{Title: "The week", Agent: "standup", Phrases: weekPhrases}
	s, err := report.Summarise(h.Query(ctx, audit.Filter{}), opts)
	require.NoError(t, err)
	assert.Equal(t, report.Tally{Done: 47, Denied: 3}, s.Total)
	require.Len(t, s.Agents, 1)
	a := s.Agents[0]
	var told []string
	for _, line := range a.Sentences {
		told = append(told, line.Text)
	}
	assert.Equal(t, []string{
		"read 14 lists of PRs",
		"posted 12 standup summaries",
		"commented on 8 PRs",
		"made 5 model calls (gpt-5)",
		"read 5 tickets",
		"moved 3 tickets to review",
		"tried to open 1 connection (example.com): refused: no rule allows the host (unlisted-host)",
		"tried to post 1 standup summary: denied by policy only-listed-channels (slack.cedar:12:1)",
		"tried to query Snowflake once: denied by profile standup, which does not include it",
	}, told)
	assert.Equal(t, []string{"ann"}, a.Users.List)

	var chains []string
	for _, au := range a.Authorities {
		chains = append(chains, au.String())
	}
	const who = "owner ann; profile standup; registered by olga (T-1, record 1); "
	const keys = "credential github bound by greg (T-3, record 3); credential slack bound by sue (T-4, record 4); credential slack set by sue (T-5, record 5)"
	assert.Equal(t, []string{
		who + "policy " + oldRules + "; put into force by olga (T-2, record 2); 1 call approved by tom; " + keys,
		who + "policy " + newRules + "; put into force by pipeline (merge 417, record 49); 2 calls approved by tom; " + keys,
	}, chains)
	assert.EqualValues(t, 47, a.Authorities[0].Acts+a.Authorities[1].Acts)

	assert.Equal(t, []report.ModelUse{{Model: "gpt-5", Agent: "standup", Calls: 5, Input: 5000, Output: 1000}}, s.Models)
	assert.Equal(t, []report.Egress{{Resource: `Host::"example.com"`, Agent: "standup", Denied: 1}}, s.Egress)
	require.Len(t, s.Credentials, 2)
	assert.EqualValues(t, 22, s.Credentials[0].Uses)
	assert.EqualValues(t, 12, s.Credentials[1].Uses)
	assert.Equal(t, []string{"1"}, s.Credentials[1].Versions.List)
	var allowed, denied uint64
	for _, b := range s.Timeline.Slices {
		allowed, denied = allowed+b.Allowed, denied+b.Denied
	}
	assert.EqualValues(t, 47, allowed)
	assert.EqualValues(t, 3, denied)

	var b strings.Builder
	require.NoError(t, s.HTML(&b))
	assert.Contains(t, b.String(), `<p class="lead">47 done, 3 blocked</p>`)
	assert.Contains(t, section(b.String(), "summary"), "47 0 0 0 3 0 1")
	for _, text := range told {
		assert.Contains(t, section(b.String(), "agents"), text)
	}
	for _, row := range []string{
		"compute connect 0 0 0 0 1", "model invoke_model 5 0 0 0 0 models 1, 2", "tool github__comment_pr 8 0 0 0 0 reviewers 1, 2",
		"tool github__list_prs 14 0 0 0 0 readers", "tool jira__get_issue 5 0 0 0 0 readers", "tool jira__to_review 3 0 0 0 0 movers",
		"tool slack__post_message 12 0 0 0 1 posters", "tool snowflake__query 0 0 0 0 1",
	} {
		assert.Contains(t, section(b.String(), "agents"), row)
	}
	assert.Contains(t, section(b.String(), "models"), "gpt-5 standup 5 5000 1000 0 0 0 0")
}

// Half a week is the acts of half a week, under those who authorised them then.
func TestPeriod(t *testing.T) {
	h := goldenWeek(t)
	opts := &report.Options{Phrases: weekPhrases, From: monday.Add(48 * time.Hour), To: monday.Add(96 * time.Hour)}
	s, err := report.Summarise(h.Query(ctx, audit.Filter{}), opts) // Wednesday and Thursday
	require.NoError(t, err)
	assert.Equal(t, report.Tally{Done: 9 + 9, Denied: 1}, s.Total)
	require.Len(t, s.Agents[0].Authorities, 1)
	au := s.Agents[0].Authorities[0]
	assert.Equal(t, "pipeline", au.Deployed.By)
	assert.Equal(t, "olga", au.Registered.By, "from before the period")
	assert.Empty(t, au.Missing)
	assert.Len(t, s.AdminRows.List, 1, "Monday's acts are not in the period")

	opts.From, opts.To = time.Time{}, monday
	s, err = report.Summarise(h.Query(ctx, audit.Filter{}), opts)
	require.NoError(t, err)
	assert.Zero(t, s.Records)
	assert.Empty(t, s.Agents)
}

// A call belongs to the time of its intent.
func TestOutcomeAfterThePeriod(t *testing.T) {
	h := newHost(t, "host7", monday)
	c, err := h.Begin(ctx, audit.Intent{Door: audit.DoorTool, Action: "a__b", Actor: audit.Actor{Agent: "x"}, Decision: allowed("p")})
	require.NoError(t, err)
	h.now = monday.Add(time.Hour)
	require.NoError(t, c.End(ctx, audit.Outcome{Status: audit.StatusOK}))
	for _, c := range []struct {
		from, to time.Time
		want     report.Tally
	}{
		{monday, monday.Add(time.Minute), report.Tally{Done: 1}},
		{monday.Add(time.Minute), monday.Add(2 * time.Hour), report.Tally{}},
	} {
		s, err := report.Summarise(h.Query(ctx, audit.Filter{}), &report.Options{From: c.from, To: c.to})
		require.NoError(t, err)
		assert.Equal(t, c.want, s.Total)
	}
}
