// Package embedtest shows how a test of yours embeds the vault, the engine and
// the log in memory. Nothing here needs a server, a sandbox or a file.
package embedtest

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/governance"
)

// by is the authority for what these tests set up.
var by = audit.Change{By: "a test", Reason: "it needs it"}

// newEngine returns an engine with one policy: helper may use the credential
// "github", and nobody may do anything else.
func newEngine(t *testing.T, log audit.Recorder) *governance.Engine {
	engine := governance.NewEngine(log, nil)
	_, err := engine.Reload(t.Context(), governance.Bundle{Policies: []governance.Source{{Name: "test.cedar", Text: `
		@id("helper-uses-github")
		permit (principal == Agent::"helper", action == Action::"use_credential", resource == Credential::"github");`}}}, by)
	require.NoError(t, err)
	return engine
}

// fetch is the code under test: it asks the engine, records, leases the secret
// and calls the API. It never sees the secret.
func fetch(ctx context.Context, engine *governance.Engine, log audit.Recorder, vault credential.Vault, agent, url string) (int, error) {
	actor := audit.Actor{Agent: agent}
	d, err := engine.Decide(ctx, governance.Request{Actor: actor, Action: "use_credential", Name: "github"})
	if err != nil {
		return 0, err
	}
	if !d.Allowed() {
		ev := audit.Event{Kind: audit.KindDenial, Door: audit.DoorTool, Action: d.Action, Resource: d.Resource, Actor: actor, Decision: &d.Decision}
		return 0, errors.Join(errors.New("denied"), log.Append(ctx, ev))
	}
	call, err := log.Begin(ctx, audit.Intent{Door: audit.DoorTool, Action: d.Action, Resource: d.Resource, Actor: actor, Decision: d.Decision})
	if err != nil {
		return 0, err // no audit, no action
	}
	status, err := get(ctx, vault, actor, url)
	out := audit.Outcome{Status: audit.StatusOK}
	if err != nil {
		out = audit.Outcome{Status: audit.StatusFailed, ErrorCode: "upstream-down"}
	}
	return status, errors.Join(err, call.End(ctx, out))
}

func get(ctx context.Context, vault credential.Vault, actor audit.Actor, url string) (int, error) {
	origin, err := credential.Origin(url)
	if err != nil {
		return 0, err
	}
	lease, err := vault.Lease(ctx, credential.LeaseRequest{Actor: actor, Credential: "github", Origin: origin, Purpose: "test"})
	if err != nil {
		return 0, err
	}
	defer lease.Release()
	client := http.Client{Transport: lease.Transport(http.DefaultTransport)}
	res, err := client.Get(url)
	if err != nil {
		return 0, err
	}
	return res.StatusCode, res.Body.Close()
}

// api answers 200 to the token, and 401 to everything else.
func api(t *testing.T, token *string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+*token {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func newVault(t *testing.T, url, token string) *credential.Broker {
	vault := credential.NewMemory(map[string]credential.Secret{"github": credential.NewSecret([]byte(token))})
	origin, err := credential.Origin(url)
	require.NoError(t, err)
	require.NoError(t, vault.Bind(t.Context(), "github", credential.Binding{Origin: origin}, by))
	return vault
}

func TestADenialIsOnRecordAndReachesNobody(t *testing.T) {
	log := audittest.NewLog(t)
	token := "the-first-token-of-this-test"
	url := api(t, &token)

	_, err := fetch(t.Context(), newEngine(t, log), log, newVault(t, url, token), "stranger", url)
	require.ErrorContains(t, err, "denied")

	last := log.Records()[len(log.Records())-1]
	assert.Equal(t, audit.KindDenial, last.Event.Kind)
	assert.Equal(t, audit.ReasonNoPermit, last.Decision().Reason)
}

func TestARotationNeedsNoRestart(t *testing.T) {
	log := audittest.NewLog(t)
	token := "the-first-token-of-this-test"
	url := api(t, &token)
	engine, vault := newEngine(t, log), newVault(t, url, token)

	status, err := fetch(t.Context(), engine, log, vault, "helper", url)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)

	token = "the-second-token-of-this-test"
	_, err = vault.Rotate(t.Context(), "github", credential.NewSecret([]byte(token)), by)
	require.NoError(t, err)

	status, err = fetch(t.Context(), engine, log, vault, "helper", url)
	require.NoError(t, err)
	assert.Equal(t, http.StatusOK, status)
}

func TestNothingHappensWhileTheAuditIsDown(t *testing.T) {
	log := audittest.NewLog(t)
	token := "the-first-token-of-this-test"
	url := api(t, &token)
	engine, vault := newEngine(t, log), newVault(t, url, token)

	log.Fail(errors.New("disk full"))
	status, err := fetch(t.Context(), engine, log, vault, "helper", url)
	require.ErrorContains(t, err, "disk full")
	assert.Zero(t, status, "the API must not have been called")
}
