package credentialtest

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/twinward-dev/twinward/credential"
)

// The tests of stores that can be written.

func (s *storeTest) put() {
	one := s.list("one")[0].Ref
	other := s.list("other")[0].Ref
	secret := s.fresh()
	put := func(name string, after uint64) error {
		ref, err := s.writable().Put(s.ctx, name, secret, after, "")
		s.note(ref, err)
		return err
	}
	s.want("Put of what is there, after nothing", put("one", 0), credential.ErrConflict)
	s.want("Put after a version to come", put("one", one.Version+1), credential.ErrConflict)
	s.want("Put of what is not there, after something", put("new", 1), credential.ErrConflict)
	s.states("new", nil)
	s.states("one", map[uint64]credential.State{one.Version: credential.StateCurrent})

	ref, value := s.add("one")
	s.want("Put after a version that is not the newest any more", put("one", one.Version), credential.ErrConflict)
	s.states("one", map[uint64]credential.State{one.Version: credential.StateCurrent, ref.Version: credential.StatePending})
	s.current(one, s.secrets["one"]) // pending is not current
	v, got, err := s.get(ref)
	if err != nil || got != value || v.State != credential.StatePending {
		s.Errorf("Get(%s) = %+v, %v", ref, v, err)
	}
	if v.Created.IsZero() || v.Changed.Before(v.Created) {
		s.Errorf("%s was created %v and changed %v", ref, v.Created, v.Changed)
	}
	if v.Note != "a note" {
		s.Errorf("%s has the note %q", ref, v.Note)
	}
	s.current(other, s.secrets["other"])

	fresh, _ := s.add("new")
	_, _, err = s.get(credential.Ref{Name: "new"})
	s.want("Get of a name with nothing but a pending version", err, credential.ErrNoCurrent)
	s.set(fresh, credential.StatePending, credential.StateCurrent)
	if _, _, err = s.get(credential.Ref{Name: "new"}); err != nil {
		s.Errorf("Get of a new name: %v", err)
	}
}

func (s *storeTest) names() {
	for _, name := range []string{"a", "A.b-c_d", "a/b", "a/b/c", "-", "..a", strings.Repeat("n", 128)} {
		ref, value := s.add(name)
		s.set(ref, credential.StatePending, credential.StateCurrent)
		s.current(ref, value)
	}
	for _, name := range []string{"", "/", "a/", "/a", "a//b", ".", "a/../b", "a b", "a\x00", "é", strings.Repeat("n", 129)} {
		ref, err := s.writable().Put(s.ctx, name, s.fresh(), 0, "")
		s.note(ref, err)
		s.want(fmt.Sprintf("Put(%q)", name), err, credential.ErrName)
	}
}

func (s *storeTest) bytes() {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for name, value := range map[string][]byte{
		"bytes": all, "long": bytes.Repeat(all, credential.MaxLength/len(all)),
		"short": []byte("x"), "zeros": make([]byte, 16), "lines": []byte("-----BEGIN\r\n\nend\n"), "broken": []byte("\xff\xfe utf-8"),
	} {
		ref, err := s.writable().Put(s.ctx, name, credential.NewSecret(bytes.Clone(value)), 0, "")
		if err != nil {
			s.Errorf("Put(%q): %v", name, err)
			continue
		}
		s.set(ref, credential.StatePending, credential.StateCurrent)
		s.current(ref, string(value))
	}
	for what, empty := range map[string]credential.Secret{"an empty secret": credential.NewSecret(nil), "no secret": {}} {
		if _, err := s.writable().Put(s.ctx, "nothing", empty, 0, ""); err == nil {
			s.Errorf("Put of %s is not refused", what)
		}
	}
	s.states("nothing", nil)
}

func (s *storeTest) promote() {
	one, first := s.list("one")[0].Ref, s.secrets["one"]
	two, second := s.add("one")
	s.set(two, credential.StatePending, credential.StateCurrent)
	s.current(two, second)
	s.states("one", map[uint64]credential.State{one.Version: credential.StatePrevious, two.Version: credential.StateCurrent})
	if _, got, err := s.get(one); err != nil || got != first {
		s.Errorf("the previous version is not readable: %v", err)
	}

	// Back, and forth again.
	s.set(one, credential.StatePrevious, credential.StateCurrent)
	s.current(one, first)
	s.states("one", map[uint64]credential.State{one.Version: credential.StateCurrent, two.Version: credential.StatePrevious})
	s.set(two, credential.StatePrevious, credential.StateCurrent)

	three, third := s.add("one")
	s.set(three, credential.StatePending, credential.StateCurrent)
	s.current(three, third)
	s.states("one", map[uint64]credential.State{
		one.Version: credential.StateRevoked, two.Version: credential.StatePrevious, three.Version: credential.StateCurrent,
	})

	// What is revoked leaves nothing in its place.
	s.set(three, credential.StateCurrent, credential.StateRevoked)
	_, _, err := s.get(credential.Ref{Name: "one"})
	s.want("Get after the current version was revoked", err, credential.ErrNoCurrent)
	s.states("one", map[uint64]credential.State{
		one.Version: credential.StateRevoked, two.Version: credential.StatePrevious, three.Version: credential.StateRevoked,
	})
	s.current(s.list("other")[0].Ref, s.secrets["other"])
}

// moves tries every move from every state.
func (s *storeTest) moves() {
	all := []credential.State{
		credential.StatePending, credential.StateCurrent, credential.StatePrevious, credential.StateRevoked, credential.StateDestroyed, "", "other",
	}
	for i, from := range all[:5] {
		for j, to := range all {
			name := fmt.Sprintf("move-%d-%d", i, j)
			ref, _ := s.add(name)
			last := credential.StatePending
			step := func(to credential.State) { s.set(ref, last, to); last = to }
			switch from {
			case credential.StateCurrent:
				step(credential.StateCurrent)
			case credential.StatePrevious:
				step(credential.StateCurrent)
				next, _ := s.add(name)
				s.set(next, credential.StatePending, credential.StateCurrent)
			case credential.StateRevoked, credential.StateDestroyed:
				step(credential.StateRevoked)
				if from == credential.StateDestroyed {
					step(credential.StateDestroyed)
				}
			}
			what := fmt.Sprintf("SetState from %q to %q", from, to)
			for _, wrong := range all[:4] {
				if wrong != from && credential.CheckMove(wrong, to) == nil {
					err := s.writable().SetState(s.ctx, ref, wrong, to)
					s.want(what+", taken for "+string(wrong), err, credential.ErrConflict)
				}
			}
			err := s.writable().SetState(s.ctx, ref, from, to)
			if credential.CheckMove(from, to) != nil {
				s.want(what, err, credential.ErrState)
			} else if err != nil {
				s.Errorf("%s: %v", what, err)
			}
		}
	}
	for _, ref := range []credential.Ref{{Name: "nothing", Version: 1}, {Name: "move-0-0", Version: 1 << 40}, {Name: "move-0-0"}} {
		err := s.writable().SetState(s.ctx, ref, credential.StatePending, credential.StateCurrent)
		s.want(fmt.Sprintf("SetState(%s)", ref), err, credential.ErrUnknown)
	}
}

func (s *storeTest) destroy() {
	one := s.list("one")[0].Ref
	s.set(one, credential.StateCurrent, credential.StateRevoked)
	s.set(one, credential.StateRevoked, credential.StateDestroyed)
	_, value, err := s.get(one)
	s.want("Get of a destroyed version", err, credential.ErrDestroyed)
	if value != "" {
		s.Errorf("a destroyed version still has a value")
	}
	s.states("one", map[uint64]credential.State{one.Version: credential.StateDestroyed})
	next, value := s.add("one") // the numbers go on
	s.set(next, credential.StatePending, credential.StateCurrent)
	s.current(next, value)
}

// manyVersions checks that what is live and what is newest is not forgotten.
func (s *storeTest) manyVersions() {
	last := s.list("one")[0].Ref
	for range 40 {
		ref, value := s.add("one")
		s.set(ref, credential.StatePending, credential.StateCurrent)
		s.current(ref, value)
		if v, _, err := s.get(last); err != nil || v.State != credential.StatePrevious {
			s.Fatalf("%s, the one before %s, is %q: %v", last, ref, v.State, err)
		}
		last = ref
	}
	s.set(last, credential.StateCurrent, credential.StateRevoked)
	list := s.list("one")
	if newest := list[len(list)-1]; newest.Ref != last || newest.State != credential.StateRevoked {
		s.Errorf("the newest version is %+v, want %s, revoked", newest, last)
	}
}

// rotateConcurrently has many rotate one secret: of those that start from the
// same version one wins, and no reader ever finds nothing current, or two.
func (s *storeTest) rotateConcurrently() {
	const workers, rounds = 4, 6
	first := s.list("one")[0].Ref.Version
	stop := make(chan struct{})
	var readers, writers sync.WaitGroup
	readers.Go(func() {
		var last uint64
		for {
			v, _, err := s.get(credential.Ref{Name: "one"})
			if err != nil || v.State != credential.StateCurrent {
				s.Errorf("Get while others rotate: %+v, %v", v, err)
				return
			}
			if v.Ref.Version < last {
				s.Errorf("after version %d version %d was current", last, v.Ref.Version)
			}
			last = v.Ref.Version
			count := make(map[credential.State]int)
			list, err := s.store.List(s.ctx, "one")
			s.note(list, err)
			for _, v := range list {
				count[v.State]++
			}
			if count[credential.StateCurrent] != 1 || count[credential.StatePrevious] > 1 {
				s.Errorf("List while others rotate: %v", count)
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	after := first
	for range rounds {
		var mu sync.Mutex
		var won []credential.Ref
		for range workers {
			writers.Go(func() {
				ref, err := s.writable().Put(s.ctx, "one", s.fresh(), after, "")
				s.note(ref, err)
				switch {
				case err == nil:
					mu.Lock()
					defer mu.Unlock()
					won = append(won, ref)
				case !errors.Is(err, credential.ErrConflict):
					s.Errorf("Put beside others: %v", err)
				}
			})
		}
		writers.Wait()
		if len(won) != 1 {
			s.Errorf("%d of %d who put after version %d won, want 1", len(won), workers, after)
			break
		}
		promoted := 0
		for range workers {
			writers.Go(func() {
				err := s.writable().SetState(s.ctx, won[0], credential.StatePending, credential.StateCurrent)
				s.note(nil, err)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					promoted++
				case !errors.Is(err, credential.ErrConflict):
					s.Errorf("SetState beside others: %v", err)
				}
			})
		}
		writers.Wait()
		if promoted != 1 {
			s.Errorf("%d of %d promoted %s, want 1", promoted, workers, won[0])
		}
		after = won[0].Version
	}
	close(stop)
	readers.Wait()
}
