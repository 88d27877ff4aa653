package mcpx

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/credential"
)

// What a client carries for the gateway between two requests (a cursor, the
// state of a call that waits for input) is sealed: the client cannot read it,
// and cannot use it for anything but what it was made for.

// minStateKey is the shortest key that may be given, in bytes.
const minStateKey = 32

var (
	// errSeal covers what was not made here, was changed, or was made for
	// somebody or something else. Which of these does not matter and is not told.
	errSeal = errors.New("mcpx: this state is not good for this request")
	// errSealExpired is returned for state that would have been good earlier.
	errSealExpired = errors.New("mcpx: this state has expired: begin again")
)

// A sealer seals state. It is safe for concurrent use.
type sealer struct {
	key []byte
	now func() time.Time
}

// newSealer derives a sealer from key. The zero secret means a random key, so
// that what is sealed ends with this process.
func newSealer(key credential.Secret) (*sealer, error) {
	s := &sealer{now: time.Now}
	err := key.Use(func(b []byte) (err error) {
		if len(b) < minStateKey {
			return fmt.Errorf("mcpx: StateKey has %d bytes: use %d random ones", len(b), minStateKey)
		}
		s.key, err = hkdf.Key(sha256.New, b, nil, "twinward mcpx state 1", sha256.Size)
		return err
	})
	if errors.Is(err, credential.ErrDestroyed) {
		s.key, err = make([]byte, sha256.Size), nil
		rand.Read(s.key)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// A binding is all that sealed state is good for.
type binding struct {
	use    string // what the state is: "cursor", "input", …
	owner  string // of whom: see owner
	method string
	name   string // the tool, prompt or URI that is asked for
	digest string // of the parameters that must stay the same: see digestOf
}

func (b binding) bytes() []byte { return []byte(quoteJoin(b.use, b.owner, b.method, b.name, b.digest)) }

// digestOf identifies parameters, byte for byte.
func digestOf(params []byte) string {
	sum := sha256.Sum256(params)
	return string(sum[:])
}

const (
	sealSalt  = 16
	sealNonce = 12
)

// seal returns state as text that a client can carry until then.
func (s *sealer) seal(b binding, until time.Time, state []byte) string {
	out := make([]byte, sealSalt+sealNonce, sealSalt+sealNonce+8+len(state)+16)
	rand.Read(out)
	aead := s.aead(out[:sealSalt])
	plain := binary.BigEndian.AppendUint64(nil, uint64(until.UnixMilli()))
	out = aead.Seal(out, out[sealSalt:], append(plain, state...), b.bytes())
	return base64.RawURLEncoding.EncodeToString(out)
}

// maxSealed bounds what is opened, in characters.
const maxSealed = 64 << 10

// open returns the state that seal was given for the same binding.
func (s *sealer) open(b binding, text string) ([]byte, error) {
	if len(text) > maxSealed || strings.ContainsAny(text, "\r\n") { // which the decoder passes over
		return nil, errSeal
	}
	in, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(in) < sealSalt+sealNonce {
		return nil, errSeal
	}
	head := in[:sealSalt+sealNonce]
	plain, err := s.aead(head[:sealSalt]).Open(nil, head[sealSalt:], in[len(head):], b.bytes())
	if err != nil || len(plain) < 8 {
		return nil, errSeal
	}
	if s.now().UnixMilli() >= int64(binary.BigEndian.Uint64(plain)) {
		return nil, errSealExpired
	}
	return plain[8:], nil
}

// aead gives every message a key of its own, so that random nonces never run
// out, however much is sealed with one StateKey on however many hosts.
func (s *sealer) aead(salt []byte) cipher.AEAD {
	key, err := hkdf.Key(sha256.New, s.key, salt, "message", 32)
	if err != nil {
		panic(err) // only for keys that are too long
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
}
