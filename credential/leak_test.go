package credential_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
)

func TestLeakReport(t *testing.T) {
	vault := credential.NewMemory(map[string]credential.Secret{"github": credential.NewSecret([]byte("github-secret-bytes"))})
	_, err := vault.Rotate(t.Context(), "github", credential.NewSecret([]byte("github-second-bytes")), by)
	require.NoError(t, err)
	text := "github-secret-bytes github-second-bytes " + base64.StdEncoding.EncodeToString([]byte("github-second-bytes"))
	_, found := vault.Scrubber().Redact([]byte(text))
	at := audit.Event{Door: audit.DoorTool, Action: "call", Resource: `Tool::"x"`, Actor: actor}

	log := &journal{}
	require.NoError(t, credential.LeakPolicy{}.Report(t.Context(), log, at, "result", found))
	require.Len(t, log.events, 2, "one for each version")
	want := at
	want.Kind, want.Detail = audit.KindLeak, map[string]string{
		"credential": "github", "version": "2", "surface": "result", "encoding": "base64 raw", "found": "2",
	}
	assert.Equal(t, want, log.events[1])
	assert.Equal(t, "1", log.events[0].Detail["version"])
	b, err := json.Marshal(log.events)
	require.NoError(t, err)
	credentialtest.AssertNoLeak(t, vault.Scrubber(), b)
	assert.Equal(t, []string{"scrubbed:github:3"}, found.Checks())

	t.Run("nothing found", func(t *testing.T) {
		log := &journal{}
		require.NoError(t, credential.LeakPolicy{Block: true}.Report(t.Context(), log, at, "result", nil))
		assert.Empty(t, log.events)
	})
	t.Run("a log that fails, or none", func(t *testing.T) {
		boom := errors.New("disk full")
		err := credential.LeakPolicy{}.Report(t.Context(), &journal{err: boom}, at, "result", found)
		require.ErrorIs(t, err, boom)
		assert.NotErrorIs(t, err, credential.ErrLeak)
		assert.ErrorIs(t, credential.LeakPolicy{}.Report(t.Context(), nil, at, "result", found), audit.ErrNoLog)
	})
	t.Run("block", func(t *testing.T) {
		log := &journal{}
		require.ErrorIs(t, credential.LeakPolicy{Block: true}.Report(t.Context(), log, at, "result", found), credential.ErrLeak)
		assert.Len(t, log.events, 2, "recorded all the same")
	})
	t.Run("revoked by itself", func(t *testing.T) {
		log := &journal{}
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // the agent has left; what must be done is done
		p := credential.LeakPolicy{Act: func(ctx context.Context, l credential.Leak) error {
			require.NotEmpty(t, log.events, "on record before anything happens")
			assert.False(t, l.Canary())
			if l.Ref.Version == 1 {
				return nil // not in use
			}
			return vault.Revoke(ctx, l.Ref, audit.Change{By: "leak policy", Reason: "found in " + l.Event.Resource})
		}}
		require.NoError(t, p.Report(ctx, log, at, "result", found))
		_, err := vault.Lease(t.Context(), credential.LeaseRequest{Actor: actor, Credential: "github", Origin: "https://a.example"})
		assert.ErrorIs(t, err, credential.ErrNoCurrent)
		assert.ErrorIs(t, p.Report(ctx, log, at, "result", found), credential.ErrLeak, "what fails withholds the answer")
	})
}

func TestCanary(t *testing.T) {
	log := &journal{}
	store := credential.NewMemoryStore(nil)
	vault, err := credential.NewBroker(store, log, nil)
	require.NoError(t, err)
	defer vault.Close()
	_, _, err = vault.Canary(t.Context(), "wiki", "ghp_", audit.Change{})
	require.Error(t, err, "by whom?")
	ref, secret, err := vault.Canary(t.Context(), "wiki", "ghp_", by)
	require.NoError(t, err)
	assert.Equal(t, "canary/wiki@1", ref.String())
	assert.True(t, ref.Canary())
	require.Len(t, log.events, 1)
	var text string
	require.NoError(t, secret.Use(func(b []byte) error { text = string(b); return nil }))
	assert.Regexp(t, `^ghp_[A-Za-z0-9]{36}$`, text)

	t.Run("nobody uses it", func(t *testing.T) {
		require.NoError(t, vault.Bind(t.Context(), ref.Name, credential.Binding{Origin: "https://a.example"}, by))
		require.ErrorIs(t, vault.Promote(t.Context(), ref, by), credential.ErrCanary)
		ask := credential.LeaseRequest{Actor: actor, Credential: ref.Name, Origin: "https://a.example"}
		_, err := vault.Lease(t.Context(), ask)
		require.ErrorIs(t, err, credential.ErrCanary)
		_, err = credential.NewLease(ask, ref, secret, credential.Binding{Origin: "https://a.example"}, nil)
		require.ErrorIs(t, err, credential.ErrCanary)
	})
	t.Run("to see it is an alarm, also after a restart", func(t *testing.T) {
		again, err := credential.NewBroker(store, log, nil)
		require.NoError(t, err)
		defer again.Close()
		require.NoError(t, again.Preload(t.Context()))
		for _, v := range []*credential.Broker{vault, again} {
			out, found := v.Scrubber().Redact([]byte("the key is " + text))
			assert.Equal(t, "the key is [redacted:wiki]", string(out), "the thief is not told what it was")
			assert.True(t, found.Canary())
			journal, alarmed := &journal{}, 0
			p := credential.LeakPolicy{Act: func(_ context.Context, l credential.Leak) error {
				if l.Canary() {
					alarmed++
				}
				return nil
			}}
			require.NoError(t, p.Report(t.Context(), journal, audit.Event{Door: audit.DoorModel, Actor: actor}, "answer", found))
			require.Len(t, journal.events, 1)
			assert.Equal(t, audit.KindCanary, journal.events[0].Kind)
			assert.Equal(t, "canary/wiki", journal.events[0].Detail["credential"])
			assert.Equal(t, 1, alarmed)
		}
	})
}

func TestScrubberHeader(t *testing.T) {
	var s credential.Scrubber
	require.NoError(t, s.Add("k", credential.NewSecret([]byte("secret-0123456789"))))
	clean := http.Header{"A": {"x", "y"}}
	got, found := s.Header(clean)
	assert.Equal(t, clean, got)
	assert.Empty(t, found)
	got, found = s.Header(http.Header{"A": {"x", "a secret-0123456789"}, "X-Secret-0123456789": {"v"}, "secret-0123456789": {"v"}})
	assert.Equal(t, http.Header{"A": {"x", "a [redacted:k]"}, "X-Secret-0123456789": {"v"}}, got)
	assert.Equal(t, map[string]int{"k": 2}, found.Names())
}
