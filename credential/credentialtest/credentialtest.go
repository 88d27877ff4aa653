// Package credentialtest helps programs that embed a vault to test themselves:
// vaults whose secrets are canaries bound to a test server, a vault that fails
// on demand, and an assertion that no secret was let out.
package credentialtest

import (
	"context"
	"crypto/rand"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
)

// by is the authority that this package's own acts name.
var by = audit.Change{By: "credentialtest", Reason: "set up by a test"}

// Canary returns a random secret text of 40 characters that occurs nowhere
// else.
func Canary() string { return "canary-" + strings.ToLower(rand.Text()) + "-" + rand.Text()[:6] }

// NewVault returns a vault with the given secrets, each bound to the origin of
// server and sent as a bearer token. A nil server leaves them unbound.
func NewVault(t testing.TB, server *httptest.Server, secrets map[string]string) *credential.Broker {
	t.Helper()
	held := make(map[string]credential.Secret, len(secrets))
	for name, v := range secrets {
		held[name] = credential.NewSecret([]byte(v))
	}
	vault := credential.NewMemory(held)
	if server == nil {
		return vault
	}
	for name := range secrets {
		if err := vault.Bind(context.Background(), name, credential.Binding{Origin: server.URL}, by); err != nil {
			t.Fatalf("credentialtest: %v", err)
		}
	}
	return vault
}

// A Counter finds secrets: [credential.Scrubber], which [credential.Broker] and
// every lease have.
type Counter interface {
	Count(b []byte) map[string]int
}

// AssertNoLeak fails the test if any of the captured bytes (output, logs,
// responses, environment) holds a secret that c knows, in any of the encodings
// that a [credential.Scrubber] finds. It reports names and counts, never the
// secret, and returns whether all was well.
func AssertNoLeak(t testing.TB, c Counter, captured ...[]byte) bool {
	t.Helper()
	clean := true
	for i, b := range captured {
		found := c.Count(b)
		for _, name := range slices.Sorted(maps.Keys(found)) {
			clean = false
			t.Errorf("secret %q leaked: %d times in capture %d of %d (%d bytes)", name, found[name], i+1, len(captured), len(b))
		}
	}
	return clean
}

// A Vault stands before another one, remembers what was asked of it, and fails
// on demand. It is safe for concurrent use.
type Vault struct {
	next credential.Vault

	mu     sync.Mutex
	err    error
	asked  []credential.LeaseRequest
	leases []*credential.Lease
}

// Wrap returns a Vault before next. With a nil next every lease is
// [credential.ErrUnknown].
func Wrap(next credential.Vault) *Vault {
	if next == nil {
		next = credential.NewMemory(nil)
	}
	return &Vault{next: next}
}

// Fail makes every later Lease fail with err, until Fail(nil).
func (v *Vault) Fail(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.err = err
}

// Lease implements [credential.Vault].
func (v *Vault) Lease(ctx context.Context, r credential.LeaseRequest) (*credential.Lease, error) {
	v.mu.Lock()
	v.asked = append(v.asked, r)
	err := v.err
	v.mu.Unlock()
	if err != nil {
		return nil, err
	}
	l, err := v.next.Lease(ctx, r)
	if err == nil {
		v.mu.Lock()
		v.leases = append(v.leases, l)
		v.mu.Unlock()
	}
	return l, err
}

// Asked returns all requests so far, also those that failed.
func (v *Vault) Asked() []credential.LeaseRequest {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.asked)
}

// Leases returns all leases that were handed out, for a test to see how often
// each was used and whether it was released.
func (v *Vault) Leases() []*credential.Lease {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.leases)
}
