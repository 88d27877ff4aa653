package audit

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// A Cosignature is a witness's word that a checkpoint continues every earlier
// one of the log that it has seen (https://c2sp.org/tlog-cosignature).
type Cosignature struct {
	Witness string `json:"witness"` // name of its key
	// Records is how many the checkpoint covers.
	Records uint64 `json:"records"`
	// Time is when the witness signed, by its own clock.
	Time time.Time `json:"time"`
}

const (
	algCosignature = 4 // Ed25519
	timestampLen   = 8
	// maxTimestamp is the end of the year 9999: RFC 3339 has no later time.
	maxTimestamp = 253402300799
)

// A cosigner verifies the cosignatures of one witness. It is a [note.Verifier].
type cosigner struct {
	vkey, name string
	hash       uint32
	key        ed25519.PublicKey
}

// newCosigner decodes the verifier key of a witness. Only the one spelling is
// accepted.
func newCosigner(vkey string) (*cosigner, error) {
	bad := func(what string) (*cosigner, error) {
		return nil, fmt.Errorf("%w: %q is not the verifier key of a witness: %s", ErrKey, vkey, what)
	}
	parts := strings.SplitN(vkey, "+", 3)
	if len(parts) != 3 || parts[0] == "" || strings.ContainsAny(parts[0], " \t\r\n") {
		return bad("it is not a name, a hash and a key with + between them")
	}
	raw, err := base64.StdEncoding.DecodeString(parts[2])
	switch {
	case err != nil || len(raw) == 0:
		return bad("its key is not base64")
	case raw[0] != algCosignature:
		return bad(fmt.Sprintf("it is of type %d, and only type %d, Ed25519 cosignatures, can be checked", raw[0], algCosignature))
	case len(raw) != 1+ed25519.PublicKeySize:
		return bad("its key has another length")
	}
	c := &cosigner{vkey: vkey, name: parts[0], hash: cosignerHash(parts[0], raw), key: raw[1:]}
	if fmt.Sprintf("%s+%08x+%s", c.name, c.hash, base64.StdEncoding.EncodeToString(raw)) != vkey {
		return bad("its hash is another's")
	}
	return c, nil
}

// cosignerHash is the key ID of a signed note.
func cosignerHash(name string, typed []byte) uint32 {
	sum := sha256.Sum256(append([]byte(name+"\n"), typed...))
	return binary.BigEndian.Uint32(sum[:])
}

// Name implements [note.Verifier].
func (c *cosigner) Name() string { return c.name }

// KeyHash implements [note.Verifier].
func (c *cosigner) KeyHash() uint32 { return c.hash }

// Verify implements [note.Verifier].
func (c *cosigner) Verify(msg, sig []byte) bool {
	if len(sig) != timestampLen+ed25519.SignatureSize {
		return false
	}
	at := binary.BigEndian.Uint64(sig)
	if at > maxTimestamp {
		return false
	}
	signed := append([]byte("cosignature/v1\ntime "+strconv.FormatUint(at, 10)+"\n"), msg...)
	return ed25519.Verify(c.key, signed, sig[timestampLen:])
}

// open returns when the witness cosigned a checkpoint, and the signature as a
// line of the note. It fails if there is no cosignature of it, or a wrong one.
func (c *cosigner) open(text []byte) (at time.Time, line string, err error) {
	n, err := note.Open(text, note.VerifierList(c))
	if err != nil {
		return at, "", fmt.Errorf("the witness %s has not cosigned it: %w", c.name, err)
	}
	sig := n.Sigs[0] // note.Open leaves out repeated ones
	raw, err := base64.StdEncoding.DecodeString(sig.Base64)
	if err != nil {
		return at, "", err
	}
	at = time.Unix(int64(binary.BigEndian.Uint64(raw[4:])), 0).UTC() // after the key hash
	return at, "— " + sig.Name + " " + sig.Base64 + "\n", nil
}

// witnesses are those that a verifier has pinned.
type witnesses struct {
	list   []*cosigner
	quorum int
	most   map[string]uint64 // by verifier key: the largest checkpoint that it cosigned
	found  []Cosignature
}

func newWitnesses(vkeys []string, quorum int) (*witnesses, error) {
	w := &witnesses{quorum: quorum, most: map[string]uint64{}}
	for _, vkey := range vkeys {
		c, err := newCosigner(vkey)
		if err != nil {
			return nil, err
		}
		// Two names for one key are one witness.
		if slices.ContainsFunc(w.list, func(o *cosigner) bool { return o.name == c.name || o.key.Equal(c.key) }) {
			return nil, fmt.Errorf("%w: the witness %s was given twice", ErrKey, c.name)
		}
		w.list = append(w.list, c)
	}
	if quorum < 0 || quorum > len(w.list) {
		return nil, fmt.Errorf("%w: a quorum of %d among %d witnesses", ErrInvalid, quorum, len(w.list))
	}
	if quorum == 0 {
		w.quorum = len(w.list)
	}
	return w, nil
}

// see notes who cosigned a checkpoint, and reports whether anybody did.
func (w *witnesses) see(cp Checkpoint) bool {
	found := false
	for _, c := range w.list {
		at, _, err := c.open(cp.Text)
		if err != nil {
			continue
		}
		found = true
		w.most[c.vkey] = max(w.most[c.vkey], cp.Size)
		w.found = append(w.found, Cosignature{Witness: c.name, Records: cp.Size, Time: at})
	}
	return found
}

// covered is how many records a quorum vouches for. It fails if there is none.
func (w *witnesses) covered() (uint64, error) {
	if len(w.list) == 0 {
		return 0, nil
	}
	var sizes []uint64
	for _, size := range w.most {
		sizes = append(sizes, size)
	}
	if len(sizes) < w.quorum {
		return 0, fmt.Errorf("%w: %d of %d witnesses have cosigned an anchor, %d must have", ErrAnchor, len(sizes), len(w.list), w.quorum)
	}
	slices.Sort(sizes)
	return sizes[len(sizes)-w.quorum], nil
}
