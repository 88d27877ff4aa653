package credentialtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twinward-dev/twinward/credential"
)

// TestStore runs the tests that every [credential.Store] must pass. The
// function open returns a new store that holds the given secrets, each in a
// version that is current, and closes it with t.Cleanup; [Seed] fills a store
// that can be written. It is called several times.
//
// What a store can do is what it implements: a store that is no
// [credential.WritableStore] is tested for reading only, and one that is no
// [credential.Watcher] is not watched. Nothing else is left out.
func TestStore(t *testing.T, open func(t *testing.T, secrets map[string]string) credential.Store) {
	start := func(t *testing.T, names ...string) *storeTest {
		s := &storeTest{T: t, secrets: make(map[string]string)}
		for _, name := range names {
			s.secrets[name] = Canary()
			s.know(s.secrets[name])
		}
		s.store = open(t, s.secrets)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		s.ctx = ctx
		t.Cleanup(func() {
			cancel()
			AssertNoLeak(t, &s.scrubber, s.seen.Bytes())
		})
		return s
	}
	t.Run("Read", func(t *testing.T) { start(t, "one", "two/three").read() })
	t.Run("Unknown", func(t *testing.T) { start(t, "one").unknown() })
	t.Run("Cancelled", func(t *testing.T) { start(t, "one").cancelled() })
	t.Run("Concurrently", func(t *testing.T) { start(t, "one", "two").concurrently() })
	if _, ok := open(t, nil).(credential.WritableStore); ok {
		t.Run("Put", func(t *testing.T) { start(t, "one", "other").put() })
		t.Run("Names", func(t *testing.T) { start(t).names() })
		t.Run("Bytes", func(t *testing.T) { start(t).bytes() })
		t.Run("Promote", func(t *testing.T) { start(t, "one", "other").promote() })
		t.Run("Moves", func(t *testing.T) { start(t).moves() })
		t.Run("Destroy", func(t *testing.T) { start(t, "one").destroy() })
		t.Run("ManyVersions", func(t *testing.T) { start(t, "one").manyVersions() })
		t.Run("RotateConcurrently", func(t *testing.T) { start(t, "one").rotateConcurrently() })
	}
	if _, ok := open(t, nil).(credential.BindingStore); ok {
		t.Run("Bindings", func(t *testing.T) { start(t, "one", "two").bindings() })
	}
	if _, ok := open(t, nil).(credential.Watcher); ok {
		t.Run("Watch", func(t *testing.T) { start(t, "one").watch() })
	}
}

// Seed puts secrets into a store, each as a first version that is current.
func Seed(t testing.TB, store credential.WritableStore, secrets map[string]string) {
	t.Helper()
	for name, v := range secrets {
		ref, err := store.Put(t.Context(), name, credential.NewSecret([]byte(v)), 0, "")
		if err == nil {
			err = store.SetState(t.Context(), ref, credential.StatePending, credential.StateCurrent)
		}
		if err != nil {
			t.Fatalf("credentialtest: seed %q: %v", name, err)
		}
	}
}

// A storeTest is one test of a store. Everything that the store says besides
// values is kept in seen, and must show no value.
type storeTest struct {
	*testing.T
	ctx      context.Context
	store    credential.Store
	secrets  map[string]string
	scrubber credential.Scrubber

	mu   sync.Mutex
	seen bytes.Buffer
}

func (s *storeTest) know(value string) {
	if err := s.scrubber.Add("a stored value", credential.NewSecret([]byte(value))); err != nil {
		s.Errorf("credentialtest: %v", err)
	}
}

// fresh returns a new secret, which must not be seen either.
func (s *storeTest) fresh() credential.Secret {
	value := Canary()
	s.know(value)
	return credential.NewSecret([]byte(value))
}

func (s *storeTest) note(v any, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, _ := json.Marshal(v)
	fmt.Fprintf(&s.seen, "%s %+v %#v %v %+v\n", text, v, v, err, err)
}

func (s *storeTest) writable() credential.WritableStore {
	return s.store.(credential.WritableStore)
}

// get returns a version and its value.
func (s *storeTest) get(ref credential.Ref) (credential.Version, string, error) {
	v, secret, err := s.store.Get(s.ctx, ref)
	s.note(v, err)
	var value string
	if err == nil {
		if err := secret.Use(func(b []byte) error { value = string(b); return nil }); err != nil {
			s.Errorf("Get(%s) returned no bytes and no error: %v", ref, err)
		}
		secret.Destroy() // it is ours
	}
	return v, value, err
}

func (s *storeTest) list(name string) []credential.Version {
	s.Helper()
	list, err := s.store.List(s.ctx, name)
	s.note(list, err)
	if err != nil {
		s.Fatalf("List(%q): %v", name, err)
	}
	return list
}

// add puts a new value after the newest version, or dies.
func (s *storeTest) add(name string) (credential.Ref, string) {
	s.Helper()
	var newest uint64
	if list := s.list(name); len(list) > 0 {
		newest = list[len(list)-1].Ref.Version
	}
	value := Canary()
	s.know(value)
	secret := credential.NewSecret([]byte(value))
	ref, err := s.writable().Put(s.ctx, name, secret, newest, "a note")
	s.note(ref, err)
	secret.Destroy() // the store has its own
	if err != nil {
		s.Fatalf("Put(%q, after %d): %v", name, newest, err)
	}
	if ref.Name != name || ref.Version <= newest {
		s.Fatalf("Put(%q, after %d) = %s", name, newest, ref)
	}
	return ref, value
}

func (s *storeTest) set(ref credential.Ref, from, to credential.State) {
	s.Helper()
	err := s.writable().SetState(s.ctx, ref, from, to)
	s.note(nil, err)
	if err != nil {
		s.Fatalf("SetState(%s, %s, %s): %v", ref, from, to, err)
	}
}

// want checks that an error is the one that the contract names.
func (s *storeTest) want(what string, err, want error) {
	s.Helper()
	s.note(nil, err)
	if !errors.Is(err, want) {
		s.Errorf("%s: got the error %v, want %v", what, err, want)
	}
}

// states checks the state of each version of a name. Dead versions may have
// been forgotten.
func (s *storeTest) states(name string, want map[uint64]credential.State) {
	s.Helper()
	got := make(map[uint64]credential.State)
	for _, v := range s.list(name) {
		got[v.Ref.Version] = v.State
		if v.Ref.Name != name {
			s.Errorf("List(%q) has %s", name, v.Ref)
		}
	}
	for version, state := range want {
		if got[version] == "" && (state == credential.StateRevoked || state == credential.StateDestroyed) {
			continue
		}
		if got[version] != state {
			s.Errorf("%s@%d is %q, want %q; all: %v", name, version, got[version], state, got)
		}
	}
	for version := range got {
		if want[version] == "" {
			s.Errorf("List(%q) has version %d, which was not put", name, version)
		}
	}
}

// current checks what is current.
func (s *storeTest) current(ref credential.Ref, value string) {
	s.Helper()
	v, got, err := s.get(credential.Ref{Name: ref.Name})
	if err != nil {
		s.Errorf("Get(%q): %v", ref.Name, err)
		return
	}
	if v.Ref != ref || v.State != credential.StateCurrent {
		s.Errorf("Get(%q) is %s, %s, want %s, current", ref.Name, v.Ref, v.State, ref)
	}
	if got != value {
		s.Errorf("Get(%q) has the wrong bytes", ref.Name)
	}
}

func (s *storeTest) read() {
	for range 2 { // a caller that destroys what it got harms nobody
		for name, value := range s.secrets {
			list := s.list(name)
			if len(list) == 0 {
				s.Fatalf("List(%q) is empty", name)
			}
			newest := list[len(list)-1]
			if newest.State != credential.StateCurrent || newest.Ref.Name != name || newest.Ref.Version == 0 {
				s.Errorf("List(%q) ends with %+v", name, newest)
			}
			s.current(newest.Ref, value)
			v, got, err := s.get(newest.Ref)
			if err != nil || v.Ref != newest.Ref || got != value {
				s.Errorf("Get(%s) is not what List says: %+v, %v", newest.Ref, v, err)
			}
		}
	}
	var names []string
	all := s.list("")
	for _, v := range all {
		names = append(names, v.Ref.Name)
	}
	for name := range s.secrets {
		if !slices.Contains(names, name) {
			s.Errorf("List of everything lacks %q", name)
		}
	}
	if !slices.IsSortedFunc(all, func(a, b credential.Version) int {
		if c := strings.Compare(a.Ref.Name, b.Ref.Name); c != 0 {
			return c
		}
		return int(int64(a.Ref.Version) - int64(b.Ref.Version))
	}) {
		s.Errorf("List of everything is not ordered by name and version: %v", names)
	}
}

func (s *storeTest) unknown() {
	for _, ref := range []credential.Ref{{Name: "nothing"}, {Name: "nothing", Version: 1}, {Name: "one", Version: 1 << 40}, {Name: "on"}, {Name: "one/more"}} {
		_, _, err := s.get(ref)
		s.want(fmt.Sprintf("Get(%s)", ref), err, credential.ErrUnknown)
	}
	for _, name := range []string{"nothing", "on", "one/more"} {
		if list := s.list(name); len(list) > 0 {
			s.Errorf("List(%q) = %v", name, list)
		}
	}
	// Whatever a caller asks for, it is not found, or refused; never a panic,
	// never another secret.
	for _, name := range []string{"", ".", "..", "../one", "one/", "/one", "one\x00", "one\n", "ONE ", strings.Repeat("n", 1000), "\xff"} {
		if _, value, err := s.get(credential.Ref{Name: name}); err == nil || value != "" {
			s.Errorf("Get(%q) found something", name)
		}
	}
}

func (s *storeTest) cancelled() {
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	_, _, err := s.store.Get(ctx, credential.Ref{Name: "one"})
	s.want("Get after its context is done", err, context.Canceled)
	_, err = s.store.List(ctx, "one")
	s.want("List after its context is done", err, context.Canceled)
	w, ok := s.store.(credential.WritableStore)
	if !ok {
		return
	}
	list := s.list("one")
	ref := list[len(list)-1].Ref
	_, err = w.Put(ctx, "one", s.fresh(), ref.Version, "")
	s.want("Put after its context is done", err, context.Canceled)
	err = w.SetState(ctx, ref, credential.StateCurrent, credential.StateRevoked)
	s.want("SetState after its context is done", err, context.Canceled)
	s.current(ref, s.secrets["one"])
}

func (s *storeTest) concurrently() {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for name, value := range s.secrets {
				if _, got, err := s.get(credential.Ref{Name: name}); err != nil || got != value {
					s.Errorf("Get(%q) beside others: %v", name, err)
				}
				if _, err := s.store.List(s.ctx, ""); err != nil {
					s.Errorf("List beside others: %v", err)
				}
			}
		})
	}
	wg.Wait()
}

func (s *storeTest) bindings() {
	store := s.store.(credential.BindingStore)
	check := func(name string, want *credential.BindingSpec) {
		s.Helper()
		got, ok, err := store.Binding(s.ctx, name)
		s.note(got, err)
		if err != nil || ok != (want != nil) || ok && !reflect.DeepEqual(got, *want) {
			s.Errorf("Binding(%q) = %+v, %v, %v, want %+v", name, got, ok, err, want)
		}
	}
	set := func(name string, to credential.BindingSpec, want error) {
		s.Helper()
		s.want(fmt.Sprintf("SetBinding(%q, %+v)", name, to), store.SetBinding(s.ctx, name, to), want)
	}
	check("one", nil)
	check("nothing", nil)
	first := credential.BindingSpec{Origin: "https://a.example", Type: credential.TypeBearer}
	second := credential.BindingSpec{Origin: "https://b.example:8443", Type: credential.TypeHeader, Name: "X-Key", Format: "Key {secret}"}
	set("one", first, nil)
	check("one", &first)
	check("two", nil)
	set("one", second, nil)
	check("one", &second)
	set("one", credential.BindingSpec{}, credential.ErrSpec)
	set("one", credential.BindingSpec{Origin: "http://a.example", Type: credential.TypeBearer}, credential.ErrSpec)
	set("nothing", first, credential.ErrUnknown)
	check("one", &second)
	check("nothing", nil)
	if _, ok := s.store.(credential.WritableStore); ok {
		ref, _ := s.add("one")
		s.set(ref, credential.StatePending, credential.StateCurrent)
		check("one", &second) // of the name, not of a version
	}
}

// watch checks what a watcher is told, also of changes if there can be any.
func (s *storeTest) watch() {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	refs := make(chan credential.Ref, 64)
	go func() {
		defer close(refs)
		for ref, err := range s.store.(credential.Watcher).Watch(ctx) {
			s.note(ref, err)
			if err == nil {
				refs <- ref
			}
		}
	}()
	// until waits for a ref, or for the word that all may have changed.
	until := func(want credential.Ref) {
		s.Helper()
		deadline := time.After(time.Minute)
		for {
			select {
			case ref, ok := <-refs:
				switch {
				case !ok:
					s.Fatalf("the watch ended while waiting for %s", want)
				case ref == want || ref == credential.Ref{}:
					return
				}
			case <-deadline:
				s.Fatalf("the watch does not tell of %s", want)
			}
		}
	}
	until(credential.Ref{})
	if _, ok := s.store.(credential.WritableStore); ok {
		one := s.list("one")[0].Ref
		ref, _ := s.add("one")
		until(ref)
		s.set(ref, credential.StatePending, credential.StateCurrent)
		until(ref)
		s.set(one, credential.StatePrevious, credential.StateRevoked)
		until(one)
		fresh, _ := s.add("two")
		until(fresh)
	}
	cancel()
	for range refs { // ends, or the test's own limit does
	}
}
