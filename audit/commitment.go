package audit

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"hash"
)

// A Commitment binds a record to arguments that the log does not hold.
//
// Arguments are often secret and often easy to guess (a channel's name, a
// boolean), so a plain hash would give them away. Each commitment has its own
// key, the opening, derived from the log's key and a fresh salt:
//
//	opening = HMAC-SHA256(commitment key, salt)
//	mac     = HMAC-SHA256(opening, args)
//
// Without the log's key nobody can test a guess, nor tell whether two records
// had equal arguments. The holder of the key can prove what one record's
// arguments were: disclose the arguments and the opening ([Key.Opening]), and
// anyone checks them with [Commitment.Matches]. An opening is good for its one
// record and opens no other.
//
// Where the arguments themselves are kept ([LevelFull]), the opening is random
// and kept with them, encrypted: when both are erased, not even the log's key can
// test a guess. [Values.Reveal] gets both back until then.
type Commitment struct {
	// Len is the length of the arguments in bytes.
	Len int `json:"len"`
	// Salt is random, 16 bytes.
	Salt []byte `json:"salt"`
	// MAC is HMAC-SHA256 of the arguments under the opening.
	MAC []byte `json:"mac"`
	// Kept says that the arguments were kept beside the log.
	Kept bool `json:"kept,omitempty"`
	// Fields commits to each member of arguments that are kept and are an object,
	// so that one can be disclosed without the others: see [Disclosure.Only].
	Fields []byte `json:"fields,omitempty"`
}

// Matches reports whether args are what was committed to, given the opening.
func (c Commitment) Matches(args, opening []byte) bool {
	return len(args) == c.Len && subtle.ConstantTimeCompare(c.MAC, mac(opening, args)) == 1
}

// Opening returns the key that opens one commitment, for disclosure, unless the
// commitment says Kept.
func (k *Key) Opening(c Commitment) []byte {
	h, ok := k.secret.openers.Get().(hash.Hash)
	if !ok {
		h = hmac.New(sha256.New, k.secret.commit[:])
	}
	h.Write(c.Salt)
	opening := h.Sum(nil)
	h.Reset()
	k.secret.openers.Put(h)
	return opening
}

// commitTo commits to args with a fresh salt. No args, no commitment.
func (k *Key) commitTo(args []byte) *Commitment {
	if args == nil {
		return nil
	}
	c := &Commitment{Len: len(args), Salt: make([]byte, 16)}
	rand.Read(c.Salt) // never fails: crypto/rand ends the program instead
	c.MAC = mac(k.Opening(*c), args)
	return c
}

func mac(key, data []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(data)
	return h.Sum(nil)
}
