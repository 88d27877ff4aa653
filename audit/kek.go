package audit

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
)

// A KEK is a key-encryption key: it wraps the keys that values are encrypted
// with ([LevelFull]). The log only wraps; reading values unwraps. So a host may
// give a log a KEK that cannot unwrap, and keep the other half elsewhere. It is
// safe for concurrent use.
type KEK interface {
	// ID names the key. It is stored in the clear beside what the key wrapped.
	ID() string
	// Wrap encrypts a key of 32 bytes so that it is bound to the given context,
	// and Unwrap is its inverse, which fails with another context.
	Wrap(ctx context.Context, key, bound []byte) ([]byte, error)
	Unwrap(ctx context.Context, wrapped, bound []byte) ([]byte, error)
}

// A localKEK wraps with AES-256-GCM. Random nonces are good for 2^32 keys.
type localKEK struct {
	id   string
	aead cipher.AEAD
	text func() string // behind a function, so that no printing reaches it
}

const (
	kekFileHead = "# Wraps the keys of a Twinward audit log's values. Whoever has it and the values reads them: keep it apart.\n"
	kekWord     = "twinward-kek-v1+"
	keySize     = 32
)

// NewKEK makes a random one, in memory.
func NewKEK() KEK {
	key := make([]byte, keySize)
	rand.Read(key)
	return newLocalKEK(key)
}

func newLocalKEK(key []byte) localKEK {
	id := sha256.Sum256(append([]byte("twinward kek id v1\n"), key...))
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // the size is a constant
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	text := kekWord + base64.StdEncoding.EncodeToString(key)
	return localKEK{hex.EncodeToString(id[:8]), aead, func() string { return text }}
}

// ID implements [KEK].
func (k localKEK) ID() string { return k.id }

// String does not print the key but its name.
func (k localKEK) String() string { return "KEK " + k.id }

// GoString does not print the key but its name.
func (k localKEK) GoString() string { return k.String() }

// Wrap implements [KEK].
func (k localKEK) Wrap(_ context.Context, key, bound []byte) ([]byte, error) {
	return k.aead.Seal(nil, nil, key, bound), nil
}

// Unwrap implements [KEK].
func (k localKEK) Unwrap(_ context.Context, wrapped, bound []byte) ([]byte, error) {
	return k.aead.Open(nil, nil, wrapped, bound)
}
