package audit

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
	"io/fs"
	"path/filepath"
	"strings"
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

// LoadKEK reads a file that [Open] made for [Options.KEKFile]. It refuses a file
// that others can read.
func LoadKEK(path string) (KEK, error) {
	text, err := readSecretFile(path)
	if err != nil {
		return nil, err
	}
	k, err := parseKEK(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrKey, path, err)
	}
	return k, nil
}

func parseKEK(text string) (KEK, error) {
	rest, ok := strings.CutPrefix(text, kekFileHead+kekWord)
	key, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSuffix(rest, "\n"))
	if !ok || err != nil || len(key) != keySize || kekFileHead+newLocalKEK(key).text()+"\n" != text {
		return nil, errors.New("not a file of a key-encryption key")
	}
	return newLocalKEK(key), nil
}

// loadOrCreateKEK reads the file, or makes one with mode 0600 if it is absent and
// mayCreate. The caller holds the lock of the log.
func loadOrCreateKEK(path string, mayCreate bool) (KEK, error) {
	k, err := LoadKEK(path)
	switch {
	case err == nil || !errors.Is(err, fs.ErrNotExist):
		return k, err
	case !mayCreate:
		return nil, fmt.Errorf("%w: the log's values exist, the key that wraps their keys does not (Options.NoValues goes on without): %w", ErrKey, err)
	}
	if err := makeDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	made := NewKEK().(localKEK)
	if err := writeFileAtomic(path, []byte(kekFileHead+made.text()+"\n")); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return made, nil
}
