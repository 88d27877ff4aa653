// Package keyring keeps secrets in the keyring of the person who is logged in:
// the Secret Service of a Linux desktop (GNOME Keyring, KWallet), the macOS
// Keychain, the Windows Credential Manager. It is a [credential.Store] for a
// developer's machine, and [Key] is a key-encryption key for a vault in a file.
//
// A keyring holds texts under names. Each version of a secret is an item, each
// secret has one more that says which versions there are and in which state,
// and one item holds the names. Changes are made under a lock file, so that
// processes of one user do not undo each other's.
//
// Keyrings take a while (16 ms to write an item, measured with GNOME Keyring),
// may ask the person to unlock them, and take texts, of which copies stay in
// this process's memory until they are overwritten. macOS takes items of about
// 3,000 bytes and Windows of 2,560, so that on these no more than some hundred
// names and some ten versions of each fit.
package keyring

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/zalando/go-keyring"

	"github.com/twinward-dev/twinward/credential"
)

// Options of a [Store]. The zero value of each field is safe.
type Options struct {
	// Service is what the items of the store are filed under. Empty means
	// "twinward".
	Service string
	// LockFile is the file that is locked during changes, made if need be. It
	// must be on a local disk. Empty means one in the user's cache folder.
	LockFile string
	// Clock tells the time. Nil means time.Now.
	Clock func() time.Time

	ring ring // nil means the user's; tests have others
}

// A ring is a keyring.
type ring interface {
	Set(service, user, password string) error
	Get(service, user string) (string, error)
	Delete(service, user string) error
}

// usersRing is the keyring of the user who is logged in.
type usersRing struct{}

func (usersRing) Set(service, user, password string) error {
	return keyring.Set(service, user, password)
}
func (usersRing) Get(service, user string) (string, error) { return keyring.Get(service, user) }
func (usersRing) Delete(service, user string) error        { return keyring.Delete(service, user) }

func (o *Options) withDefaults() (Options, error) {
	var out Options
	if o != nil {
		out = *o
	}
	if out.Service == "" {
		out.Service = "twinward"
	}
	if err := credential.CheckName(out.Service); err != nil || strings.Contains(out.Service, "/") {
		return out, fmt.Errorf("keyring: %q is no name of a service: letters, digits, dot, dash and underscore", out.Service)
	}
	if out.LockFile == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return out, fmt.Errorf("keyring: set Options.LockFile: %w", err)
		}
		out.LockFile = filepath.Join(cache, "twinward", "keyring-"+out.Service+".lock")
	}
	if out.Clock == nil {
		out.Clock = time.Now
	}
	if out.ring == nil {
		out.ring = usersRing{}
	}
	return out, nil
}

var (
	// ErrUnavailable is matched when there is no keyring, or it is locked, or
	// it fails: log in to the desktop, or unlock it, and try again.
	ErrUnavailable = errors.New("keyring: the keyring of this user cannot be used now: log in to the desktop or unlock it, then try again")
	// ErrTooBig is matched when an item is larger than the keyring takes.
	ErrTooBig = errors.New("keyring: more than this keyring takes in one item: revoke and destroy old versions, use shorter notes, or keep the secret elsewhere")
	// ErrDamaged is matched when an item is there and is not as this package
	// writes it.
	ErrDamaged = errors.New("keyring: an item was changed by another program: repair or delete it")
)

// A box is the items of one service. Its methods wait for the keyring as long
// as it takes.
type box struct {
	service string
	ring    ring
}

var errAbsent = errors.New("absent")

// get returns an item's text, or errAbsent.
func (b box) get(item string) (string, error) {
	text, err := b.ring.Get(b.service, item)
	switch {
	case errors.Is(err, keyring.ErrNotFound):
		return "", errAbsent
	case err != nil:
		return "", fmt.Errorf("%w (%w)", ErrUnavailable, err)
	}
	return text, nil
}

func (b box) set(item, text string) error {
	err := b.ring.Set(b.service, item, text)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, keyring.ErrSetDataTooBig):
		return ErrTooBig
	case strings.Contains(err.Error(), text): // no known one does
		return ErrUnavailable
	}
	return fmt.Errorf("%w (%w)", ErrUnavailable, err)
}

func (b box) remove(item string) error {
	if err := b.ring.Delete(b.service, item); err != nil && !errors.Is(err, keyring.ErrNotFound) {
		return fmt.Errorf("%w (%w)", ErrUnavailable, err)
	}
	return nil
}

// chunk is how much of a value goes into one item.
const chunk = 2048

// coded marks values that are not text, or that would be taken for coded ones.
const coded = "base64:"

// setValue stores a value in as many items as it takes, and returns how many.
func (b box) setValue(item string, secret credential.Secret) (parts int, err error) {
	var text string
	if err := secret.Use(func(raw []byte) error {
		if len(raw) > credential.MaxLength {
			return credential.ErrLength
		}
		// Keyrings disagree about NUL and about the end of lines.
		if utf8.Valid(raw) && !strings.HasPrefix(string(raw), coded) && !slices.ContainsFunc(raw, func(c byte) bool { return c < ' ' }) {
			text = string(raw)
		} else {
			text = coded + base64.StdEncoding.EncodeToString(raw)
		}
		return nil
	}); err != nil {
		return 0, err
	}
	for piece := range slices.Chunk([]byte(text), chunk) {
		if err := b.set(part(item, parts), string(piece)); err != nil {
			return parts, err
		}
		parts++
	}
	return parts, nil
}

// part names the items of a value.
func part(item string, n int) string {
	if n == 0 {
		return item
	}
	return fmt.Sprintf("%s.%d", item, n)
}

// value reads what setValue has stored, or returns errAbsent.
func (b box) value(item string, parts int) (credential.Secret, error) {
	var text []byte
	defer func() { clear(text) }()
	for n := range parts {
		piece, err := b.get(part(item, n))
		if err != nil {
			return credential.Secret{}, err
		}
		text = append(text, piece...)
	}
	if encoded, ok := strings.CutPrefix(string(text), coded); ok {
		raw, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			return credential.Secret{}, fmt.Errorf("%w: %s", ErrDamaged, item)
		}
		return credential.NewSecret(raw), nil
	}
	if len(text) == 0 {
		return credential.Secret{}, fmt.Errorf("%w: %s", ErrDamaged, item)
	}
	return credential.NewSecret(text), nil
}

func (b box) removeValue(item string, parts int) error {
	for n := range parts {
		if err := b.remove(part(item, n)); err != nil {
			return err
		}
	}
	return nil
}

// within runs f, which waits for the keyring and cannot be cancelled, as long
// as ctx lets the caller wait. Turn admits one f at a time; one that was given
// up keeps its turn until the keyring answers.
func within[T any](ctx context.Context, turn chan struct{}, f func() (T, error)) (T, error) {
	var zero T
	if err := ctx.Err(); err != nil {
		return zero, err
	}
	select {
	case turn <- struct{}{}:
	case <-ctx.Done():
		return zero, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-turn }()
		v, err := f()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
		return zero, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
}
