package audit

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"time"
)

var idAlphabet = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// NewID returns an id for a [Decision]. It is unique, cannot be guessed, and
// sorts by the time it was made: 48 bits of milliseconds and 80 random bits, in
// 26 characters that are hard to confuse with one another.
func NewID() string {
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], uint64(time.Now().UnixMilli())<<16)
	rand.Read(raw[6:]) // never fails
	return idAlphabet.EncodeToString(raw[:])
}
