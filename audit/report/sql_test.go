//go:build unix

package report_test

import (
	"bytes"
	"cmp"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest/pgtest"
	"github.com/twinward-dev/twinward/audit/report"
)

// views are the log as tables: ask holds the one row of what is asked for, line
// the lines of the log as they are stored, and nothing else is known of it. The
// large ones are materialized: refresh says that line or ask is another.
const views = `
create table ask (agent text, lo timestamptz, hi timestamptz, width int);
create table line (r jsonb);
create view record as select r, (r->>'seq')::bigint seq, (r->>'time')::timestamptz t from line;
create materialized view act as
	select seq, t, r->'intent' i, r->'intent'->'actor'->>'agent' agent, coalesce(r->'intent'->'actor'->>'profile', '') profile,
		r->'intent'->>'door' door, r->'intent'->>'action' action, r->'intent'->>'resource' resource, o.outcome,
		case o.outcome->>'status' when 'ok' then 'done' when 'cancelled' then 'cancelled' else case when o.outcome is null then 'open' else 'failed' end end how
	from record join ask on t >= lo and t < hi and ask.agent in ('', r->'intent'->'actor'->>'agent')
	left join (select (r->>'call')::bigint call, r->'outcome' outcome from line where r ? 'outcome') o on o.call = seq
	where r ? 'intent';
create materialized view event as
	select seq, t, r->'event' e, r->'event'->>'kind' kind, coalesce(r->'event'->'actor'->>'agent', '') agent, r->'event' ? 'actor' acted,
		r->'event'->>'door' door, r->'event'->>'action' action, r->'event'->>'resource' resource,
		substring(r->'event'->>'resource' from '::"(.*)"$') name, r->'event'->'detail' detail
	from record where r ? 'event';
create materialized view refused as
	select event.*, case when detail->>'repeated' is not null then (detail->>'repeated')::bigint else 1 + coalesce((detail->>'more_before')::bigint, 0) end n,
		coalesce(e->'decision'->>'reason', '') reason, coalesce(e->'decision'->>'policy_hash', '') hash,
		(select string_agg(p->>'id', ',' order by k) from jsonb_array_elements(e->'decision'->'policies') with ordinality x(p, k)) policies
	from event join ask on t >= lo and t < hi and ask.agent in ('', event.agent) where kind = 'denial';
create materialized view done_by_people as
	select seq, kind, action, name, e->'detail'->>'policy_hash' hash, e->'detail' ? 'owner' says_owner from event where e ? 'change' and kind in ('identity', 'policy.load', 'credential');
create materialized view chain as
	select act.*, coalesce(i->'decision'->>'policy_hash', '') hash,
		(select max(seq) from done_by_people p where kind = 'identity' and says_owner and name = act.agent and p.seq < act.seq) registered,
		(select max(seq) from done_by_people p where kind = 'policy.load' and p.action in ('reload', 'promote') and hash = i->'decision'->>'policy_hash' and p.seq < act.seq) deployed,
		(select max(seq) from done_by_people p where kind = 'credential' and p.action = 'bind_credential' and name = i->'credential'->>'name' and p.seq < act.seq) bound,
		(select max(seq) from done_by_people p where kind = 'credential' and p.action = 'rotate_credential' and name = i->'credential'->>'name' and p.seq < act.seq) rotated
	from act;
create view authority as
	select chain.*, concat_ws('|', 'authority', chain.agent, coalesce(detail->>'owner', ''), coalesce(nullif(profile, ''), detail->>'profile', ''), hash, coalesce(registered, 0), coalesce(deployed, 0)) who
	from chain left join event on event.seq = registered;
`

const refresh = "refresh materialized view event; refresh materialized view act; refresh materialized view refused; refresh materialized view done_by_people; refresh materialized view chain"

// questions are the auditor's, each as rows of a key and a number.
var questions = []string{
	`select concat_ws('|', 'op', agent, door, action, how), count(*) from act group by 1`,
	`select concat_ws('|', 'op', agent, door, action, 'denied'), sum(n) from refused group by 1`,
	`select 'total|' || how, count(*) from act group by 1`,
	`select 'total|denied', sum(n) from refused having count(*) > 0`,
	`select concat_ws('|', 'agent', agent, how), count(*) from act group by 1`,
	`select concat_ws('|', 'bytes', agent, door, action), sum((outcome->>'bytes')::bigint) from act where outcome is not null group by 1`,
	`select concat_ws('|', 'allowed by', agent, door, action, string_agg(distinct p->>'id', ',' order by p->>'id')), 1 from act, jsonb_array_elements(i->'decision'->'policies') p group by agent, door, action`,
	`select concat_ws('|', 'cause', agent, door, action, resource, reason, coalesce(policies, ''), hash), sum(n) from refused group by 1`,
	`select concat_ws('|', 'refused', seq), n from refused`,
	`select concat_ws('|', 'credential', agent, i->'credential'->>'name'), count(*) from act where i ? 'credential' group by 1`,
	`select concat_ws('|', 'version', agent, i->'credential'->>'name', outcome->>'credential_version'), 1 from act where i ? 'credential' and outcome ? 'credential_version' group by 1`,
	`select concat_ws('|', 'model', agent, outcome->'usage'->>'model', k), sum(coalesce((outcome->'usage'->>k)::bigint, 0)) from act, unnest(array['input', 'output', 'cache_read', 'cache_write', 'reasoning', 'cost_micro_usd']) k where outcome ? 'usage' group by 1`,
	`select concat_ws('|', 'model', agent, outcome->'usage'->>'model', 'charged'), sum(coalesce((outcome->'usage'->>'charged_micro_usd')::bigint, (outcome->'usage'->>'cost_micro_usd')::bigint, 0)) from act where outcome ? 'usage' group by 1`,
	`select concat_ws('|', 'charged', agent), sum(coalesce((outcome->'usage'->>'charged_micro_usd')::bigint, (outcome->'usage'->>'cost_micro_usd')::bigint, 0)) from act where outcome ? 'usage' group by 1`,
	`select concat_ws('|', 'model', agent, outcome->'usage'->>'model', 'calls'), count(*) from act where outcome ? 'usage' group by 1`,
	`select concat_ws('|', 'model', agent, outcome->'usage'->>'model', 'partial'), count(*) from act where outcome->'usage'->>'final' = 'false' group by 1`,
	`select concat_ws('|', 'reached', agent, resource), count(*) from act where door = 'compute' and action = 'connect' group by 1`,
	`select concat_ws('|', 'not reached', agent, resource), sum(n) from refused where door = 'compute' and action = 'connect' group by 1`,
	`select concat_ws('|', 'open', seq), 1 from act where how = 'open'`,
	`select concat_ws('|', 'user', agent, "user"), 1 from (select agent, i->'actor'->>'user' "user" from act union all select agent, e->'actor'->>'user' from refused) x where "user" <> '' group by 1`,
	`select concat_ws('|', 'event', event.agent, kind, action), count(*) from event join ask on t >= lo and t < hi and ask.agent in ('', event.agent) where acted and kind <> 'denial' group by 1`,
	`select concat_ws('|', 'probe', seq), 1 from event join ask on t >= lo and t < hi and ask.agent in ('', event.agent) where kind in ('probe', 'credential.leak')`,
	`select concat_ws('|', 'admin', seq), 1 from event join ask on t >= lo and t < hi where e ? 'change' and kind <> 'gap' and
		case when acted then ask.agent in ('', event.agent) else ask.agent = '' or kind <> 'identity' or name = ask.agent end`,
	`select concat_ws('|', 'gap', seq), 1 from event join ask on t >= lo and t < hi where kind = 'gap' and (not acted or ask.agent in ('', event.agent))`,
	`select concat_ws('|', 'would', agent, action, w->>'source', w->>'effect', w->>'reason'), count(*) from
		(select agent, action, i->'decision' d from act union all select agent, action, e->'decision' from refused) x, jsonb_array_elements(d->'would') w group by 1`,
	`select concat_ws('|', 'time', floor((extract(epoch from t) - 345600) / width)::bigint, allowed), sum(n) from
		(select t, 'allowed' allowed, 1 n from act union all select t, 'denied', n from refused) x, ask group by 1`,
	`select who, count(*) from authority group by 1`,
	`select concat_ws('|', who, 'approved by', i->'decision'->'approval'->>'by'), count(*) from authority where i->'decision' ? 'approval' group by 1`,
	`select concat_ws('|', who, 'with', i->'credential'->>'name', coalesce(bound, 0), coalesce(rotated, 0)), count(*) from authority where i ? 'credential' group by 1`,
	`select 'read', count(*) from line`,
}

// answers are those of a summary under the same keys.
func answers(s *report.Summary) map[string]int64 {
	n := map[string]int64{}
	join := func(key ...any) string {
		words := make([]string, len(key))
		for i, k := range key {
			words[i] = fmt.Sprint(k)
		}
		return strings.Join(words, "|")
	}
	add := func(by uint64, key ...any) {
		if by > 0 {
			n[join(key...)] += int64(by)
		}
	}
	tally := func(t report.Tally, denied bool, key ...any) {
		of := func(n uint64, how string) { add(n, append(key[:len(key):len(key)], how)...) }
		of(t.Done, "done")
		of(t.Failed, "failed")
		of(t.Cancelled, "cancelled")
		of(t.Open, "open")
		if denied {
			of(t.Denied, "denied")
		}
	}
	seq := func(a *report.Act) uint64 {
		if a == nil {
			return 0
		}
		return a.Seq
	}
	tally(s.Total, true, "total")
	for _, a := range s.Agents {
		tally(a.Tally, false, "agent", a.Name)
		add(uint64(a.Charged), "charged", a.Name)
		for _, u := range a.Users.List {
			add(1, "user", a.Name, u)
		}
		for _, op := range a.Operations {
			tally(op.Tally, true, "op", a.Name, op.Door, op.Action)
			add(uint64(op.Bytes), "bytes", a.Name, op.Door, op.Action)
			if len(op.Policies.List) > 0 {
				add(1, "allowed by", a.Name, op.Door, op.Action, strings.Join(op.Policies.List, ","))
			}
		}
		for _, e := range a.Events {
			add(e.Count, "event", a.Name, e.Kind, e.Action)
		}
		for _, au := range a.Authorities {
			who := join("authority", a.Name, au.Owner, au.Profile, au.PolicyHash, seq(au.Registered), seq(au.Deployed))
			add(au.Acts, who)
			for _, p := range au.Approvals {
				add(p.Calls, who, "approved by", p.By)
			}
			for _, c := range au.Credentials {
				add(c.Uses, who, "with", c.Name, seq(c.Bound), seq(c.Rotated))
			}
		}
	}
	for _, d := range s.Denials {
		var ids []string
		for _, p := range d.Policies {
			ids = append(ids, p.ID)
		}
		add(d.Count, "cause", d.Agent, d.Door, d.Action, d.Resource, d.Reason, strings.Join(ids, ","), d.PolicyHash)
	}
	for _, c := range s.Credentials {
		add(c.Uses, "credential", c.Agent, c.Name)
		for _, v := range c.Versions.List {
			add(1, "version", c.Agent, c.Name, v)
		}
	}
	for _, m := range s.Models {
		for k, v := range map[string]int64{"input": m.Input, "output": m.Output, "cache_read": m.CacheRead, "cache_write": m.CacheWrite, "reasoning": m.Reasoning, "cost_micro_usd": m.Cost, "charged": m.Charged} {
			add(uint64(v), "model", m.Agent, m.Model, k)
		}
		add(m.Calls, "model", m.Agent, m.Model, "calls")
		add(m.Partial, "model", m.Agent, m.Model, "partial")
	}
	for _, e := range s.Egress {
		add(e.Allowed, "reached", e.Agent, e.Resource)
		add(e.Denied, "not reached", e.Agent, e.Resource)
	}
	for _, w := range s.Would {
		key := []any{"would", w.Agent, w.Action, w.Source, w.Effect}
		if w.Reason != "" {
			key = append(key, w.Reason)
		}
		add(w.Count, key...)
	}
	for word, rows := range map[string]report.Rows{"open": s.OpenRows, "probe": s.ProbeRows, "admin": s.AdminRows, "gap": s.GapRows} {
		for _, r := range rows.List {
			add(1, word, r.Record.Seq)
		}
	}
	for _, r := range s.DenialRows.List {
		add(r.Record.Event.Count(), "refused", r.Record.Seq)
	}
	for _, sl := range s.Timeline.Slices {
		i := (sl.Start.Unix() - 345600) / int64(s.Timeline.Width/time.Second)
		add(sl.Allowed, "time", i, "allowed")
		add(sl.Denied, "time", i, "denied")
	}
	add(s.Logs[0].Read, "read")
	return n
}

// randomLog is a log of some thousand records of all kinds, written by the log
// itself.
func randomLog(t *testing.T, rnd *rand.Rand, records int) *host {
	h := newHost(t, "random", monday)
	pick := func(words ...string) string { return words[rnd.IntN(len(words))] }
	var open []audit.Call
	change := func() *audit.Change {
		return &audit.Change{By: pick("olga", "greg", "sue"), Reason: pick("T-1", "T-2")}
	}
	wish := func() (list []audit.Would) {
		if rnd.IntN(6) == 0 {
			list = append(list, audit.Would{Source: audit.WouldSource(pick("shadow", "log")), Effect: audit.Effect(pick("allow", "deny")), Reason: pick("", "no-dms")})
		}
		return list
	}
	actor := func() audit.Actor {
		return audit.Actor{Agent: pick("standup", "triage", "helper", ""), User: pick("", "ann", "bob"), Profile: pick("", "standup", "triage"), Session: pick("", "s1")}
	}
	act := func() (door, action, resource string) {
		switch rnd.IntN(4) {
		case 0:
			return audit.DoorModel, pick("invoke_model", "embed"), pick(`Model::"acme/small"`, `Model::"acme/large"`)
		case 1:
			return audit.DoorCompute, pick("connect", "connect", "exec"), pick(`Host::"a.example"`, `Host::"b.example"`)
		}
		name := pick("github__list", "slack__post", "jira__get")
		return audit.DoorTool, name, fmt.Sprintf("Tool::%q", name)
	}
	for h.Size() < uint64(records) {
		h.now = h.now.Add(time.Duration(rnd.IntN(200_000)) * time.Millisecond)
		door, action, resource := act()
		switch k := rnd.IntN(20); {
		case k < 8:
			who := actor()
			who.Agent = cmp.Or(who.Agent, "standup") // nobody is allowed anything without a name
			in := audit.Intent{Door: door, Action: action, Resource: resource, Actor: who,
				Decision: audit.Decision{ID: "d", Effect: audit.Allow, PolicyHash: pick(oldRules, newRules, ""), Policies: []audit.Policy{{ID: pick("readers", "writers")}, {ID: "all"}}[:1+rnd.IntN(2)], Would: wish()}}
			if rnd.IntN(3) == 0 {
				in.Credential = &audit.CredentialUse{Name: pick("github", "slack"), Decision: allowed("use")}
			}
			if rnd.IntN(8) == 0 {
				in.Decision.Approval = &audit.Approval{ID: "a", By: pick("tom", "tim"), Reason: "yes", At: h.now}
			}
			c, err := h.Begin(ctx, in)
			require.NoError(t, err)
			open = append(open, c)
		case k < 14 && len(open) > 3:
			i := rnd.IntN(len(open))
			out := audit.Outcome{Status: audit.Status(pick("ok", "ok", "ok", "failed", "cancelled")), Bytes: int64(rnd.IntN(1000)), CredentialVersion: uint64(rnd.IntN(4))}
			if rnd.IntN(2) == 0 {
				out.Usage = &audit.Usage{Model: pick("small", "large"), Input: int64(rnd.IntN(1000)), Output: int64(rnd.IntN(100)), CacheRead: int64(rnd.IntN(3)), CacheWrite: int64(rnd.IntN(3)), Reasoning: int64(rnd.IntN(3)), Final: rnd.IntN(4) > 0, Cost: int64(rnd.IntN(1000)), Charged: int64(rnd.IntN(2) * rnd.IntN(5000))}
			}
			require.NoError(t, open[i].End(ctx, out))
			open = append(open[:i], open[i+1:]...)
		case k < 17:
			d := audit.Refusal("d", pick(audit.ReasonNoPermit, audit.GuardUnknown, "no-dms"))
			d.PolicyHash, d.Would = pick("", oldRules), wish()
			for range rnd.IntN(3) {
				d.Policies = append(d.Policies, audit.Policy{ID: pick("no-dms", "no-prod")})
			}
			ev := audit.Event{Kind: audit.KindDenial, Door: door, Action: action, Resource: resource, Actor: actor(), Decision: &d}
			if rnd.IntN(5) == 0 {
				ev.Detail = map[string]string{pick("repeated", "more_before"): fmt.Sprint(1 + rnd.IntN(100))}
			}
			times := 1
			if rnd.IntN(60) == 0 {
				times = 150 // a flood: the log begins to count
			}
			for range times {
				require.NoError(t, h.Append(ctx, ev))
			}
		case k < 18:
			require.NoError(t, h.Append(ctx, audit.Event{Kind: audit.Kind(pick("probe", "list", "sandbox.launch", "sandbox.exit", "credential.leak")), Door: door, Action: action, Resource: resource, Actor: actor(), Detail: map[string]string{audit.DetailPolicyHash: oldRules}}))
		default:
			ev := audit.Event{Door: audit.DoorAdmin, Change: change()}
			switch rnd.IntN(5) {
			case 0:
				ev = deploy(pick(oldRules, newRules), ev.Change.By, ev.Change.Reason)
				ev.Action = pick("reload", "promote", "stage")
			case 1:
				ev = register(pick("standup", "triage"), pick("ann", "bob"), pick("standup", "triage"), ev.Change.By, ev.Change.Reason)
			case 2:
				ev.Kind, ev.Action, ev.Resource = audit.KindIdentity, pick("revoke_agent", "reinstate_agent"), fmt.Sprintf("Agent::%q", pick("standup", "triage"))
			case 3:
				ev.Kind, ev.Action, ev.Resource = audit.KindCredential, pick("bind_credential", "rotate_credential"), fmt.Sprintf("Credential::%q", pick("github", "slack"))
			case 4:
				ev.Kind, ev.Action, ev.Resource = audit.Kind(pick("approval", "of-a-later-version")), "x", "y"
			}
			require.NoError(t, h.Append(ctx, ev))
		}
	}
	return h
}

// storedLines are the lines of records as the log has stored them.
func storedLines(t *testing.T, h *host) (lines []string) {
	require.NoError(t, fs.WalkDir(h.mem.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, ".jsonl") {
			return err
		}
		text, err := fs.ReadFile(h.mem.FS(), name)
		for line := range bytes.Lines(bytes.TrimRight(text, "\x00")) {
			if bytes.HasPrefix(line, []byte(`{"seq":`)) {
				lines = append(lines, string(line))
			}
		}
		return err
	}))
	return lines
}

// What the report says is what a database says about the very lines that the log
// stored, in SQL that shares nothing with it: for all of it, for one agent, and
// for a part of the time.
func TestAnswersAgreeWithSQL(t *testing.T) {
	server := pgtest.Start(t)
	db, err := pgx.Connect(ctx, server.DSN())
	require.NoError(t, err)
	defer db.Close(ctx)
	_, err = db.Exec(ctx, views)
	require.NoError(t, err)

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for name, h := range map[string]*host{
		"golden week": goldenWeek(t),
		"random":      randomLog(t, rand.New(rand.NewPCG(seed, 1)), 4000),
		"random 2":    randomLog(t, rand.New(rand.NewPCG(seed, 2)), 1500),
	} {
		_, err := db.Exec(ctx, "truncate line")
		require.NoError(t, err)
		require.NoError(t, h.Close()) // it may still have floods to count
		stored := storedLines(t, h)
		_, err = db.CopyFrom(ctx, pgx.Identifier{"line"}, []string{"r"}, pgx.CopyFromSlice(len(stored), func(i int) ([]any, error) { return []any{stored[i]}, nil }))
		require.NoError(t, err)
		middle := monday.Add(h.now.Sub(monday) / 2).Truncate(time.Millisecond)
		for _, o := range []report.Options{{}, {Agent: "standup"}, {From: middle}, {To: middle}, {Agent: "triage", From: monday.Add(h.now.Sub(monday) / 4), To: middle}} {
			what := fmt.Sprintf("%s, agent %q from %v to %v", name, o.Agent, o.From, o.To)
			o.MaxRows = 1_000_000
			s, err := report.Summarise(audit.Scan(ctx, h.mem.FS(), audit.Filter{}), &o)
			require.NoError(t, err)
			lo, hi := o.From, o.To
			if lo.IsZero() {
				lo = monday.AddDate(-1, 0, 0)
			}
			if hi.IsZero() {
				hi = monday.AddDate(10, 0, 0)
			}
			_, err = db.Exec(ctx, "delete from ask")
			require.NoError(t, err)
			_, err = db.Exec(ctx, "insert into ask values ($1, $2, $3, $4)", o.Agent, lo, hi, max(int(s.Timeline.Width/time.Second), 1))
			require.NoError(t, err)
			_, err = db.Exec(ctx, refresh)
			require.NoError(t, err)
			want := map[string]int64{}
			for _, q := range questions {
				rows, err := db.Query(ctx, "select k, coalesce(n, 0)::bigint from ("+q+") x(k, n)")
				require.NoError(t, err, q)
				var k string
				var n int64
				_, err = pgx.ForEachRow(rows, []any{&k, &n}, func() error {
					if n != 0 {
						want[k] += n
					}
					return nil
				})
				require.NoError(t, err, q)
			}
			got := answers(s)
			for k, n := range want {
				assert.Equal(t, n, got[k], "%s: %s", what, k)
			}
			for k, n := range got {
				assert.Equal(t, n, want[k], "%s: %s", what, k)
			}
			if t.Failed() {
				return
			}
			t.Logf("%s: %d answers agree", what, len(want))
		}
	}
}
