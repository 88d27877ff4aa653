package credential_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
)

// A journal is a log that remembers, and fails on demand.
type journal struct {
	audit.Recorder
	mu     sync.Mutex
	events []audit.Event
	err    error
	before func()
}

func (j *journal) Append(_ context.Context, ev audit.Event) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.before != nil {
		j.before()
	}
	if j.err == nil {
		j.events = append(j.events, ev)
	}
	return j.err
}

func TestMemoryLease(t *testing.T) {
	ctx := context.Background()
	vault := credential.NewMemory(map[string]credential.Secret{
		"github": credential.NewSecret([]byte("github-secret-bytes")),
		"slack":  credential.NewSecret([]byte("slack-secret-bytes")),
		"short":  credential.NewSecret([]byte("short")),
	})
	ask := func(name, origin string) (*credential.Lease, error) {
		return vault.Lease(ctx, credential.LeaseRequest{Actor: actor, Credential: name, Origin: origin})
	}
	_, err := ask("github", "https://api.github.com")
	require.ErrorIs(t, err, credential.ErrUnbound, "bound to nothing by default")
	require.NoError(t, vault.Bind(ctx, "github", credential.Binding{Origin: "https://API.github.com:443"}, by))
	require.NoError(t, vault.Bind(ctx, "short", credential.Binding{Origin: "https://api.github.com"}, by))

	l, err := ask("github", "https://api.github.com")
	require.NoError(t, err)
	assert.Equal(t, credential.Ref{Name: "github", Version: 1}, l.Ref())
	assert.Equal(t, map[string]int{"github": 1, "slack": 1}, l.Scrubber().Count([]byte("github-secret-bytes slack-secret-bytes")),
		"a lease's scrubber knows the whole vault")

	_, err = ask("github", "https://api.github.com:8443")
	require.ErrorIs(t, err, credential.ErrOrigin)
	_, err = ask("gitlab", "https://api.github.com")
	require.ErrorIs(t, err, credential.ErrUnknown)
	_, err = ask("slack", "https://slack.com")
	require.ErrorIs(t, err, credential.ErrUnbound)
	_, err = ask("short", "https://api.github.com")
	require.ErrorIs(t, err, credential.ErrLength)
	assert.ErrorContains(t, err, "short")

	done, cancel := context.WithCancel(ctx)
	cancel()
	_, err = vault.Lease(done, credential.LeaseRequest{Actor: actor, Credential: "github", Origin: "https://api.github.com"})
	require.ErrorIs(t, err, context.Canceled)
}

func TestMemoryBind(t *testing.T) {
	vault := credentialtest.NewVault(t, nil, map[string]string{"k": "some-secret-bytes"})
	assert.ErrorIs(t, vault.Bind(t.Context(), "k", credential.Binding{Origin: "https://a.example"}, audit.Change{By: "alice"}), audit.ErrNoAuthority)
	assert.ErrorIs(t, vault.Bind(t.Context(), "k", credential.Binding{Origin: "https://a.example/path"}, by), credential.ErrOrigin)
	assert.ErrorIs(t, vault.Bind(t.Context(), "k", credential.Binding{Origin: "http://a.example"}, by), credential.ErrOrigin)
	assert.ErrorIs(t, vault.Bind(t.Context(), "k", credential.Binding{}, by), credential.ErrOrigin)
	assert.ErrorIs(t, vault.Bind(t.Context(), "other", credential.Binding{Origin: "https://a.example"}, by), credential.ErrUnknown)
	_, err := vault.Lease(context.Background(), credential.LeaseRequest{Actor: actor, Credential: "k", Origin: "https://a.example"})
	assert.ErrorIs(t, err, credential.ErrUnbound, "none of these bound it")
}

func TestMemoryRotate(t *testing.T) {
	old, fresh := credentialtest.Canary(), credentialtest.Canary()
	server := serve(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header.Get("Authorization")) })
	vault := credentialtest.NewVault(t, server, map[string]string{"k": old})
	send := func(l *credential.Lease) string {
		resp, err := (&http.Client{Transport: l.Transport(nil)}).Get(server.URL)
		require.NoError(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return string(b)
	}
	lease := func() *credential.Lease {
		l, err := vault.Lease(context.Background(), credential.LeaseRequest{Actor: actor, Credential: "k", Origin: server.URL})
		require.NoError(t, err)
		return l
	}
	before := lease()
	ref, err := vault.Rotate(t.Context(), "k", credential.NewSecret([]byte(fresh)), by)
	require.NoError(t, err)
	assert.Equal(t, credential.Ref{Name: "k", Version: 2}, ref)
	after := lease()
	assert.Equal(t, ref, after.Ref())
	assert.Equal(t, "Bearer "+fresh, send(after))
	assert.Equal(t, "Bearer "+old, send(before), "a lease keeps its version")
	for _, s := range []*credential.Scrubber{before.Scrubber(), after.Scrubber(), vault.Scrubber()} {
		assert.Equal(t, map[string]int{"k": 2}, s.Count([]byte(old+" "+fresh)))
	}

	for _, c := range []struct {
		name  string
		value string
		by    audit.Change
		want  error
	}{
		{"k", "another secret", audit.Change{Reason: "x"}, audit.ErrNoAuthority},
		{"k", "short", by, credential.ErrLength},
		{"k", "", by, credential.ErrDestroyed},
		{"other", "another secret", by, credential.ErrUnknown},
	} {
		ref, err := vault.Rotate(t.Context(), c.name, credential.NewSecret([]byte(c.value)), c.by)
		assert.ErrorIs(t, err, c.want)
		assert.Zero(t, ref)
	}
	assert.Equal(t, "Bearer "+fresh, send(lease()), "none of these took effect")
}

func TestMemoryRecords(t *testing.T) {
	ctx := context.Background()
	store := credential.NewMemoryStore(map[string]credential.Secret{"k": credential.NewSecret([]byte("some-secret-bytes"))})
	log := &journal{}
	vault, err := credential.NewBroker(store, log, nil)
	require.NoError(t, err)
	defer vault.Close()
	ask := credential.LeaseRequest{Actor: actor, Credential: "k", Origin: "https://a.example"}
	log.before = func() {
		_, err := vault.Lease(ctx, ask)
		assert.ErrorIs(t, err, credential.ErrUnbound, "on record before it takes effect")
	}
	require.NoError(t, vault.Bind(ctx, "k", credential.Binding{Origin: "https://a.example"}, by))
	log.before = nil
	_, err = vault.Rotate(ctx, "k", credential.NewSecret([]byte("other-secret-bytes")), by)
	require.NoError(t, err)
	require.Len(t, log.events, 2)
	assert.Equal(t, audit.Event{
		Kind: audit.KindCredential, Door: audit.DoorAdmin, Action: "bind_credential", Resource: `Credential::"k"`,
		Change: &by, Detail: map[string]string{"origin": "https://a.example"},
	}, log.events[0])
	assert.Equal(t, "rotate_credential", log.events[1].Action)
	assert.Equal(t, map[string]string{"version": "2"}, log.events[1].Detail)

	log.err = errors.New("disk full")
	require.ErrorIs(t, vault.Bind(ctx, "k", credential.Binding{Origin: "https://b.example"}, by), log.err)
	_, err = vault.Rotate(ctx, "k", credential.NewSecret([]byte("third-secret-bytes")), by)
	require.ErrorIs(t, err, log.err)
	l, err := vault.Lease(ctx, ask)
	require.NoError(t, err, "no record, no act: the binding is the old one")
	assert.EqualValues(t, 2, l.Ref().Version)

	unlogged, err := credential.NewBroker(store, nil, nil)
	require.NoError(t, err)
	defer unlogged.Close()
	require.ErrorIs(t, unlogged.Bind(ctx, "k", credential.Binding{Origin: "https://b.example"}, by), audit.ErrNoLog)
}

func TestMemoryConcurrently(t *testing.T) {
	ctx := context.Background()
	vault := credential.NewMemory(map[string]credential.Secret{"k": credential.NewSecret([]byte("secret-version-1"))})
	require.NoError(t, vault.Bind(ctx, "k", credential.Binding{Origin: "https://a.example"}, by))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			var last uint64
			for range 200 {
				l, err := vault.Lease(ctx, credential.LeaseRequest{Actor: actor, Credential: "k", Origin: "https://a.example"})
				if assert.NoError(t, err) {
					assert.GreaterOrEqual(t, l.Ref().Version, last)
					last = l.Ref().Version
					text := fmt.Sprintf("secret-version-%d", last)
					assert.Equal(t, 1, l.Scrubber().Count([]byte(text))["k"], "never leased before the scrubber knows it")
				}
			}
		})
	}
	for v := 2; v <= 40; v++ {
		_, err := vault.Rotate(ctx, "k", credential.NewSecret(fmt.Appendf(nil, "secret-version-%d", v)), by)
		require.NoError(t, err)
	}
	wg.Wait()
}

func BenchmarkLease(b *testing.B) {
	vault := credential.NewMemory(map[string]credential.Secret{"k": credential.NewSecret([]byte("secret-version-1"))})
	require.NoError(b, vault.Bind(context.Background(), "k", credential.Binding{Origin: "https://a.example"}, by))
	ask := credential.LeaseRequest{Actor: actor, Credential: "k", Origin: "https://a.example"}
	b.ReportAllocs()
	for b.Loop() {
		l, err := vault.Lease(context.Background(), ask)
		if err != nil {
			b.Fatal(err)
		}
		l.Release()
	}
}
