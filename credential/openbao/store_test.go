package openbao

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/internal/vaulttest"
)

func secret(text string) credential.Secret { return credential.NewSecret([]byte(text)) }

// reveal is for tests only.
func reveal(t *testing.T, s credential.Secret) string {
	t.Helper()
	var text string
	require.NoError(t, s.Use(func(b []byte) error {
		text = string(b)
		return nil
	}))
	return text
}

func TestLifeOfASecret(t *testing.T) {
	v := vaulttest.Start(t)
	s := open(t, v, Options{})
	ctx := t.Context()

	_, _, err := s.Get(ctx, credential.Ref{Name: "team/github"})
	require.ErrorIs(t, err, credential.ErrUnknown)
	ref, err := s.Put(ctx, "team/github", secret("first value"), 0, "made by hand")
	require.NoError(t, err)
	require.Equal(t, credential.Ref{Name: "team/github", Version: 1}, ref)
	_, _, err = s.Get(ctx, credential.Ref{Name: "team/github"})
	require.ErrorIs(t, err, credential.ErrNoCurrent)
	require.NoError(t, s.SetState(ctx, ref, credential.StatePending, credential.StateCurrent))

	binary := "\xff\x00\xfe binary \"quoted\""
	second, err := s.Put(ctx, "team/github", secret(binary), 1, "")
	require.NoError(t, err)
	_, err = s.Put(ctx, "team/github", secret("too late"), 1, "")
	require.ErrorIs(t, err, credential.ErrConflict)
	got, value, err := s.Get(ctx, credential.Ref{Name: "team/github"})
	require.NoError(t, err)
	require.Equal(t, "first value", reveal(t, value))
	require.Equal(t, ref, got.Ref)
	require.Equal(t, "made by hand", got.Note)
	require.NoError(t, s.SetState(ctx, second, credential.StatePending, credential.StateCurrent))
	_, value, err = s.Get(ctx, credential.Ref{Name: "team/github"})
	require.NoError(t, err)
	require.Equal(t, binary, reveal(t, value))

	list, err := s.List(ctx, "")
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Equal(t, credential.StatePrevious, list[0].State)
	require.Equal(t, credential.StateCurrent, list[1].State)
	require.NoError(t, s.SetState(ctx, ref, credential.StatePrevious, credential.StateRevoked))
	require.NoError(t, s.SetState(ctx, ref, credential.StateRevoked, credential.StateDestroyed))
	_, _, err = s.Get(ctx, ref)
	require.ErrorIs(t, err, credential.ErrDestroyed)
	answer := v.Admin(t, http.MethodGet, "secret/metadata/"+s.opts.Folder+"/team/github", nil)
	require.Equal(t, true, answer["versions"].(map[string]any)["1"].(map[string]any)["destroyed"], "gone in the engine too")
}

// What was written with other tools can be read without a word of ours.
func TestEntriesOfOtherTools(t *testing.T) {
	v := vaulttest.Start(t)
	s := open(t, v, Options{})
	ctx := t.Context()
	path := "secret/data/" + s.opts.Folder + "/github"
	for _, text := range []string{"one by hand", "two by hand", "three by hand"} {
		v.Admin(t, http.MethodPost, path, map[string]any{"data": map[string]any{"value": text, "owner": "ann"}})
	}
	states := func() string {
		list, err := s.List(ctx, "github")
		require.NoError(t, err)
		var all []string
		for _, v := range list {
			all = append(all, string(v.State))
		}
		return strings.Join(all, " ")
	}
	require.Equal(t, "revoked previous current", states())
	_, value, err := s.Get(ctx, credential.Ref{Name: "github"})
	require.NoError(t, err)
	require.Equal(t, "three by hand", reveal(t, value))

	// From the first write through the store on, a new version waits.
	_, err = s.Put(ctx, "github", secret("four through us"), 3, "")
	require.NoError(t, err)
	require.Equal(t, "revoked previous current pending", states())
	v.Admin(t, http.MethodPost, path, map[string]any{"data": map[string]any{"value": "five by hand"}})
	require.Equal(t, "revoked previous current pending pending", states())

	// Deleted elsewhere, and taken back.
	v.Admin(t, http.MethodPost, "secret/delete/"+s.opts.Folder+"/github", map[string]any{"versions": []int{3}})
	require.Equal(t, "revoked previous destroyed pending pending", states())
	_, _, err = s.Get(ctx, credential.Ref{Name: "github"})
	require.ErrorIs(t, err, credential.ErrNoCurrent)
	require.NoError(t, s.SetState(ctx, credential.Ref{Name: "github", Version: 2}, credential.StatePrevious, credential.StateRevoked))
	v.Admin(t, http.MethodPost, "secret/undelete/"+s.opts.Folder+"/github", map[string]any{"versions": []int{3}})
	require.Equal(t, "revoked revoked current pending pending", states())

	// An entry that is deleted and made anew does not inherit states.
	v.Admin(t, http.MethodDelete, "secret/metadata/"+s.opts.Folder+"/github", nil)
	v.Admin(t, http.MethodPost, path, map[string]any{"data": map[string]any{"value": "another life"}})
	for range 2 {
		v.Admin(t, http.MethodPost, path, map[string]any{"data": map[string]any{"value": "another life"}})
	}
	require.Equal(t, "pending pending pending", states())

	// An entry without the member that we read.
	v.Admin(t, http.MethodPost, "secret/data/"+s.opts.Folder+"/odd", map[string]any{"data": map[string]any{"password": "hunter2hunter2"}})
	_, _, err = s.Get(ctx, credential.Ref{Name: "odd"})
	require.ErrorIs(t, err, ErrAnswer)
	require.NotContains(t, err.Error(), "hunter2")
}

// Versions that may still be wanted do not fall out at the engine's old end.
func TestManyVersions(t *testing.T) {
	v := vaulttest.Start(t)
	s := open(t, v, Options{})
	ctx := t.Context()
	first, err := s.Put(ctx, "long", secret("the first value"), 0, "")
	require.NoError(t, err)
	require.NoError(t, s.SetState(ctx, first, credential.StatePending, credential.StateCurrent))
	for n := range uint64(60) {
		_, err := s.Put(ctx, "long", secret("waiting in line"), n+1, "")
		require.NoError(t, err)
	}
	_, value, err := s.Get(ctx, credential.Ref{Name: "long"})
	require.NoError(t, err)
	require.Equal(t, "the first value", reveal(t, value))
}

// A destroying that ended after the states were written is finished by the same
// call.
func TestDestroyingIsFinished(t *testing.T) {
	v := vaulttest.Start(t)
	s := open(t, v, Options{})
	ctx := t.Context()
	ref, err := s.Put(ctx, "cut", secret("a value to destroy"), 0, "")
	require.NoError(t, err)
	require.NoError(t, s.SetState(ctx, ref, credential.StatePending, credential.StateRevoked))
	e, err := s.entry(ctx, "cut")
	require.NoError(t, err)
	require.NoError(t, s.writeStates(ctx, e, e.moved(1, credential.StateDestroyed, time.Now())))
	_, _, err = s.Get(ctx, ref)
	require.ErrorIs(t, err, credential.ErrDestroyed)
	require.NoError(t, s.SetState(ctx, ref, credential.StateRevoked, credential.StateDestroyed))
	answer := v.Admin(t, http.MethodGet, "secret/metadata/"+s.opts.Folder+"/cut", nil)
	require.Equal(t, true, answer["versions"].(map[string]any)["1"].(map[string]any)["destroyed"])
	require.ErrorIs(t, s.SetState(ctx, ref, credential.StateRevoked, credential.StateDestroyed), credential.ErrConflict)
}

// Of many who promote at once, each move is done by exactly one.
func TestPromotionsRace(t *testing.T) {
	v := vaulttest.Start(t)
	one := open(t, v, Options{})
	two := open(t, v, Options{Folder: one.opts.Folder})
	ctx := t.Context()
	const versions, racers = 5, 8
	for n := range uint64(versions) {
		_, err := one.Put(ctx, "raced", secret("value of a race"), n, "")
		require.NoError(t, err)
	}
	for n := range uint64(versions) {
		var wg sync.WaitGroup
		errs := make([]error, racers)
		for i := range racers {
			wg.Go(func() {
				s := []*Store{one, two}[i%2]
				errs[i] = s.SetState(ctx, credential.Ref{Name: "raced", Version: n + 1}, credential.StatePending, credential.StateCurrent)
			})
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			} else {
				assert.ErrorIs(t, err, credential.ErrConflict)
			}
		}
		assert.Equal(t, 1, won)
	}
	list, err := one.List(ctx, "raced")
	require.NoError(t, err)
	for i, want := range []credential.State{"revoked", "revoked", "revoked", "previous", "current"} {
		assert.Equal(t, want, list[i].State)
	}
}

// Two hosts with a broker each: what one rotates or revokes, the other leases or
// refuses a moment later, and what is leased goes on while the server is sealed.
func TestTwoBrokers(t *testing.T) {
	v := vaulttest.Start(t)
	ctx := t.Context()
	by := audit.Change{By: "ann", Reason: "a test"}
	shared := Options{Folder: folder(), Poll: 20 * time.Millisecond}
	brokers := make([]*credential.Broker, 2)
	for i := range brokers {
		b, err := credential.NewBroker(open(t, v, shared), audittest.NewLog(t), nil)
		require.NoError(t, err)
		defer b.Close()
		brokers[i] = b
	}
	put := func(text string) credential.Ref {
		ref, err := brokers[0].Put(ctx, "github", secret(text), "", by)
		require.NoError(t, err)
		require.NoError(t, brokers[0].Promote(ctx, ref, by))
		return ref
	}
	lease := func() (credential.Ref, error) {
		l, err := brokers[1].Lease(ctx, credential.LeaseRequest{
			Actor: audit.Actor{Agent: "bot", Issuer: "session"}, Credential: "github", Origin: "https://api.github.com",
		})
		if err != nil {
			return credential.Ref{}, err
		}
		defer l.Release()
		return l.Ref(), nil
	}
	first := put("the first value of all")
	require.NoError(t, brokers[1].Bind(ctx, "github", credential.Binding{Origin: "https://api.github.com"}, by))
	got, err := lease()
	require.NoError(t, err)
	require.Equal(t, first, got)
	second := put("the second value of all")
	require.Eventually(t, func() bool { got, err := lease(); return err == nil && got == second }, time.Minute, 10*time.Millisecond)

	v.Seal(t)
	got, err = lease()
	require.NoError(t, err)
	require.Equal(t, second, got)
	_, err = brokers[0].Put(ctx, "github", secret("a value for later"), "", by)
	require.ErrorIs(t, err, ErrSealed)
	v.Unseal(t)
	require.Eventually(t, func() bool { return brokers[0].Revoke(ctx, second, by) == nil }, time.Minute, 50*time.Millisecond)
	require.Eventually(t, func() bool { _, err := lease(); return errors.Is(err, credential.ErrNoCurrent) }, time.Minute, 10*time.Millisecond)
}

func TestWatchSeesOthers(t *testing.T) {
	v := vaulttest.Start(t)
	s := open(t, v, Options{Poll: 20 * time.Millisecond})
	other := open(t, v, Options{Folder: s.opts.Folder})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ref := credential.Ref{Name: "watched", Version: 1}
	var seen []credential.Ref
	for got, err := range s.Watch(ctx) {
		require.NoError(t, err)
		seen = append(seen, got)
		switch len(seen) {
		case 1:
			_, err := other.Put(ctx, "watched", secret("seen from afar"), 0, "")
			require.NoError(t, err)
		case 2:
			require.NoError(t, other.SetState(ctx, ref, credential.StatePending, credential.StateCurrent))
		}
		if len(seen) == 3 {
			break
		}
	}
	require.Equal(t, []credential.Ref{{}, ref, ref}, seen)
}
