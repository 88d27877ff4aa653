package filevault

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential"
)

// An operator rotates in the file while a host makes calls: the host follows
// without a restart, and no call fails.
func TestHostFollowsRotations(t *testing.T) {
	rotations := 5
	switch {
	case os.Getenv("TWINWARD_SOAK") == "1":
		rotations = 200
	case os.Getenv("TWINWARD_FULL") == "1":
		rotations = 20
	}
	ctx, by := t.Context(), audit.Change{By: "alice", Reason: "OPS-1"}
	value := func(i int) string { return fmt.Sprintf("the-value-of-version-%d", i) }
	var accepted sync.Map
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := accepted.Load(r.Header.Get("Authorization")); !ok {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer server.Close()

	kek := newKEK(t)
	theirs, path := newVault(t, kek, nil)
	operator, err := credential.NewBroker(theirs, audittest.NewLog(t), nil)
	require.NoError(t, err)
	defer operator.Close()
	rotate := func(i int) {
		accepted.Store("Bearer "+value(i), true)
		ref, err := operator.Put(ctx, "k", credential.NewSecret([]byte(value(i))), "", by)
		require.NoError(t, err)
		require.NoError(t, operator.Promote(ctx, ref, by))
		require.EqualValues(t, i, ref.Version)
	}
	rotate(1)
	require.NoError(t, operator.BindSpec(ctx, "k", credential.BindingSpec{Origin: server.URL, Type: credential.TypeBearer}, by))

	log := audittest.NewLog(t)
	ours, err := Open(ctx, path, kek, &Options{Witness: LogWitness(log), Poll: time.Millisecond})
	require.NoError(t, err)
	host, err := credential.NewBroker(ours, log, nil)
	require.NoError(t, err)
	defer host.Close()

	stop := make(chan struct{})
	var callers sync.WaitGroup
	var failed, calls atomic.Int64
	var done [3]atomic.Uint64 // the version that each caller's last call had
	call := func() (uint64, error) {
		l, err := host.Lease(ctx, credential.LeaseRequest{Actor: audit.Actor{Agent: "a"}, Credential: "k", Origin: server.URL})
		if err != nil {
			return 0, err
		}
		defer l.Release()
		resp, err := (&http.Client{Transport: l.Transport(nil)}).Get(server.URL)
		if err != nil {
			return 0, err
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return 0, errors.New(resp.Status)
		}
		return l.Ref().Version, nil
	}
	for i := range done {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				calls.Add(1)
				version, err := call()
				if err != nil && failed.Add(1) == 1 {
					t.Error(err)
				}
				done[i].Store(version)
			}
		})
	}
	deadline := time.Now().Add(4 * time.Minute)
	for i := 2; i <= rotations+1; i++ {
		rotate(i)
		for c := range done { // nobody is two rotations behind
			for done[c].Load() < uint64(i) && time.Now().Before(deadline) && failed.Load() == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		accepted.Delete("Bearer " + value(i-1))
	}
	close(stop)
	callers.Wait()
	t.Logf("%d rotations, %d calls, %d failed", rotations, calls.Load(), failed.Load())
	assert.Zero(t, failed.Load())
	for c := range done {
		assert.EqualValues(t, rotations+1, done[c].Load(), "caller %d has followed", c)
	}
}
