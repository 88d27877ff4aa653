package credentialtest_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
)

// A user's test of its own door: the service gets the secret, the agent does
// not.
func TestDoor(t *testing.T) {
	canary := credentialtest.Canary()
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "Bearer "+canary, r.Header.Get("Authorization"))
		_, _ = io.WriteString(w, "you said "+r.Header.Get("Authorization"))
	}))
	defer api.Close()
	vault := credentialtest.NewVault(t, api, map[string]string{"github": canary})
	lease, err := vault.Lease(t.Context(), credential.LeaseRequest{
		Actor: audit.Actor{Agent: "standup"}, Credential: "github", Origin: api.URL,
	})
	require.NoError(t, err)
	defer lease.Release()
	resp, err := (&http.Client{Transport: lease.Transport(nil)}).Get(api.URL)
	require.NoError(t, err)
	defer resp.Body.Close()
	seen, err := io.ReadAll(vault.Scrubber().Reader(resp.Body))
	require.NoError(t, err)
	credentialtest.AssertNoLeak(t, vault.Scrubber(), seen)
}

func TestFailingVault(t *testing.T) {
	ctx := context.Background()
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	vault := credentialtest.Wrap(credentialtest.NewVault(t, server, map[string]string{"k": credentialtest.Canary()}))
	ask := credential.LeaseRequest{Actor: audit.Actor{Agent: "standup"}, Credential: "k", Origin: server.URL}
	boom := errors.New("vault is down")
	vault.Fail(boom)
	_, err := vault.Lease(ctx, ask)
	assert.ErrorIs(t, err, boom)
	vault.Fail(nil)
	l, err := vault.Lease(ctx, ask)
	require.NoError(t, err)
	assert.Equal(t, []credential.LeaseRequest{ask, ask}, vault.Asked())
	assert.Equal(t, []*credential.Lease{l}, vault.Leases())
	_, err = credentialtest.Wrap(nil).Lease(ctx, ask)
	assert.ErrorIs(t, err, credential.ErrUnknown)
}

func TestAssertNoLeakSeesALeak(t *testing.T) {
	canary := credentialtest.Canary()
	scrubber := credentialtest.NewVault(t, nil, map[string]string{"k": canary}).Scrubber()
	mock := &recordTB{TB: t}
	assert.False(t, credentialtest.AssertNoLeak(mock, scrubber, []byte("fine"), []byte("<"+canary+">")))
	assert.Equal(t, 1, mock.errors)
	assert.True(t, credentialtest.AssertNoLeak(mock, scrubber, []byte("fine")))
}

type recordTB struct {
	testing.TB
	errors int
}

func (r *recordTB) Helper()               {}
func (r *recordTB) Errorf(string, ...any) { r.errors++ }
