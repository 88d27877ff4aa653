package credential

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
	"sync"
)

// redacted is what every way of printing a Secret shows.
const redacted = "[redacted]"

// A Secret is bytes that can be used and not seen. Copies of a Secret share the
// bytes; destroying one destroys all. The zero Secret is empty. A Secret is
// safe for concurrent use.
//
// Secrets cannot be compared with ==; see [Secret.Equal].
type Secret struct {
	// A function rather than a pointer: reflection, and with it every dumper
	// that follows unexported pointers, cannot look into a closure. It also
	// makes the type incomparable.
	cell func() *cell
}

type cell struct {
	mu sync.RWMutex
	b  []byte // nil once destroyed
}

// NewSecret moves b into a Secret: the bytes are copied and b is zeroed, so
// that the caller is left with nothing to lose.
func NewSecret(b []byte) Secret {
	c := &cell{b: append(make([]byte, 0, len(b)), b...)}
	clear(b)
	return Secret{func() *cell { return c }}
}

// Use calls f with the bytes. They are valid until f returns; f must neither
// keep nor change them, nor call [Secret.Destroy] on the same secret, which
// waits for f. Use returns the error of f, or [ErrDestroyed] when there are no
// bytes.
func (s Secret) Use(f func(b []byte) error) error {
	if s.cell == nil {
		return ErrDestroyed
	}
	c := s.cell()
	c.mu.RLock()
	defer c.mu.RUnlock()
	if len(c.b) == 0 {
		return ErrDestroyed
	}
	return f(c.b)
}

// Destroy waits for running uses, then zeroes the bytes. Later uses fail.
func (s Secret) Destroy() {
	if s.cell == nil {
		return
	}
	c := s.cell()
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.b)
	c.b = nil
}

// Clone returns a secret with bytes of its own, which is empty if these are
// gone.
func (s Secret) Clone() (t Secret) {
	_ = s.Use(func(b []byte) error {
		c := &cell{b: append(make([]byte, 0, len(b)), b...)}
		t = Secret{func() *cell { return c }}
		return nil
	})
	return t
}

// Equal reports whether both secrets hold the same bytes, in time that depends
// on their lengths only. Empty and destroyed secrets equal nothing.
func (s Secret) Equal(t Secret) bool {
	// Digests are compared, because holding both locks at once could deadlock
	// with two destroyers.
	a, errA := s.digest()
	b, errB := t.digest()
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1 && errA == nil && errB == nil
}

func (s Secret) digest() (sum [sha256.Size]byte, err error) {
	err = s.Use(func(b []byte) error {
		sum = sha256.Sum256(b)
		return nil
	})
	return sum, err
}

// checkLength returns ErrLength unless the secret can be scrubbed.
func (s Secret) checkLength() error {
	return s.Use(func(b []byte) error {
		if len(b) < MinLength || len(b) > MaxLength {
			return ErrLength
		}
		return nil
	})
}

// The methods below exist so that no printer, logger or encoder shows more than
// "[redacted]".

// String implements [fmt.Stringer].
func (s Secret) String() string { return redacted }

// GoString implements [fmt.GoStringer].
func (s Secret) GoString() string { return redacted }

// Format implements [fmt.Formatter] for all verbs.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue implements [slog.LogValuer].
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements [encoding.TextMarshaler].
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON implements [encoding/json.Marshaler].
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalYAML is what YAML packages look for.
func (s Secret) MarshalYAML() (any, error) { return redacted, nil }

// MarshalBinary implements [encoding.BinaryMarshaler].
func (s Secret) MarshalBinary() ([]byte, error) { return []byte(redacted), nil }

// GobEncode implements [encoding/gob.GobEncoder].
func (s Secret) GobEncode() ([]byte, error) { return []byte(redacted), nil }

// GobDecode refuses: a secret is never read back from where it was printed.
func (s *Secret) GobDecode([]byte) error {
	return fmt.Errorf("credential: a secret cannot be decoded: %w", ErrDestroyed)
}
