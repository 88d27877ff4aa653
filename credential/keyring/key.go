package keyring

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/twinward-dev/twinward/credential"
)

// KeyBytes is how long a [Key] is.
const KeyBytes = 32

// Key returns the key of that name, which is made of random bytes when it is
// first asked for: 32 bytes, for whatever encrypts a file. The caller owns the
// secret. Whoever loses the keyring loses what the key has encrypted.
func Key(ctx context.Context, name string, opts *Options) (credential.Secret, error) {
	o, err := opts.withDefaults()
	if err != nil {
		return credential.Secret{}, err
	}
	if err := credential.CheckName(name); err != nil {
		return credential.Secret{}, err
	}
	b, item := box{o.Service}, "key/"+name
	return within(ctx, make(chan struct{}, 1), func() (credential.Secret, error) {
		return locked(ctx, o.LockFile, func() (credential.Secret, error) {
			text, err := b.get(item)
			if errors.Is(err, errAbsent) {
				fresh := make([]byte, KeyBytes)
				_, _ = rand.Read(fresh) // never fails
				if err := b.set(item, base64.StdEncoding.EncodeToString(fresh)); err != nil {
					return credential.Secret{}, err
				}
				// Read it back: what is encrypted with a key that was not stored
				// is lost.
				text, err = b.get(item)
				if err == nil && text != base64.StdEncoding.EncodeToString(fresh) {
					err = fmt.Errorf("%w: the keyring does not return what it was given", ErrUnavailable)
				}
				clear(fresh)
			}
			if err != nil {
				return credential.Secret{}, err
			}
			raw, err := base64.StdEncoding.DecodeString(text)
			if err != nil || len(raw) != KeyBytes {
				return credential.Secret{}, fmt.Errorf("%w: %s", ErrDamaged, item)
			}
			return credential.NewSecret(raw), nil
		})
	})
}
