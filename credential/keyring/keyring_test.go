package keyring

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/zalando/go-keyring"

	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
	"github.com/twinward-dev/twinward/credential/filevault"
)

// inSession is set in the process that runs the tests with a real keyring.
const inSession = "TWINWARD_TEST_KEYRING"

// A standIn is a keyring in memory.
type standIn struct {
	mu    sync.Mutex
	items map[string]string
	err   error // of all that is asked
}

func (r *standIn) do(f func()) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		f()
	}
	return r.err
}

func (r *standIn) Set(service, user, password string) error {
	return r.do(func() { r.items[service+" "+user] = password })
}

func (r *standIn) Get(service, user string) (text string, err error) {
	ok := false
	if err = r.do(func() { text, ok = r.items[service+" "+user] }); err == nil && !ok {
		err = keyring.ErrNotFound
	}
	return text, err
}

func (r *standIn) Delete(service, user string) error {
	return r.do(func() { delete(r.items, service+" "+user) })
}

func open(t *testing.T, opts *Options) *Store {
	t.Helper()
	s, err := New(opts)
	require.NoError(t, err)
	return s
}

// service is of one test alone.
func service(t *testing.T) *Options {
	t.Helper()
	name := strings.Map(func(r rune) rune {
		if r == '/' || r == '#' {
			return '.'
		}
		return r
	}, t.Name())
	opts := &Options{Service: name + time.Now().Format(".150405.000000"), LockFile: filepath.Join(t.TempDir(), "a folder", "lock")}
	if os.Getenv(inSession) == "" {
		opts.ring = &standIn{items: make(map[string]string)}
	}
	return opts
}

func secret(text string) credential.Secret { return credential.NewSecret([]byte(text)) }

func TestStore(t *testing.T) {
	credentialtest.TestStore(t, func(t *testing.T, secrets map[string]string) credential.Store {
		s := open(t, service(t))
		credentialtest.Seed(t, s, secrets)
		return s
	})
}

// Two stores, as two processes have them, change one secret at the same time.
func TestTwoStores(t *testing.T) {
	opts := service(t)
	stores := []*Store{open(t, opts), open(t, opts)}
	const each = 10
	var wg sync.WaitGroup
	for _, s := range stores {
		wg.Go(func() {
			for n := 0; n < each; {
				list, err := s.List(t.Context(), "shared")
				if !assert.NoError(t, err) {
					return
				}
				var newest uint64
				if len(list) > 0 {
					newest = list[len(list)-1].Ref.Version
				}
				_, err = s.Put(t.Context(), "shared", secret("one of many values"), newest, "")
				if err == nil {
					n++
				} else if !assert.ErrorIs(t, err, credential.ErrConflict) {
					return
				}
			}
		})
	}
	wg.Wait()
	list, err := stores[0].List(t.Context(), "shared")
	require.NoError(t, err)
	require.Len(t, list, each*len(stores))
	require.EqualValues(t, each*len(stores), list[len(list)-1].Ref.Version)
}

func TestKey(t *testing.T) {
	opts := service(t)
	first, err := Key(t.Context(), "vault", opts)
	require.NoError(t, err)
	require.NoError(t, first.Use(func(b []byte) error { require.Len(t, b, KeyBytes); return nil }))
	again, err := Key(t.Context(), "vault", opts)
	require.NoError(t, err)
	require.True(t, first.Equal(again))
	other, err := Key(t.Context(), "another", opts)
	require.NoError(t, err)
	require.False(t, first.Equal(other))
	var wg sync.WaitGroup
	keys := make([]credential.Secret, 8)
	for i := range keys {
		wg.Go(func() {
			var err error
			keys[i], err = Key(t.Context(), "raced", opts)
			assert.NoError(t, err)
		})
	}
	wg.Wait()
	for _, k := range keys {
		require.True(t, k.Equal(keys[0]))
	}
}

// A vault in a file that only the keyring opens.
func TestKEK(t *testing.T) {
	opts := service(t)
	ctx := t.Context()
	kek, err := KEK(ctx, "vault", opts)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "vault")
	v, err := filevault.Create(ctx, path, kek, nil)
	require.NoError(t, err)
	_, err = v.Put(ctx, "github", secret("in a file, locked"), 0, "")
	require.NoError(t, err)

	again, err := KEK(ctx, "vault", opts)
	require.NoError(t, err)
	require.Equal(t, kek.ID(), again.ID())
	v, err = filevault.Open(ctx, path, again, nil)
	require.NoError(t, err)
	list, err := v.List(ctx, "")
	require.NoError(t, err)
	require.Len(t, list, 1)

	other, err := KEK(ctx, "another", opts)
	require.NoError(t, err)
	_, err = filevault.Open(ctx, path, other, nil)
	require.ErrorIs(t, err, filevault.ErrKEK)
	wrapped, err := kek.Wrap(ctx, make([]byte, 32), []byte("here"))
	require.NoError(t, err)
	_, err = kek.Unwrap(ctx, wrapped, []byte("elsewhere"))
	require.Error(t, err)
}

// A value whose item is gone, as after a destroying that was cut off, is
// destroyed, and the destroying can be repeated.
func TestDestroyingIsFinished(t *testing.T) {
	s := open(t, service(t))
	ref, err := s.Put(t.Context(), "cut", secret("a value to destroy"), 0, "")
	require.NoError(t, err)
	require.NoError(t, s.SetState(t.Context(), ref, credential.StatePending, credential.StateRevoked))
	require.NoError(t, s.box.remove(itemValue("cut", 1)))
	v, _, err := s.Get(t.Context(), ref)
	require.ErrorIs(t, err, credential.ErrDestroyed)
	require.Equal(t, ref, v.Ref)
	require.NoError(t, s.SetState(t.Context(), ref, credential.StateRevoked, credential.StateDestroyed))
}

// What is destroyed or forgotten is not in the keyring any more.
func TestValuesAreRemoved(t *testing.T) {
	s := open(t, service(t))
	left := func(n uint64) bool {
		_, err := s.box.get(itemValue("long", n))
		if err != nil {
			require.ErrorIs(t, err, errAbsent)
		}
		return err == nil
	}
	long := strings.Repeat("a long value, ", 350) // in several items
	for n := range uint64(keepDead + 3) {
		ref, err := s.Put(t.Context(), "long", secret(long), n, "")
		require.NoError(t, err)
		require.NoError(t, s.SetState(t.Context(), ref, credential.StatePending, credential.StateRevoked))
	}
	_, err := s.Put(t.Context(), "long", secret(long), keepDead+3, "")
	require.NoError(t, err)
	list, err := s.List(t.Context(), "long")
	require.NoError(t, err)
	require.Len(t, list, keepDead+1)
	require.False(t, left(3))
	require.True(t, left(4))
	last := list[0].Ref
	require.NoError(t, s.SetState(t.Context(), last, credential.StateRevoked, credential.StateDestroyed))
	require.False(t, left(last.Version))
	for n := range 10 {
		_, err := s.box.get(part(itemValue("long", last.Version), n))
		require.ErrorIs(t, err, errAbsent)
	}
}

func TestItemsOfAnotherHand(t *testing.T) {
	s := open(t, service(t))
	ref, err := s.Put(t.Context(), "mine", secret("a value of mine"), 0, "")
	require.NoError(t, err)
	for _, text := range []string{"", "null-", "{}", `[{"n":1}]`, `[{"n":1,"s":"current","p":0}]`, `[{"n":2,"s":"pending","p":1},{"n":1,"s":"pending","p":1}]`} {
		require.NoError(t, s.box.set(itemStates("mine"), text))
		_, _, err = s.Get(t.Context(), ref)
		require.ErrorIs(t, err, ErrDamaged, text)
		_, err = s.Put(t.Context(), "mine", secret("another value"), 1, "")
		require.ErrorIs(t, err, ErrDamaged, text)
	}
	require.NoError(t, s.box.set(itemNames, `["b","a"]`))
	_, err = s.List(t.Context(), "")
	require.ErrorIs(t, err, ErrDamaged)
}

func TestNoKeyring(t *testing.T) {
	opts := service(t)
	r := &standIn{err: errors.New("org.freedesktop.DBus.Error.ServiceUnknown")}
	opts.ring = r
	s := open(t, opts)
	_, _, err := s.Get(t.Context(), credential.Ref{Name: "it"})
	require.ErrorIs(t, err, ErrUnavailable)
	_, err = s.List(t.Context(), "")
	require.ErrorIs(t, err, ErrUnavailable)
	_, err = s.Put(t.Context(), "it", secret("a value to lose"), 0, "")
	require.ErrorIs(t, err, ErrUnavailable)
	_, err = Key(t.Context(), "it", opts)
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorIs(t, s.box.remove("it"), ErrUnavailable)
	r.err = errors.New("cannot store a value to lose")
	require.NotContains(t, s.box.set("it", "a value to lose").Error(), "a value to lose")
	r.err = keyring.ErrSetDataTooBig
	require.ErrorIs(t, s.box.set("it", "too long"), ErrTooBig)
}

// A keyring that hangs, as one does that asks for a password, holds nobody
// longer than they wait.
func TestKeyringThatHangs(t *testing.T) {
	turn := make(chan struct{}, 1)
	hang := make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := within(ctx, turn, func() (int, error) { <-hang; return 1, nil })
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, err, ErrUnavailable)
	ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err = within(ctx, turn, func() (int, error) { return 2, nil })
	require.ErrorIs(t, err, context.DeadlineExceeded, "the first still has its turn")
	close(hang)
	n, err := within(t.Context(), turn, func() (int, error) { return 3, nil })
	require.NoError(t, err)
	require.Equal(t, 3, n)
}

func TestServiceNames(t *testing.T) {
	for _, name := range []string{"a/b", "a b", "..", "a\n"} {
		_, err := New(&Options{Service: name})
		require.Error(t, err, name)
	}
}
