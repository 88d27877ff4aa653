package credential_test

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/credential"
)

func processLease(t *testing.T, secret string, scheme credential.Scheme) *credential.Lease {
	t.Helper()
	origin := credential.ProcessOrigin("files")
	l, err := credential.NewLease(
		credential.LeaseRequest{Actor: actor, Credential: "files", Origin: origin},
		credential.Ref{Name: "files", Version: 1}, credential.NewSecret([]byte(secret)),
		credential.Binding{Origin: origin, Scheme: scheme}, nil)
	require.NoError(t, err)
	return l
}

// The child reads its secret and shows all of its environment, which holds
// nothing else.
func TestLeaseCommand(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there is no sh, and no descriptor to inherit")
	}
	for name, c := range map[string]struct {
		scheme credential.Scheme
		script string
		want   string
	}{
		"environment": {credential.Env("TOKEN"), `printf %s "$TOKEN"`, "some secret bytes"},
		"descriptor":  {credential.Descriptor("TOKEN_FILE"), `printf %s: "$TOKEN_FILE"; cat "$TOKEN_FILE"; cat "$TOKEN_FILE" <&-`, "/dev/fd/4:some secret bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			l := processLease(t, "some secret bytes", c.scheme)
			cmd := exec.Command("/bin/sh", "-c", c.script)
			_, err := l.Command(cmd)
			require.ErrorIs(t, err, credential.ErrEnvironment, "it would inherit this process's environment")
			cmd.Env = []string{"PATH=/usr/bin:/bin"}
			null, err := os.Open(os.DevNull)
			require.NoError(t, err)
			defer null.Close()
			cmd.ExtraFiles = []*os.File{null}
			h, err := l.Command(cmd)
			require.NoError(t, err)
			defer h.Close()
			out, err := cmd.Output()
			require.NoError(t, err)
			assert.Equal(t, c.want, string(out))
			assert.EqualValues(t, 1, l.Uses())
			l.Release()
			_, err = l.Command(cmd)
			assert.ErrorIs(t, err, credential.ErrReleased)
		})
	}
}

func TestHandoverRefuses(t *testing.T) {
	for name, scheme := range map[string]credential.Scheme{
		"no name": credential.Env(""), "a digit": credential.Env("1A"), "an equals sign": credential.Env("A=B"),
		"no path": credential.Descriptor(""), "a bearer": credential.Bearer(),
	} {
		_, err := processLease(t, "some secret bytes", scheme).Handover(3)
		assert.ErrorIs(t, err, credential.ErrScheme, name)
	}
	_, err := processLease(t, "some\x00secret", credential.Env("A")).Handover(3)
	assert.ErrorIs(t, err, credential.ErrScheme)
	_, err = processLease(t, "some secret", credential.Descriptor("A")).Handover(2)
	assert.ErrorIs(t, err, credential.ErrScheme, "that is the child's standard error")
	_, err = processLease(t, string(bytes.Repeat([]byte("x"), 16<<10+1)), credential.Descriptor("A")).Handover(3)
	assert.ErrorIs(t, err, credential.ErrLength)
	h, err := processLease(t, string(bytes.Repeat([]byte("x"), 16<<10)), credential.Descriptor("A")).Handover(3)
	require.NoError(t, err, "nobody reads yet")
	h.Close()
}

// What is for a child process cannot be sent, and what can be sent cannot be
// given to a child process.
func TestProcessAndRequestDoNotMix(t *testing.T) {
	server := serve(t, nil)
	l := leaseFor(t, server, "some secret bytes", credential.Env("A"))
	_, err := l.Handover(3)
	assert.ErrorIs(t, err, credential.ErrScheme, "it is bound to a server")
	for _, bad := range []string{"stdio://", "stdio://A", "stdio://a.b", "stdio://a/b", "stdio://a:1", "stdio://012345678901234567890123456789012"} {
		_, err := credential.NewLease(credential.LeaseRequest{Actor: actor, Credential: "k", Origin: bad}, credential.Ref{Name: "k"},
			credential.NewSecret([]byte("some secret bytes")), credential.Binding{Origin: bad}, nil)
		assert.ErrorIs(t, err, credential.ErrOrigin, bad)
	}
	_, err = credential.Origin("stdio://files")
	assert.ErrorIs(t, err, credential.ErrOrigin, "it is no URL")
}

// A lease that has ended hands nothing to a process, as it puts nothing on a
// request.
func TestHandoverOfEndedLease(t *testing.T) {
	now := time.Now()
	revoked := new(atomic.Bool)
	origin := credential.ProcessOrigin("files")
	lease := func() *credential.Lease {
		l, err := credential.NewLease(
			credential.LeaseRequest{Actor: actor, Credential: "files", Origin: origin, MaxUses: 1},
			credential.Ref{Name: "files", Version: 1}, credential.NewSecret([]byte("some secret")),
			credential.Binding{Origin: origin, Scheme: credential.Env("A")},
			&credential.LeaseOptions{Expires: now.Add(time.Minute), Now: func() time.Time { return now }, Revoked: revoked.Load})
		require.NoError(t, err)
		return l
	}
	used, l := lease(), lease()
	_, err := used.Handover(3)
	require.NoError(t, err)
	_, err = used.Handover(3)
	assert.ErrorIs(t, err, credential.ErrExpired, "it was for one use")
	assert.EqualValues(t, 1, used.Uses())
	revoked.Store(true)
	_, err = l.Handover(3)
	assert.ErrorIs(t, err, credential.ErrRevoked)
	revoked.Store(false)
	now = now.Add(time.Minute)
	_, err = l.Handover(3)
	assert.ErrorIs(t, err, credential.ErrExpired)
	assert.Zero(t, l.Uses())
}

// Whoever gave a secret to a process can tell whether that has to end.
func TestLeaseTellsOfAChildsSecret(t *testing.T) {
	revoked := new(atomic.Bool)
	lease := func(version uint64, value string) *credential.Lease {
		l, err := credential.NewLease(
			credential.LeaseRequest{Actor: actor, Credential: "k", Origin: credential.ProcessOrigin("s")},
			credential.Ref{Name: "k", Version: version}, credential.NewSecret([]byte(value)),
			credential.Binding{Origin: credential.ProcessOrigin("s"), Scheme: credential.Env("TOKEN")},
			&credential.LeaseOptions{Revoked: revoked.Load})
		require.NoError(t, err)
		return l
	}
	l := lease(1, "the value of it")
	assert.True(t, l.Same(lease(1, "the value of it")))
	assert.False(t, l.Same(lease(2, "the value of it")))
	assert.False(t, l.Same(lease(1, "another value")))
	l.Release()
	assert.False(t, l.Revoked())
	revoked.Store(true)
	assert.True(t, l.Revoked())
}
