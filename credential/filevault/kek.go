package filevault

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
)

// A KEK is the key-encryption key of a vault: it wraps the root key, when the
// vault is made, and unwraps it when the vault is opened. Key services and
// keyrings implement it; [Age] and [Passphrase] are here.
type KEK = audit.KEK

// rootSize is the size in bytes of the keys that a KEK wraps.
const rootSize = 32

// Age returns a KEK that wraps for all of the recipients and unwraps with any
// of the identities. Those of age's plugins are not for this: they run programs.
//
// Recipients are public keys: whoever knows them can make a vault that this KEK
// opens, and put it in the place of yours, if they can write there. The KEK of
// [LoadIdentity] takes only what was wrapped with the identity itself.
func Age(recipients []age.Recipient, identities []age.Identity) (KEK, error) {
	if len(recipients) == 0 {
		return nil, fmt.Errorf("%w: age needs a recipient", ErrKEK)
	}
	var names []string
	for _, r := range recipients {
		name := fmt.Sprintf("%T", r)
		if s, ok := r.(fmt.Stringer); ok {
			name = s.String() // a public key
		}
		names = append(names, name)
	}
	sum := sha256.Sum256([]byte(strings.Join(names, "\n")))
	return &ageKEK{id: "age:" + hex.EncodeToString(sum[:8]), recipients: recipients, identities: identities}, nil
}

// LoadIdentity returns the [Age] KEK of an identity file, as age-keygen makes
// it (with -pq for one that a quantum computer does not break). It refuses a
// file that others can read. It opens only vaults that were made with it: to
// know the public key is not enough.
func LoadIdentity(path string) (KEK, error) {
	text, err := readFile(path, 64<<10)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKEK, err)
	}
	defer clear(text)
	identities, err := age.ParseIdentities(bytes.NewReader(text))
	if err != nil {
		// age's own error may quote the line.
		return nil, fmt.Errorf("%w: %s is not an age identity file", ErrKEK, path)
	}
	var recipients []age.Recipient
	var private []byte
	defer func() { clear(private) }()
	for _, i := range identities {
		switch i := i.(type) {
		case *age.X25519Identity:
			recipients = append(recipients, i.Recipient())
			private = append(private, i.String()...)
		case *age.HybridIdentity:
			recipients = append(recipients, i.Recipient())
			private = append(private, i.String()...)
		}
	}
	kek, err := Age(recipients, identities)
	if err != nil {
		return nil, err
	}
	k := kek.(*ageKEK)
	k.id = "identity:" + strings.TrimPrefix(k.id, "age:")
	if k.mac, err = hkdf.Key(sha256.New, private, nil, "twinward filevault v1 wrapped by this identity", sha256.Size); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKEK, err)
	}
	return k, nil
}

// CreateIdentity makes an identity file, which must not exist yet, for
// [LoadIdentity]. Whoever has it and the vault has the secrets: keep the two
// apart, and keep a copy.
func CreateIdentity(path string) (KEK, error) {
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKEK, err)
	}
	text := fmt.Appendf(nil, "# Opens a Twinward vault: keep it apart from it.\n# public key: %s\n%s\n", id.Recipient(), id)
	defer clear(text)
	if err := createFile(path, text); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKEK, err)
	}
	return LoadIdentity(path)
}

// Passphrase returns a KEK that is derived from a passphrase (scrypt, as age
// does it; about a second for each opening). The secret belongs to the KEK.
func Passphrase(phrase credential.Secret) KEK { return &passphraseKEK{phrase, 18} }

// maxWork is the most that a file may ask of scrypt, as the power of two.
const maxWork = 22

type passphraseKEK struct {
	phrase credential.Secret
	work   int
}

func (k *passphraseKEK) ID() string { return "passphrase" }

func (k *passphraseKEK) Wrap(ctx context.Context, key, bound []byte) ([]byte, error) {
	var r *age.ScryptRecipient
	err := k.phrase.Use(func(b []byte) (err error) {
		r, err = age.NewScryptRecipient(string(b))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKEK, err)
	}
	r.SetWorkFactor(k.work)
	return (&ageKEK{recipients: []age.Recipient{r}}).Wrap(ctx, key, bound)
}

func (k *passphraseKEK) Unwrap(ctx context.Context, wrapped, bound []byte) ([]byte, error) {
	var i *age.ScryptIdentity
	err := k.phrase.Use(func(b []byte) (err error) {
		i, err = age.NewScryptIdentity(string(b))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKEK, err)
	}
	i.SetMaxWorkFactor(maxWork)
	return (&ageKEK{identities: []age.Identity{i}}).Unwrap(ctx, wrapped, bound)
}

// An ageKEK encrypts a digest of the context, followed by the key.
type ageKEK struct {
	id         string
	recipients []age.Recipient
	identities []age.Identity
	mac        []byte // if set, the digest is one that only the identity's owner can make
}

func (k *ageKEK) digest(key, bound []byte) []byte {
	sum := sha256.Sum256(bound)
	if k.mac == nil {
		return sum[:]
	}
	h := hmac.New(sha256.New, k.mac)
	h.Write(sum[:])
	h.Write(key)
	return h.Sum(nil)
}

func (k *ageKEK) ID() string { return k.id }

func (k *ageKEK) Wrap(ctx context.Context, key, bound []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, k.recipients...)
	if err == nil {
		text := append(k.digest(key, bound), key...)
		_, err = w.Write(text)
		clear(text)
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKEK, err)
	}
	return out.Bytes(), nil
}

func (k *ageKEK) Unwrap(ctx context.Context, wrapped, bound []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(k.identities) == 0 {
		return nil, fmt.Errorf("%w: there is no identity to unwrap with", ErrKEK)
	}
	r, err := age.Decrypt(bytes.NewReader(wrapped), k.identities...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKEK, err)
	}
	text := make([]byte, sha256.Size+rootSize+1)
	n, err := io.ReadFull(r, text)
	if err != io.ErrUnexpectedEOF || n <= sha256.Size || subtle.ConstantTimeCompare(k.digest(text[sha256.Size:n], bound), text[:sha256.Size]) != 1 {
		return nil, fmt.Errorf("%w: the wrapped key belongs elsewhere, or somebody else has wrapped it", ErrKEK)
	}
	return text[sha256.Size:n], nil
}

// readFile reads a file that holds secrets, if nobody else could have read or
// changed it.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := openPrivate(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, limit)
}

func readAll(f *os.File, limit int64) ([]byte, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() > limit {
		return nil, fmt.Errorf("%w: %s has %d bytes", ErrTooLarge, f.Name(), st.Size())
	}
	b := make([]byte, st.Size())
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, err
	}
	return b, nil
}
