package filevault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/credentialtest"
)

// seeded returns a vault with two secrets, of which one has been rotated.
func seeded(t *testing.T, kek KEK, opts *Options) (*Store, string) {
	s, path := newVault(t, kek, opts)
	credentialtest.Seed(t, s, map[string]string{"one": "the-value-of-one-1", "two": "the-value-of-two-1"})
	rotate(t, s, "one", 2)
	return s, path
}

func rotate(t *testing.T, s *Store, name string, version uint64) {
	t.Helper()
	ref, err := s.Put(t.Context(), name, credential.NewSecret(fmt.Appendf(nil, "the-value-of-%s-%d", name, version)), version-1, "")
	require.NoError(t, err)
	require.NoError(t, s.SetState(t.Context(), ref, credential.StatePending, credential.StateCurrent))
}

func current(s *Store, name string) (uint64, error) {
	v, _, err := s.Get(context.Background(), credential.Ref{Name: name})
	return v.Ref.Version, err
}

func readRaw(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return b
}

// put makes another file of the vault, as who restores a backup does.
func put(t *testing.T, path string, file []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path+".copy", file, 0o600))
	require.NoError(t, os.Rename(path+".copy", path))
}

func TestReopen(t *testing.T) {
	kek := newKEK(t)
	s, path := seeded(t, kek, nil)
	require.NoError(t, s.SetBinding(t.Context(), "one", credential.BindingSpec{Origin: "https://a.example", Type: "bearer"}))
	again, err := Open(t.Context(), path, kek, nil)
	require.NoError(t, err)
	want, err := s.List(t.Context(), "")
	require.NoError(t, err)
	got, err := again.List(t.Context(), "")
	require.NoError(t, err)
	assert.Equal(t, want, got)
	_, secret, err := again.Get(t.Context(), credential.Ref{Name: "one"})
	require.NoError(t, err)
	assert.True(t, secret.Equal(credential.NewSecret([]byte("the-value-of-one-2"))))
	b, ok, err := again.Binding(t.Context(), "one")
	require.NoError(t, err)
	assert.True(t, ok)
	assert.Equal(t, "https://a.example", b.Origin)
	_, ok, err = again.Binding(t.Context(), "two")
	require.NoError(t, err)
	assert.False(t, ok)
	assert.ErrorIs(t, again.SetBinding(t.Context(), "three", b), credential.ErrUnknown)
	assert.ErrorIs(t, again.SetBinding(t.Context(), "one", credential.BindingSpec{}), credential.ErrSpec)

	// Both see what the other does, and neither overwrites it.
	rotate(t, again, "two", 2)
	rotate(t, s, "one", 3)
	for _, s := range []*Store{s, again} {
		v, err := current(s, "two")
		require.NoError(t, err)
		assert.EqualValues(t, 2, v)
		v, err = current(s, "one")
		require.NoError(t, err)
		assert.EqualValues(t, 3, v)
	}

	file := readRaw(t, path)
	for _, value := range []string{"the-value-of", "one", "https://a.example", "current"} {
		assert.NotContains(t, string(file), value)
	}
	_, err = Create(t.Context(), path, kek, nil)
	assert.ErrorIs(t, err, fs.ErrExist)
	assert.Equal(t, file, readRaw(t, path))
}

func TestWrongKEK(t *testing.T) {
	kek := newKEK(t)
	_, path := seeded(t, kek, nil)
	file := readRaw(t, path)
	_, err := Open(t.Context(), path, newKEK(t), nil)
	assert.ErrorIs(t, err, ErrKEK)
	_, err = Open(t.Context(), path, named{newKEK(t), kek.ID()}, nil)
	assert.ErrorIs(t, err, ErrKEK, "of the same name")
	_, err = Open(t.Context(), path, nil, nil)
	assert.ErrorIs(t, err, ErrKEK)
	_, err = Age(nil, nil)
	assert.ErrorIs(t, err, ErrKEK)
	assert.Equal(t, file, readRaw(t, path))

	id, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	blind, err := Age([]age.Recipient{id.Recipient()}, nil)
	require.NoError(t, err)
	made := filepath.Join(t.TempDir(), "vault")
	_, err = Create(t.Context(), made, blind, nil)
	require.NoError(t, err, "to wrap needs no identity")
	_, err = Open(t.Context(), made, blind, nil)
	assert.ErrorIs(t, err, ErrKEK, "to open does")
}

type named struct {
	KEK
	id string
}

func (n named) ID() string { return n.id }

// A wrapped root key belongs to one vault.
func TestKEKBinds(t *testing.T) {
	ctx := t.Context()
	for name, kek := range map[string]KEK{
		"age": newKEK(t), "passphrase": &passphraseKEK{credential.NewSecret([]byte("correct horse")), 4},
	} {
		t.Run(name, func(t *testing.T) {
			wrapped, err := kek.Wrap(ctx, []byte("a key of 32 bytes, for this test"), []byte("this"))
			require.NoError(t, err)
			key, err := kek.Unwrap(ctx, wrapped, []byte("this"))
			require.NoError(t, err)
			assert.Equal(t, "a key of 32 bytes, for this test", string(key))
			_, err = kek.Unwrap(ctx, wrapped, []byte("that"))
			assert.ErrorIs(t, err, ErrKEK)
		})
	}
}

func TestPassphrase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vault")
	phrase := func(text string) KEK {
		return &passphraseKEK{credential.NewSecret([]byte(text)), 4} // quick: the file says how much work it is
	}
	s, err := Create(t.Context(), path, phrase("correct horse"), nil)
	require.NoError(t, err)
	credentialtest.Seed(t, s, map[string]string{"one": "the-value-of-one-1"})
	_, err = Open(t.Context(), path, Passphrase(credential.NewSecret([]byte("correct horse"))), nil)
	assert.NoError(t, err)
	_, err = Open(t.Context(), path, phrase("battery staple"), nil)
	assert.ErrorIs(t, err, ErrKEK)
	_, err = Open(t.Context(), path, Passphrase(credential.Secret{}), nil)
	assert.ErrorIs(t, err, ErrKEK)
}

func TestIdentityFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vault.key")
	kek, err := CreateIdentity(path)
	require.NoError(t, err)
	s, vault := newVault(t, kek, nil)
	credentialtest.Seed(t, s, map[string]string{"one": "the-value-of-one-1"})
	kek, err = LoadIdentity(path)
	require.NoError(t, err)
	_, err = Open(t.Context(), vault, kek, nil)
	require.NoError(t, err)
	_, err = CreateIdentity(path)
	assert.ErrorIs(t, err, fs.ErrExist)
	_, err = LoadIdentity(path + ".absent")
	assert.ErrorIs(t, err, fs.ErrNotExist)

	require.NoError(t, os.WriteFile(path+".bad", []byte("AGE-SECRET-KEY-1canary\n"), 0o600))
	_, err = LoadIdentity(path + ".bad")
	require.ErrorIs(t, err, ErrKEK)
	assert.NotContains(t, err.Error(), "canary")
}

// Whoever knows the public key of an identity, and can write where the vault is,
// cannot put one of their own there.
func TestForgedWithThePublicKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vault.key")
	kek, err := CreateIdentity(path)
	require.NoError(t, err)
	s, vault := newVault(t, kek, nil)
	credentialtest.Seed(t, s, map[string]string{"github": "the-token-of-the-host"})

	_, text, ok := strings.Cut(string(readRaw(t, path)), "# public key: ")
	require.True(t, ok)
	public, _, _ := strings.Cut(text, "\n")
	recipient, err := age.ParseHybridRecipient(public)
	require.NoError(t, err)
	wrapper, err := Age([]age.Recipient{recipient}, nil)
	require.NoError(t, err)
	root := bytes.Repeat([]byte("r"), rootSize)
	h := s.last.header // the same vault's id, and any generation
	h.Generation += 100
	h.Root, err = wrapper.Wrap(t.Context(), root, boundRoot(h.ID))
	require.NoError(t, err)
	forged := &Store{}
	forged.keys, err = newKeys(root, h.ID)
	require.NoError(t, err)
	v := version{Number: 1, State: credential.StateCurrent, Created: time.Now(), Changed: time.Now()}
	require.NoError(t, forged.keys.seal("github", &v, h.Generation, []byte("the-token-of-somebody-else")))
	file, err := forged.keys.join(h, body{Secrets: []secret{{Name: "github", Versions: []version{v}}}})
	require.NoError(t, err)
	put(t, vault, file)
	again, err := Open(t.Context(), vault, kek, &Options{Witness: LogWitness(audittest.NewLog(t))})
	assert.ErrorIs(t, err, ErrKEK)
	assert.Nil(t, again)
}

// Whatever happens to a byte of the file, it is found, and the file is left as
// it is.
func TestDamage(t *testing.T) {
	kek := newKEK(t)
	s, path := seeded(t, kek, nil)
	good := readRaw(t, path)
	check := func(what string, bad []byte) {
		put(t, path, bad)
		_, err := Open(t.Context(), path, kek, nil)
		if err == nil || !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrKEK) {
			t.Errorf("%s: %v", what, err)
		}
		_, err = s.List(t.Context(), "")
		assert.ErrorIs(t, err, ErrCorrupt, what)
		_, err = s.Put(t.Context(), "three", credential.NewSecret([]byte("a value")), 0, "")
		assert.ErrorIs(t, err, ErrCorrupt, what)
		assert.Equal(t, bad, readRaw(t, path), what)
	}
	for i := 0; i < len(good); i += max(1, len(good)/150) {
		bad := bytes.Clone(good)
		bad[i] ^= 1 << (i % 8)
		check(fmt.Sprintf("bit %d of byte %d of %d", i%8, i, len(good)), bad)
	}
	for _, n := range []int{0, 1, 8, 11, 12, 100, len(good) / 2, len(good) - 1} {
		check(fmt.Sprintf("cut to %d bytes", n), good[:n])
	}
	check("longer", append(bytes.Clone(good), 0))
	check("twice", append(bytes.Clone(good), good...))
	check("NemoClaw's", []byte("{}"))

	put(t, path, good)
	v, err := current(s, "one")
	require.NoError(t, err, "and goes on when the file is back")
	assert.EqualValues(t, 2, v)

	require.NoError(t, os.Remove(path))
	_, err = s.List(t.Context(), "")
	assert.ErrorIs(t, err, fs.ErrNotExist)
	_, err = s.Put(t.Context(), "three", credential.NewSecret([]byte("a value")), 0, "")
	assert.ErrorIs(t, err, fs.ErrNotExist, "what is gone is not made anew")
}

// Values do not open in another place, also for one who can write the file.
func TestSwapped(t *testing.T) {
	kek := newKEK(t)
	for what, swap := range map[string]func(one, two *secret){
		"of another name": func(one, two *secret) {
			one.version(2).Key, two.version(1).Key = two.version(1).Key, one.version(2).Key
			one.version(2).Value, two.version(1).Value = two.version(1).Value, one.version(2).Value
		},
		"of another version": func(one, _ *secret) {
			one.version(1).Value, one.version(2).Value = one.version(2).Value, one.version(1).Value
			one.version(1).Key, one.version(2).Key = one.version(2).Key, one.version(1).Key
		},
		"of another version, without its key": func(one, _ *secret) {
			one.version(1).Value, one.version(2).Value = one.version(2).Value, one.version(1).Value
		},
		"of another number": func(one, _ *secret) { one.Versions[1].Number = 9 },
		"of another state": func(one, _ *secret) {
			one.version(1).State, one.version(2).State = credential.StateCurrent, credential.StatePrevious
		},
		"of another generation": func(one, _ *secret) { one.version(2).Sealed-- },
		"of another vault": func(one, _ *secret) {
			other, _ := seeded(t, kek, nil)
			*one.version(2) = *other.last.body.Secrets[0].version(2)
		},
	} {
		t.Run(what, func(t *testing.T) {
			s, path := seeded(t, kek, nil)
			g, err := s.current(t.Context())
			require.NoError(t, err)
			h, b := g.header, g.body.clone()
			h.Generation++
			h.Previous = g.hash
			swap(&b.Secrets[0], &b.Secrets[1])
			file, err := s.keys.join(h, b)
			require.NoError(t, err)
			put(t, path, file)
			again, err := Open(t.Context(), path, kek, nil)
			require.NoError(t, err)
			_, secret, err := again.Get(t.Context(), credential.Ref{Name: "one"})
			assert.ErrorIs(t, err, ErrCorrupt)
			assert.Equal(t, credential.ErrDestroyed, secret.Use(func([]byte) error { return nil }))
		})
	}
	t.Run("the header", func(t *testing.T) {
		s, path := seeded(t, kek, nil)
		_, head, sealed, err := split(readRaw(t, path))
		require.NoError(t, err)
		h := s.last.header
		h.Generation += 5
		text, err := json.Marshal(h)
		require.NoError(t, err)
		forged := append(bytes.Clone(head[:len(magic)+4]), text...)
		forged[len(magic)+3] = byte(len(text))
		forged[len(magic)+2] = byte(len(text) >> 8)
		put(t, path, append(forged, sealed...))
		_, err = Open(t.Context(), path, kek, nil)
		assert.ErrorIs(t, err, ErrCorrupt)
	})
}

// Another vault of the same KEK in the place of this one, with a history that the
// witness knows as well.
func TestAnotherVaultInItsPlace(t *testing.T) {
	kek, log := newKEK(t), audittest.NewLog(t)
	opts := func(id string) *Options { return &Options{Witness: LogWitness(log), ID: id} }
	s, path := seeded(t, kek, opts(""))
	_, other := seeded(t, kek, opts(""))
	require.Regexp(t, "^[0-9a-f]{32}$", s.ID())
	again, err := Open(t.Context(), path, kek, opts(s.ID()))
	require.NoError(t, err)
	require.Equal(t, s.ID(), again.ID())
	put(t, path, readRaw(t, other))
	_, err = again.List(t.Context(), "")
	assert.ErrorIs(t, err, ErrCorrupt, "the seal does not fit a vault that is open")
	there := opts(s.ID())
	there.Restored = true
	for _, o := range []*Options{opts(s.ID()), there} {
		_, err = Open(t.Context(), path, kek, o)
		assert.ErrorIs(t, err, ErrOther)
	}
	_, err = Open(t.Context(), path, kek, opts(""))
	assert.NoError(t, err, "nobody said which one")
	_, err = Create(t.Context(), path+"-new", kek, opts(s.ID()))
	assert.ErrorIs(t, err, ErrOther)
	assert.NoFileExists(t, path+"-new")
}

func TestRollback(t *testing.T) {
	kek := newKEK(t)
	log := audittest.NewLog(t)
	opts := &Options{Witness: LogWitness(log)}
	s, path := seeded(t, kek, opts)
	_, _ = seeded(t, kek, opts) // another vault in the same log
	old := readRaw(t, path)
	rotate(t, s, "one", 3)
	rotate(t, s, "one", 4)
	newest := readRaw(t, path)
	_, err := Open(t.Context(), path, kek, opts)
	require.NoError(t, err)

	for what, file := range map[string][]byte{"a copy": old, "the generation before": readRaw(t, path+prevSuffix)} {
		put(t, path, file)
		_, err = current(s, "one")
		assert.ErrorIs(t, err, ErrRollback, "%s, while it is open", what)
		_, err = s.Put(t.Context(), "three", credential.NewSecret([]byte("a value")), 0, "")
		assert.ErrorIs(t, err, ErrRollback, what)
		_, err = Open(t.Context(), path, kek, opts)
		assert.ErrorIs(t, err, ErrRollback, "%s, while it was not open", what)
		assert.Equal(t, file, readRaw(t, path), what)
		_, err = Open(t.Context(), path, kek, nil)
		assert.NoError(t, err, "%s: not detected without a witness", what)
	}

	// An old file that somebody else went on from, to the same generation.
	put(t, path, old)
	branch, err := Open(t.Context(), path, kek, nil)
	require.NoError(t, err)
	rotate(t, branch, "two", 2)
	rotate(t, branch, "two", 3)
	_, err = Open(t.Context(), path, kek, opts)
	assert.ErrorIs(t, err, ErrRollback)
	_, err = current(s, "one")
	assert.ErrorIs(t, err, ErrRollback)

	put(t, path, newest)
	v, err := current(s, "one")
	require.NoError(t, err)
	assert.EqualValues(t, 4, v)
	rotate(t, s, "one", 5)
}

// What somebody else saves, without the witness or with another, is told to the
// witness when it is read; what is restored on purpose, when that is said.
func TestWitnessOfOthers(t *testing.T) {
	kek := newKEK(t)
	log := audittest.NewLog(t)
	opts := &Options{Witness: LogWitness(log)}
	host, path := seeded(t, kek, opts)
	operator, err := Open(t.Context(), path, kek, &Options{Witness: LogWitness(audittest.NewLog(t))})
	require.NoError(t, err)
	before := readRaw(t, path)
	saves := func() (n int) {
		for _, r := range log.Records() {
			if r.Event != nil && r.Event.Action == ActionSave {
				n++
			}
		}
		return n
	}
	n := saves()
	require.EqualValues(t, n, host.last.header.Generation, "one for each save of its own")
	rotate(t, operator, "one", 3)
	log.Fail(errors.New("disk full"))
	_, err = current(host, "one")
	require.Error(t, err, "nothing is taken that the witness does not take")
	log.Fail(nil)
	for range 3 {
		v, err := current(host, "one")
		require.NoError(t, err)
		require.EqualValues(t, 3, v)
	}
	assert.Equal(t, n+1, saves())
	newest := readRaw(t, path)
	put(t, path, before)
	_, err = Open(t.Context(), path, kek, opts)
	require.ErrorIs(t, err, ErrRollback, "also of what the host did not save")
	put(t, path, newest)
	rotate(t, operator, "one", 4)
	_, err = Open(t.Context(), path, kek, opts)
	require.NoError(t, err)
	put(t, path, newest)
	_, err = Open(t.Context(), path, kek, opts)
	require.ErrorIs(t, err, ErrRollback, "nor of what it saw on opening")

	_, err = Open(t.Context(), path, kek, &Options{Witness: opts.Witness, Restored: true})
	require.NoError(t, err)
	again, err := Open(t.Context(), path, kek, opts)
	require.NoError(t, err)
	rotate(t, again, "two", 2)
	_, err = Open(t.Context(), path, kek, opts)
	require.NoError(t, err)
}

// What the witness knows is told again each day, and found at the end of a long
// log.
func TestWitnessDaily(t *testing.T) {
	kek := newKEK(t)
	log := audittest.NewLog(t)
	now := time.Now()
	opts := &Options{Witness: LogWitness(log), Now: func() time.Time { return now }}
	s, path := seeded(t, kek, opts)
	old := readRaw(t, path)
	rotate(t, s, "one", 3)
	size := log.Size()
	for range 3 {
		now = now.Add(25 * time.Hour)
		for range 2 {
			_, err := current(s, "one")
			require.NoError(t, err)
		}
	}
	require.Equal(t, size+3, log.Size())
	for range 5000 {
		require.NoError(t, log.Append(t.Context(), audit.Event{Kind: audit.KindProbe, Door: audit.DoorAdmin, Action: "x", Resource: "y"}))
	}
	_, err := Open(t.Context(), path, kek, opts)
	require.NoError(t, err)
	seal, err := opts.Witness.Newest(t.Context(), s.last.header.ID)
	require.NoError(t, err)
	assert.Equal(t, s.last.hash, seal.SHA256)
	seal, err = opts.Witness.Newest(t.Context(), "another")
	require.NoError(t, err)
	assert.Zero(t, seal)
	put(t, path, old)
	_, err = Open(t.Context(), path, kek, opts)
	assert.ErrorIs(t, err, ErrRollback)
}

// A save is cut off at the worst moments.
func TestInterrupted(t *testing.T) {
	kek := newKEK(t)
	log := audittest.NewLog(t)
	opts := &Options{Witness: LogWitness(log)}
	s, path := seeded(t, kek, opts)
	old := readRaw(t, path)
	rotate(t, s, "one", 3)
	before, newest := readRaw(t, path+prevSuffix), readRaw(t, path)

	// After the witness was told: completed, because the next file is there.
	put(t, path, before)
	put(t, path+newSuffix, newest)
	again, err := Open(t.Context(), path, kek, opts)
	require.NoError(t, err)
	v, err := current(again, "one")
	require.NoError(t, err)
	assert.EqualValues(t, 3, v)
	assert.Equal(t, newest, readRaw(t, path))
	assert.Equal(t, before, readRaw(t, path+prevSuffix))
	assert.NoFileExists(t, path+newSuffix)

	// Not if the next file is another one, or does not follow.
	for what, files := range map[string][2][]byte{
		"no next file":        {before, nil},
		"another next file":   {before, old},
		"not the one before":  {old, newest},
		"a damaged next file": {before, newest[:len(newest)-1]},
	} {
		_ = os.Remove(path + newSuffix)
		put(t, path, files[0])
		if files[1] != nil {
			put(t, path+newSuffix, files[1])
		}
		_, err = Open(t.Context(), path, kek, opts)
		assert.ErrorIs(t, err, ErrRollback, what)
	}

	// Before the witness was told: what is beside is nothing.
	put(t, path, newest)
	put(t, path+newSuffix, []byte("half of a fi"))
	again, err = Open(t.Context(), path, kek, opts)
	require.NoError(t, err)
	rotate(t, again, "one", 4)
	assert.NoFileExists(t, path+newSuffix)
}

func TestWitnessDown(t *testing.T) {
	kek := newKEK(t)
	log := audittest.NewLog(t)
	opts := &Options{Witness: LogWitness(log)}
	s, path := seeded(t, kek, opts)
	file := readRaw(t, path)
	down := errors.New("disk full")
	log.Fail(down)
	_, err := s.Put(t.Context(), "three", credential.NewSecret([]byte("a value")), 0, "")
	assert.ErrorIs(t, err, down)
	assert.ErrorIs(t, s.SetState(t.Context(), credential.Ref{Name: "one", Version: 2}, credential.StateCurrent, credential.StateRevoked), down)
	assert.Equal(t, file, readRaw(t, path), "no record, no save")
	_, err = Create(t.Context(), path+"2", kek, opts)
	assert.ErrorIs(t, err, down)
	assert.NoFileExists(t, path+"2")
	log.Fail(nil)
	rotate(t, s, "one", 3)
	_, err = Open(t.Context(), path, kek, opts)
	require.NoError(t, err)
	_, err = Open(t.Context(), path, kek, &Options{Witness: deadWitness{}})
	assert.ErrorContains(t, err, "witness does not answer")
}

type deadWitness struct{ Witness }

func (deadWitness) Newest(context.Context, string) (Seal, error) { return Seal{}, errors.New("down") }

func TestLockIsWaitedFor(t *testing.T) {
	s, path := newVault(t, newKEK(t), nil)
	unlock, err := lock(t.Context(), path)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = s.Put(ctx, "one", credential.NewSecret([]byte("a value")), 0, "")
	assert.ErrorIs(t, err, ErrBusy)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	unlock()
	_, err = s.Put(t.Context(), "one", credential.NewSecret([]byte("a value")), 0, "")
	assert.NoError(t, err)
}

func TestLimits(t *testing.T) {
	s, _ := newVault(t, newKEK(t), nil)
	put := func(name string, size int, after uint64, note int) error {
		_, err := s.Put(t.Context(), name, credential.NewSecret(bytes.Repeat([]byte("x"), size)), after, string(bytes.Repeat([]byte("n"), note)))
		return err
	}
	assert.NoError(t, put("one", credential.MaxLength, 0, maxNote))
	assert.ErrorIs(t, put("one", credential.MaxLength+1, 1, 0), credential.ErrLength)
	assert.ErrorIs(t, put("one", 1, 1, maxNote+1), ErrTooLarge)
	b := body{Secrets: make([]secret, maxNames+1)}
	assert.ErrorIs(t, b.check(1), ErrTooLarge)
	many := secret{Name: "many", Versions: make([]version, maxVersions+1)}
	assert.ErrorIs(t, many.check(1), ErrTooLarge)
}
