package openbao

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/credential/internal/vaulttest"
)

// role returns a login as a new role whose tokens live for ttl, and at most max.
func role(t *testing.T, v *vaulttest.Server, ttl, most string) Login {
	t.Helper()
	id, secretID := v.AppRole(t, ttl, most)
	return AppRole(id, secret(secretID))
}

// folder returns a folder that no other test uses.
func folder() string { return fmt.Sprintf("t%d", time.Now().UnixNano()) }

// open returns a store in a folder of its own, logged in by AppRole.
func open(t *testing.T, v *vaulttest.Server, opts Options) *Store {
	t.Helper()
	if opts.Folder == "" {
		opts.Folder = folder()
	}
	s, err := New(v.Address, AppRole(v.RoleID, secret(v.SecretID)), &opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}
