package agentid

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// started is a context of the agent that ends with the test.
func started(t testing.TB, r *Registry, id string) context.Context {
	t.Helper()
	actor, err := r.Actor(id)
	require.NoError(t, err)
	call, cancel, err := r.Context(context.Background(), actor)
	require.NoError(t, err)
	t.Cleanup(cancel)
	return call
}

func TestAssign(t *testing.T) {
	ctx := context.Background()
	r, log := newRegistry(t, &Options{Issuer: "https://issuer.example"})
	secret := register(t, r, "standup")
	token := issueFor(t, r, "standup", secret, tools)
	call := started(t, r, "standup")

	assert.ErrorIs(t, r.Assign(ctx, "standup", "triage", audit.Change{By: "alice"}), audit.ErrNoAuthority)
	assert.ErrorIs(t, r.Assign(ctx, "other", "triage", by), ErrUnknown)
	log.err = errors.New("disk full")
	assert.ErrorIs(t, r.Assign(ctx, "standup", "triage", by), log.err)
	a, err := r.Lookup("standup")
	require.NoError(t, err)
	assert.Equal(t, "standup", a.Profile, "no record, no power")
	log.err = nil

	log.before = func(context.Context, audit.Event) {
		a, _ := r.Lookup("standup")
		assert.Equal(t, "standup", a.Profile, "on record before it takes effect")
	}
	require.NoError(t, r.Assign(ctx, "standup", "triage", by))
	log.before = nil
	last := log.events[len(log.events)-1]
	assert.Equal(t, "assign_profile", last.Action)
	assert.Equal(t, map[string]string{"owner": "team-a", "profile": "triage", "replaces": "standup"}, last.Detail)
	assert.ErrorIs(t, context.Cause(call), ErrActor, "what ran under the old profile ends")
	actor, _, err := r.Verify(ctx, token, tools)
	require.NoError(t, err)
	assert.Equal(t, "triage", actor.Profile)
	assert.NoError(t, started(t, r, "standup").Err())
}

func TestUpdate(t *testing.T) {
	ctx := context.Background()
	r, log := newRegistry(t, &Options{Issuer: "https://issuer.example"})
	secret := register(t, r, "standup")
	call := started(t, r, "standup")
	want := Agent{ID: "standup", Owner: "team-b", Profile: "standup", CertName: "spiffe://example.org/standup", Issuer: "https://idp.example", Keys: []byte(`{"keys":[]}`)}
	require.NoError(t, r.Update(ctx, want, by))
	got, err := r.Lookup("standup")
	require.NoError(t, err)
	assert.Equal(t, want, got)
	assert.Equal(t, map[string]string{
		"owner": "team-b", "profile": "standup", "cert_name": "spiffe://example.org/standup", "issuer": "https://idp.example",
	}, log.events[1].Detail)
	assert.NoError(t, call.Err())
	issueFor(t, r, "standup", secret, tools)
	assert.Error(t, r.Update(ctx, Agent{ID: "standup"}, by), "no owner")
	assert.Error(t, r.Update(ctx, Agent{ID: "standup", Owner: "a", Keys: []byte(`{"keys":[{"kty":"oct","k":"AAAA"}]}`)}, by), "a shared secret is no public key")
	assert.ErrorIs(t, r.Update(ctx, want, audit.Change{}), audit.ErrNoAuthority)
}

func TestNewSecret(t *testing.T) {
	ctx := context.Background()
	r, _ := newRegistry(t, &Options{Issuer: "https://issuer.example"})
	old := register(t, r, "standup")
	s, err := r.NewSecret(ctx, "standup", by)
	require.NoError(t, err)
	var fresh string
	require.NoError(t, s.Use(func(b []byte) error { fresh = string(b); return nil }))
	assert.Equal(t, 401, ask(r, basic("standup", old), grant(tools)).Code)
	issueFor(t, r, "standup", fresh, tools)
	_, err = r.NewSecret(ctx, "standup", audit.Change{})
	assert.ErrorIs(t, err, audit.ErrNoAuthority)
}

func TestFreeze(t *testing.T) {
	ctx := context.Background()
	r, log := newRegistry(t, &Options{Issuer: "https://issuer.example"})
	secret := register(t, r, "standup")
	token := issueFor(t, r, "standup", secret, tools)
	call := started(t, r, "standup")
	assert.ErrorIs(t, r.Freeze(ctx, "standup", audit.Change{}), audit.ErrNoAuthority)
	assert.NoError(t, call.Err())

	log.err = errors.New("disk full")
	assert.ErrorIs(t, r.Freeze(ctx, "standup", by), ErrNotRecorded, "power is taken all the same")
	log.err = nil
	require.NoError(t, r.Freeze(ctx, "standup", by))
	assert.ErrorIs(t, context.Cause(call), audit.ErrFrozen)
	assert.ErrorIs(t, context.Cause(call), audit.ErrRevoked, "doors need not know the difference")
	_, err := r.Actor("standup")
	assert.ErrorIs(t, err, ErrFrozen)
	_, _, err = r.Verify(ctx, token, tools)
	assert.ErrorIs(t, err, ErrFrozen)
	assert.Equal(t, 401, ask(r, basic("standup", secret), grant(tools)).Code)

	require.NoError(t, r.Reinstate(ctx, "standup", by))
	_, _, err = r.Verify(ctx, token, tools)
	assert.ErrorIs(t, err, ErrRevoked, "tokens from before stay void")
	assert.NoError(t, started(t, r, "standup").Err())
	require.NoError(t, r.Freeze(ctx, "standup", by))
	require.NoError(t, r.Revoke(ctx, "standup", by))
	_, err = r.Actor("standup")
	assert.NotErrorIs(t, err, audit.ErrFrozen)
	assert.ErrorIs(t, r.Freeze(ctx, "standup", by), ErrRevoked, "there is nothing left to freeze")
}

func TestExpiry(t *testing.T) {
	ctx := context.Background()
	synctest.Test(t, func(t *testing.T) {
		r, _ := newRegistry(t, &Options{Issuer: "https://issuer.example"})
		end := time.Now().Add(2 * time.Minute)
		s, err := r.Register(ctx, Agent{ID: "temp", Owner: "team-a", Expires: end}, by)
		require.NoError(t, err)
		var secret string
		require.NoError(t, s.Use(func(b []byte) error { secret = string(b); return nil }))
		token := issueFor(t, r, "temp", secret, tools)
		_, expires, err := r.Verify(ctx, token, tools)
		require.NoError(t, err)
		assert.Equal(t, end, expires, "no token outlives its agent")
		call := started(t, r, "temp")
		time.Sleep(2*time.Minute - 1)
		assert.NoError(t, call.Err())
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		assert.ErrorIs(t, context.Cause(call), ErrLapsed)
		assert.ErrorIs(t, context.Cause(call), audit.ErrRevoked)
		_, err = r.Actor("temp")
		assert.ErrorIs(t, err, ErrLapsed)
		_, _, err = r.Verify(ctx, token, tools)
		assert.Error(t, err)
		assert.Equal(t, 401, ask(r, basic("temp", secret), grant(tools)).Code)
	})
}

// What runs ends with the registration as it is now, not as it was when it began.
func TestExpiryChanged(t *testing.T) {
	ctx := context.Background()
	synctest.Test(t, func(t *testing.T) {
		r, _ := newRegistry(t, nil)
		register(t, r, "standup")
		temp := Agent{ID: "standup", Owner: "team-a", Profile: "standup"}
		ends := func(in time.Duration) {
			t.Helper()
			temp.Expires = time.Now().Add(in)
			require.NoError(t, r.Update(ctx, temp, by))
		}
		call := started(t, r, "standup") // when it had no end
		ends(time.Minute)
		time.Sleep(time.Minute - 1)
		assert.NoError(t, call.Err())
		ends(time.Minute)
		time.Sleep(time.Second)
		synctest.Wait()
		assert.NoError(t, call.Err(), "it was put off")
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.ErrorIs(t, context.Cause(call), ErrLapsed)

		ends(time.Hour)
		call = started(t, r, "standup")
		ends(-time.Second)
		assert.ErrorIs(t, context.Cause(call), ErrLapsed, "at once")

		temp.Expires = time.Time{}
		require.NoError(t, r.Update(ctx, temp, by))
		call = started(t, r, "standup")
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		assert.NoError(t, call.Err(), "no end any more")
	})
}
