package keyring

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/twinward-dev/twinward/audit"
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
	b, item := box{o.Service, o.ring}, "key/"+name
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

// KEK returns the [Key] of that name as a key-encryption key, for a vault in a
// file (credential/filevault) or the values of an audit log. It wraps with
// AES-256-GCM. The keyring is asked once, here; the key then stays in memory.
func KEK(ctx context.Context, name string, opts *Options) (audit.KEK, error) {
	key, err := Key(ctx, name, opts)
	if err != nil {
		return nil, err
	}
	defer key.Destroy()
	var k kek
	err = key.Use(func(b []byte) error {
		sum := sha256.Sum256(append([]byte("twinward keyring kek v1\n"), b...))
		k.id = "keyring:" + hex.EncodeToString(sum[:8])
		block, err := aes.NewCipher(b)
		if err != nil {
			return err
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		k.aead = func() cipher.AEAD { return aead }
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	return k, nil
}

type kek struct {
	id   string
	aead func() cipher.AEAD // behind a function, so that no printing reaches it
}

func (k kek) ID() string { return k.id }

func (k kek) Wrap(ctx context.Context, key, bound []byte) ([]byte, error) {
	return k.aead().Seal(nil, nil, key, bound), ctx.Err()
}

func (k kek) Unwrap(ctx context.Context, wrapped, bound []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return k.aead().Open(nil, nil, wrapped, bound)
}
