package report_test

import (
	"context"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/audit/report"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/agentid"
	"github.com/twinward-dev/twinward/governance"
)

// What the engine, the registry and the vault write is what the chain is read
// from.
func TestChainOfTheRealWriters(t *testing.T) {
	log := audittest.NewLog(t)
	reg, err := agentid.NewRegistry(log, nil)
	require.NoError(t, err)
	_, err = reg.Register(ctx, agentid.Agent{ID: "standup", Owner: "ann"}, audit.Change{By: "olga", Reason: "T-1"})
	require.NoError(t, err)
	actor, err := reg.Actor("standup")
	require.NoError(t, err)
	engine := governance.NewEngine(log, nil)
	_, err = engine.Reload(ctx, governance.Bundle{
		Policies: []governance.Source{{Name: "p.cedar", Text: `@id("models") permit (principal, action == Action::"invoke_model", resource);`}},
	}, audit.Change{By: "pipeline", Reason: "merge 7"})
	require.NoError(t, err)
	store := credential.NewMemoryStore(map[string]credential.Secret{"model-key": credential.NewSecret([]byte("a secret of some length"))})
	vault, err := credential.NewBroker(store, log, nil)
	require.NoError(t, err)
	defer vault.Close()
	require.NoError(t, vault.Bind(ctx, "model-key", credential.Binding{Origin: "https://models.example", Scheme: credential.Bearer()}, audit.Change{By: "greg", Reason: "T-2"}))
	_, err = vault.Rotate(ctx, "model-key", credential.NewSecret([]byte("another secret, as long")), audit.Change{By: "sue", Reason: "T-3"})
	require.NoError(t, err)

	d, err := engine.Decide(ctx, governance.Request{Actor: actor, Action: "invoke_model", Server: "acme", Name: "small"})
	require.NoError(t, err)
	require.True(t, d.Allowed(), "%+v", d)
	call(t, log, audit.Intent{Door: audit.DoorModel, Action: d.Action, Resource: d.Resource, Actor: actor, Decision: d.Decision,
		Credential: &audit.CredentialUse{Name: "model-key", Decision: d.Decision}}, &audit.Outcome{Status: audit.StatusOK})

	next := governance.Bundle{Policies: []governance.Source{{Name: "p.cedar", Text: `@id("all-models") permit (principal, action == Action::"invoke_model", resource);`}}}
	_, err = engine.Stage(ctx, next, audit.Change{By: "sue", Reason: "T-4"})
	require.NoError(t, err)
	require.NoError(t, engine.Promote(ctx, engine.Staged().Hash(), audit.Change{By: "tom", Reason: "T-5"}))
	d, err = engine.Decide(ctx, governance.Request{Actor: actor, Action: "invoke_model", Server: "acme", Name: "small"})
	require.NoError(t, err)
	call(t, log, audit.Intent{Door: audit.DoorModel, Action: d.Action, Resource: d.Resource, Actor: actor, Decision: d.Decision}, &audit.Outcome{Status: audit.StatusOK})

	s, err := report.Summarise(log.Query(ctx, audit.Filter{}), nil)
	require.NoError(t, err)
	require.Len(t, s.Agents, 1)
	require.Len(t, s.Agents[0].Authorities, 2)
	assert.Equal(t, "tom", s.Agents[0].Authorities[1].Deployed.By)
	assert.Equal(t, engine.Hash(), s.Agents[0].Authorities[1].PolicyHash)
	au := s.Agents[0].Authorities[0]
	assert.Empty(t, au.Missing)
	assert.Equal(t, "ann", au.Owner)
	assert.Equal(t, "olga", au.Registered.By)
	assert.Equal(t, "pipeline", au.Deployed.By)
	require.Len(t, au.Credentials, 1)
	assert.Equal(t, "greg", au.Credentials[0].Bound.By)
	assert.Equal(t, "sue", au.Credentials[0].Rotated.By)
}

// No operation is without a chain, and a chain that is not whole says so.
func TestEveryActHasAChainOrSaysWhatIsMissing(t *testing.T) {
	s, err := report.Summarise(sampleLog(t).Query(ctx, audit.Filter{}), nil)
	require.NoError(t, err)
	acts := uint64(0)
	for _, a := range s.Agents {
		for _, op := range a.Operations {
			if op.Allowed() > 0 {
				assert.NotEmpty(t, op.Authorities, op.Action)
			}
			for _, n := range op.Authorities {
				require.Less(t, n, len(a.Authorities))
			}
		}
		for _, au := range a.Authorities {
			acts += au.Acts
			whole := au.Registered != nil && au.Deployed != nil
			for _, c := range au.Credentials {
				whole = whole && (c.Bound != nil || c.Rotated != nil)
			}
			assert.Equal(t, whole, len(au.Missing) == 0)
		}
	}
	assert.Equal(t, s.Total.Allowed(), acts)
	missing := s.Agents[0].Authorities[0].Missing
	require.Len(t, missing, 3)
	assert.Contains(t, missing[0], "No registration of this agent is on record before record 1")
	assert.Contains(t, missing[1], "name no policy set")
	assert.Contains(t, missing[2], `Who granted the credential "github" is not on record`)
}

// An agent is as it was registered at the time, not as it is at the end.
func TestOwnerAsOfThen(t *testing.T) {
	h := newHost(t, "h", monday)
	in := audit.Intent{Door: audit.DoorTool, Action: "a__b", Actor: audit.Actor{Agent: "x", Profile: "p"}, Decision: allowed("readers")}
	in.Decision.PolicyHash = oldRules
	h.event(deploy(oldRules, "olga", "T-1"))
	h.act(in, audit.Outcome{Status: audit.StatusOK})
	h.event(register("x", "ann", "p", "olga", "T-2"))
	h.act(in, audit.Outcome{Status: audit.StatusOK})
	h.event(register("x", "bob", "p", "olga", "T-3"))
	h.event(deploy(oldRules, "pipeline", "again"))
	h.act(in, audit.Outcome{Status: audit.StatusOK})
	h.event(audit.Event{Kind: audit.KindIdentity, Door: audit.DoorAdmin, Action: "revoke_agent", Resource: `Agent::"x"`, Change: &audit.Change{By: "eve", Reason: "left"}})
	h.act(in, audit.Outcome{Status: audit.StatusOK})
	s, err := report.Summarise(h.Query(ctx, audit.Filter{}), nil)
	require.NoError(t, err)
	var owners, deployers []string
	for _, au := range s.Agents[0].Authorities {
		owners = append(owners, au.Owner)
		deployers = append(deployers, au.Deployed.By)
	}
	assert.Equal(t, []string{"", "ann", "bob"}, owners)
	assert.Equal(t, []string{"olga", "olga", "pipeline"}, deployers)
	assert.Equal(t, []int{0, 1, 2}, s.Agents[0].Operations[0].Authorities)
}

// What is staged is not in force, and what is promoted is.
func TestStagedIsNotInForce(t *testing.T) {
	h := newHost(t, "h", monday)
	in := audit.Intent{Door: audit.DoorTool, Action: "a__b", Actor: audit.Actor{Agent: "x"}, Decision: allowed("readers")}
	in.Decision.PolicyHash = newRules
	h.event(register("x", "ann", "p", "olga", "T-1"))
	for _, action := range []string{"stage", "unstage", "publish"} {
		ev := deploy(newRules, "eve", "T-2")
		ev.Action = action
		h.event(ev)
	}
	h.act(in, audit.Outcome{Status: audit.StatusOK})
	ev := deploy(newRules, "olga", "T-3")
	ev.Action, ev.Detail[audit.DetailAuthor], ev.Detail[audit.DetailReviewer] = audit.ActionPromote, "ann", "tom"
	h.event(ev)
	h.act(in, audit.Outcome{Status: audit.StatusOK})
	s, err := report.Summarise(h.Query(ctx, audit.Filter{}), nil)
	require.NoError(t, err)
	au := s.Agents[0].Authorities
	require.Len(t, au, 2)
	assert.Equal(t, []string{"That this policy was put into force is not on record before record 5."}, au[0].Missing)
	assert.Equal(t, "owner ann; registered by olga (T-1, record 1); policy "+newRules+"; put into force by olga (T-3, record 7); signed by ann; reviewed by tom", strings.Replace(au[1].String(), "profile p; ", "", 1))
}

// A sandbox that asks no engine has a policy of its own, which nobody signed
// for; the report says where it came from.
func TestSandboxPolicy(t *testing.T) {
	h := newHost(t, "h", monday)
	actor := audit.Actor{Agent: "x"}
	h.event(register("x", "ann", "", "olga", "T-2"))
	h.event(audit.Event{Kind: audit.KindLaunch, Door: audit.DoorCompute, Action: "launch", Resource: `Sandbox::"s"`, Actor: actor, Detail: map[string]string{audit.DetailPolicyHash: oldRules}})
	d := allowed("net")
	d.PolicyHash = oldRules
	h.act(audit.Intent{Door: audit.DoorCompute, Action: "connect", Resource: `Host::"a"`, Actor: actor, Decision: d}, audit.Outcome{Status: audit.StatusOK})
	s, err := report.Summarise(h.Query(ctx, audit.Filter{}), nil)
	require.NoError(t, err)
	assert.Equal(t, []string{"The policy is a sandbox's own, in force with the launch in record 2: who wrote it is not on record."}, s.Agents[0].Authorities[0].Missing)
}

// Two hosts, one story: registered on the first, acting on the second, whose
// numbers are the same.
func TestLogsOfManyHosts(t *testing.T) {
	a := newHost(t, "host-a", monday)
	b := newHost(t, "host-b", monday.Add(10*time.Second))
	in := audit.Intent{Door: audit.DoorTool, Action: "a__b", Actor: audit.Actor{Agent: "x"}, Decision: allowed("readers")}
	in.Decision.PolicyHash = oldRules
	a.event(register("x", "ann", "p", "olga", "T-1"))
	a.event(deploy(oldRules, "olga", "T-2"))
	b.event(deploy(oldRules, "pipeline", "T-3"))
	a.now = monday.Add(time.Hour)
	a.act(in, audit.Outcome{Status: audit.StatusOK})
	for range 3 {
		b.act(in, audit.Outcome{Status: audit.StatusFailed})
	}
	_, err := b.Begin(ctx, in) // record 8, whose number host-a does not have
	require.NoError(t, err)
	for _, logs := range [][]report.Log{{a.log("host-a"), b.log("host-b")}, {b.log("host-b"), a.log("host-a")}} {
		s, err := report.SummariseLogs(logs, nil)
		require.NoError(t, err)
		assert.Equal(t, report.Tally{Done: 1, Failed: 3, Open: 1}, s.Total)
		require.Len(t, s.Agents[0].Authorities, 2)
		for _, au := range s.Agents[0].Authorities {
			assert.Empty(t, au.Missing)
			assert.Equal(t, "record 1 of host-a", au.Registered.Ref.String())
			want := map[string]string{"host-a": "olga", "host-b": "pipeline"}[au.First.Origin]
			assert.Equal(t, want, au.Deployed.By, "each host has its own deployment")
		}
		assert.Equal(t, "record 8 of host-b", s.OpenRows.List[0].Ref().String())
	}
	_, err = report.SummariseLogs([]report.Log{a.log("same"), b.log("same")}, nil)
	assert.ErrorContains(t, err, `two logs have the name "same"`)

	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	for i := range 2 {
		logs := []report.Log{a.log("a"), b.log("b")}
		logs[i].Records = a.Query(cancelled, audit.Filter{})
		_, err = report.SummariseLogs(logs, nil)
		assert.ErrorIs(t, err, context.Canceled)
	}
}

// Records of several logs come by time, of one log in its own order.
func TestMergeKeepsTheOrderOfEachLog(t *testing.T) {
	at := func(seq uint64, minutes int) audit.Record {
		d := audit.Refusal("d", audit.GuardUnknown)
		return audit.Record{Seq: seq, Time: monday.Add(time.Duration(minutes) * time.Minute), Event: &audit.Event{Kind: audit.KindDenial, Actor: audit.Actor{Agent: "x"}, Decision: &d}}
	}
	of := func(recs ...audit.Record) iter.Seq2[audit.Record, error] {
		return func(yield func(audit.Record, error) bool) {
			for _, r := range recs {
				if !yield(r, nil) {
					return
				}
			}
		}
	}
	s, err := report.SummariseLogs([]report.Log{
		{Origin: "a", Records: of(at(1, 10), at(2, 1), at(3, 12))}, // its clock was set back
		{Origin: "b", Records: of(at(1, 2), at(2, 11))},
		{Origin: "c", Records: of()},
	}, nil)
	require.NoError(t, err)
	var order []string
	for _, r := range s.DenialRows.List {
		order = append(order, r.Ref().String())
	}
	assert.Equal(t, []string{"record 1 of b", "record 1 of a", "record 2 of a", "record 2 of b", "record 3 of a"}, order)
	assert.EqualValues(t, 3, s.Logs[0].Read)
	assert.Equal(t, monday.Add(time.Minute), s.First)
}
