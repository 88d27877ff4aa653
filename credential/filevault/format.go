package filevault

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/credential"
)

// The file is magic, the length of the header (32 bits, big-endian), the header
// (JSON), and the body (JSON), which is sealed.
const (
	magic      = "TWVAULT1"
	headerSize = 16 << 10
	fileSize   = 64 << 20

	maxNames    = 10_000
	maxVersions = 256 // of one name
	maxNote     = 1 << 10
	// keepDead is how many revoked and destroyed versions of a name are kept.
	keepDead = 16
)

// A header is what a file says in the clear. All of it is authenticated with the
// body.
type header struct {
	ID         string `json:"id"`         // of the vault: 32 hexadecimal digits
	KEK        string `json:"kek"`        // who wrapped the root key
	Root       []byte `json:"root"`       // the root key, wrapped
	Generation uint64 `json:"generation"` // from 1
	Previous   string `json:"previous"`   // SHA-256 of the generation before
}

// A body is what a file says under encryption: the secrets, ordered by name.
type body struct {
	Secrets []secret `json:"secrets"`
}

type secret struct {
	Name     string                  `json:"name"`
	Binding  *credential.BindingSpec `json:"binding,omitempty"`
	Versions []version               `json:"versions"` // ordered by number
}

type version struct {
	Number  uint64           `json:"version"`
	State   credential.State `json:"state"`
	Created time.Time        `json:"created"`
	Changed time.Time        `json:"changed"`
	Note    string           `json:"note,omitempty"`
	// Sealed is the generation in which the value was sealed, Key its data key,
	// sealed with the root's, and Value the value, sealed with the data key. A
	// destroyed version has neither.
	Sealed uint64 `json:"sealed,omitempty"`
	Key    []byte `json:"key,omitempty"`
	Value  []byte `json:"value,omitempty"`
}

// split takes a file apart, without knowing a key.
func split(file []byte) (h header, head, sealed []byte, err error) {
	bad := func(what string) (header, []byte, []byte, error) {
		return header{}, nil, nil, fmt.Errorf("%w: %s", ErrCorrupt, what)
	}
	rest, ok := bytes.CutPrefix(file, []byte(magic))
	if !ok {
		return bad("it does not begin as a vault does")
	}
	if len(file) > fileSize || len(rest) < 4 {
		return bad("it is too long or too short")
	}
	n := binary.BigEndian.Uint32(rest)
	rest = rest[4:]
	if n > headerSize || int(n) > len(rest) {
		return bad("its header is too long")
	}
	text := rest[:n]
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&h); err != nil {
		return bad("its header is not well formed")
	}
	// There is one way to write a header; any other is no header.
	if again, err := json.Marshal(h); err != nil || !bytes.Equal(again, text) {
		return bad("its header is not well formed")
	}
	if !isHex(h.ID, 16) || h.Generation == 0 || (h.Generation > 1) != (h.Previous != "") || h.Previous != "" && !isHex(h.Previous, sha256.Size) {
		return bad("its header is not complete")
	}
	return h, file[:len(magic)+4+int(n)], rest[n:], nil
}

func isHex(s string, size int) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == size && s == strings.ToLower(s)
}

// join is the inverse of split.
func (k *keys) join(h header, b body) ([]byte, error) {
	text, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	if len(text) > headerSize {
		return nil, fmt.Errorf("%w: a header of %d bytes", ErrTooLarge, len(text))
	}
	file := append([]byte(magic), 0, 0, 0, 0)
	binary.BigEndian.PutUint32(file[len(magic):], uint32(len(text)))
	file = append(file, text...)
	if text, err = json.Marshal(b); err != nil {
		return nil, err
	}
	file = k.body.Seal(file, nil, text, file)
	if len(file) > fileSize {
		return nil, fmt.Errorf("%w: a file of %d bytes", ErrTooLarge, len(file))
	}
	return file, nil
}

// parseBody reads a body that has been opened, and checks that it is one.
func parseBody(text []byte, generation uint64) (b body, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&b); err != nil || d.More() {
		return body{}, fmt.Errorf("%w: its body is not well formed", ErrCorrupt)
	}
	if err := b.check(generation); err != nil {
		return body{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return b, nil
}

// check returns an error unless b keeps what a store promises.
func (b *body) check(generation uint64) error {
	if len(b.Secrets) > maxNames {
		return fmt.Errorf("%w: %d names", ErrTooLarge, len(b.Secrets))
	}
	last := ""
	for _, s := range b.Secrets {
		if err := credential.CheckName(s.Name); err != nil {
			return err
		}
		if s.Name <= last {
			return fmt.Errorf("the secret %q is out of order", s.Name)
		}
		last = s.Name
		if s.Binding != nil {
			if err := s.Binding.Validate(); err != nil {
				return fmt.Errorf("%q: %w", s.Name, err)
			}
		}
		if err := s.check(generation); err != nil {
			return fmt.Errorf("%q: %w", s.Name, err)
		}
	}
	return nil
}

func (s *secret) check(generation uint64) error {
	if len(s.Versions) == 0 || len(s.Versions) > maxVersions {
		return fmt.Errorf("%w: %d versions", ErrTooLarge, len(s.Versions))
	}
	var last uint64
	count := make(map[credential.State]int)
	for _, v := range s.Versions {
		count[v.State]++
		switch v.State {
		case credential.StatePending, credential.StateCurrent, credential.StatePrevious, credential.StateRevoked, credential.StateDestroyed:
		default:
			return fmt.Errorf("version %d has no known state", v.Number)
		}
		gone := v.State == credential.StateDestroyed
		if v.Number <= last || len(v.Note) > maxNote || v.Sealed > generation || (len(v.Key) == 0) != gone || (len(v.Value) == 0) != gone {
			return fmt.Errorf("version %d is not well formed", v.Number)
		}
		last = v.Number
	}
	if count[credential.StateCurrent] > 1 || count[credential.StatePrevious] > 1 {
		return fmt.Errorf("more than one version is current or previous")
	}
	return nil
}

// keys are what the root key is used for: never itself, and never for two
// things.
type keys struct {
	body cipher.AEAD // seals bodies
	data cipher.AEAD // seals data keys
}

// newKeys derives them and clears the root key.
func newKeys(root []byte, id string) (*keys, error) {
	defer clear(root)
	if len(root) != rootSize {
		return nil, fmt.Errorf("%w: the root key has %d bytes", ErrKEK, len(root))
	}
	derive := func(use string) (cipher.AEAD, error) {
		key, err := hkdf.Key(sha256.New, root, nil, "twinward filevault v1 "+use+" "+id, 32)
		if err != nil {
			return nil, err
		}
		defer clear(key)
		return newAEAD(key)
	}
	body, err := derive("body")
	if err != nil {
		return nil, err
	}
	data, err := derive("data keys")
	if err != nil {
		return nil, err
	}
	return &keys{body, data}, nil
}

// newAEAD returns AES-256-GCM with random nonces, which are good for 2^32
// messages of one key.
func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// bound is what a value is bound to. No name has a zero byte in it.
func (v *version) bound(name string) []byte {
	return fmt.Appendf(nil, "%s\x00%s\x00%d\x00%s\x00%d", magic, name, v.Number, v.State, v.Sealed)
}

func boundKey(name string, number uint64) []byte {
	return fmt.Appendf(nil, "%s key\x00%s\x00%d", magic, name, number)
}

// seal puts the value of a version in place, under a new data key, as of the
// state that the version has.
func (k *keys) seal(name string, v *version, generation uint64, value []byte) error {
	key := make([]byte, 32)
	defer clear(key)
	rand.Read(key)
	aead, err := newAEAD(key)
	if err != nil {
		return err
	}
	v.Sealed = generation
	v.Key = k.data.Seal(nil, nil, key, boundKey(name, v.Number))
	v.Value = aead.Seal(nil, nil, value, v.bound(name))
	return nil
}

// open returns the value of a version.
func (k *keys) open(name string, v *version) ([]byte, error) {
	key, err := k.data.Open(nil, nil, v.Key, boundKey(name, v.Number))
	if err != nil {
		return nil, fmt.Errorf("%w: the key of %s@%d is not its own", ErrCorrupt, name, v.Number)
	}
	defer clear(key)
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	value, err := aead.Open(nil, nil, v.Value, v.bound(name))
	if err != nil {
		return nil, fmt.Errorf("%w: the value of %s@%d is not its own", ErrCorrupt, name, v.Number)
	}
	return value, nil
}
