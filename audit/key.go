package audit

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"unicode"

	"golang.org/x/mod/sumdb/note"

	"github.com/twinward-dev/twinward/audit/internal/visible"
)

// A Key signs the checkpoints of one log and commits to arguments. Whoever
// holds it can write a different history, which only an [Anchor] then reveals.
// One key belongs to one log.
type Key struct {
	vkey     string
	verifier note.Verifier
	secret   *keySecret // behind a pointer, so that no printing reaches it
}

type keySecret struct {
	signer  note.Signer
	skey    string    // the signer as text
	commit  [32]byte  // for commitments
	openers sync.Pool // of HMACs under it, which take time to make
}

// NewKey makes a key for the log named origin, which should be like a URL
// without a scheme ("audit.example.com/host7") and have no spaces or plus
// signs. An empty origin is replaced by a random name.
func NewKey(origin string) (*Key, error) {
	if origin == "" {
		var b [8]byte
		rand.Read(b[:])
		origin = "twinward-" + hex.EncodeToString(b[:])
	}
	if strings.ContainsFunc(origin, func(r rune) bool { return unicode.IsSpace(r) || r == '+' || visible.Hidden(r) }) {
		return nil, fmt.Errorf("%w: the origin %q must have no spaces, controls or plus signs", ErrKey, origin)
	}
	skey, _, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return parseKey(skey)
}

// Origin is the name of the log that the key belongs to.
func (k *Key) Origin() string { return k.verifier.Name() }

// VerifierKey is what others verify the log with, as a note verifier key.
func (k *Key) VerifierKey() string { return k.vkey }

// String does not print the key but its public half.
func (k Key) String() string { return k.vkey }

// GoString does not print the key but its public half.
func (k Key) GoString() string { return k.vkey }

// parseKey decodes a note signer key. The commitment key is derived from its
// seed, so that there is one secret to keep.
func parseKey(skey string) (*Key, error) {
	signer, err := note.NewSigner(skey)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	parts := strings.SplitN(skey, "+", 5) // PRIVATE, KEY, name, hash, base64
	raw, err := base64.StdEncoding.DecodeString(parts[len(parts)-1])
	if err != nil || len(raw) != 33 {
		return nil, fmt.Errorf("%w: not an Ed25519 key", ErrKey)
	}
	commit, err := hkdf.Key(sha256.New, raw[1:], nil, "twinward audit commitment v1", 32)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	k := &Key{secret: &keySecret{signer: signer, skey: skey, commit: [32]byte(commit)}}
	if k.vkey, err = verifierKey(signer.Name(), raw[1:]); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	if k.verifier, err = note.NewVerifier(k.vkey); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return k, nil
}

func verifierKey(name string, seed []byte) (string, error) {
	pub := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	return note.NewEd25519VerifierKey(name, pub)
}

const keyFileHead = "# The key of a Twinward audit log. Whoever has it can forge the log: keep it apart.\n"

// LoadKey reads a key file. It refuses a file that others can read. If the log's
// key was rotated there are several in it; this is the newest.
func LoadKey(path string) (*Key, error) {
	keys, err := loadKeys(path)
	if err != nil {
		return nil, err
	}
	return keys[0], nil
}

// maxKeyFile is the largest size of a key file in bytes.
const maxKeyFile = 1 << 20

// loadKeys reads all keys in a key file, newest first.
func loadKeys(path string) ([]*Key, error) {
	text, err := readSecretFile(path)
	if err != nil {
		return nil, err
	}
	rest, ok := strings.CutPrefix(text, keyFileHead)
	if !ok || !strings.HasSuffix(rest, "\n") {
		return nil, fmt.Errorf("%w: %s is not a key file", ErrKey, path)
	}
	var keys []*Key
	for line := range strings.Lines(rest) {
		k, err := parseKey(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// readSecretFile reads a file that nobody else may read.
func readSecretFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrKey, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrKey, err)
	}
	if !st.Mode().IsRegular() || st.Size() > maxKeyFile {
		return "", fmt.Errorf("%w: %s is not a key file", ErrKey, path)
	}
	if runtime.GOOS != "windows" && st.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("%w: %s is open to others (mode %04o): chmod 0600 it, and think about who may have read it", ErrKey, path, st.Mode().Perm())
	}
	buf := make([]byte, st.Size())
	if _, err := f.ReadAt(buf, 0); err != nil && len(buf) > 0 {
		return "", fmt.Errorf("%w: %w", ErrKey, err)
	}
	return string(buf), nil
}

// saveKeys writes a key file, newest key first. After a crash it is the old or
// the new one.
func saveKeys(path string, keys []*Key) error {
	text := keyFileHead
	for _, k := range keys {
		text += k.secret.skey + "\n"
	}
	if err := writeFileAtomic(path, []byte(text)); err != nil {
		return fmt.Errorf("%w: %w", ErrKey, err)
	}
	return nil
}

// loadOrCreateKeys reads the key file, or makes one with mode 0600 if it is
// absent and mayCreate. The caller holds the lock of the log.
func loadOrCreateKeys(path, origin string, mayCreate bool) ([]*Key, error) {
	keys, err := loadKeys(path)
	switch {
	case err == nil:
		if origin != "" && keys[0].Origin() != origin {
			return nil, fmt.Errorf("%w: %s is the key of %q, not of %q", ErrKey, path, keys[0].Origin(), origin)
		}
		return keys, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case !mayCreate:
		return nil, fmt.Errorf("%w: the log exists, its key does not: %w", ErrKey, err)
	}
	k, err := NewKey(origin)
	if err != nil {
		return nil, err
	}
	if err := makeDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	if err := saveKeys(path, []*Key{k}); err != nil {
		return nil, err
	}
	return []*Key{k}, nil
}

// checkVerifierKey returns an error unless text is the one spelling of an Ed25519
// verifier key.
func checkVerifierKey(text string) error {
	v, err := note.NewVerifier(text)
	if err != nil {
		return err
	}
	raw, err := base64.StdEncoding.DecodeString(strings.SplitN(text, "+", 3)[2]) // name, hash, key
	if err != nil {
		return err
	}
	if want, err := note.NewEd25519VerifierKey(v.Name(), raw[1:]); err != nil || want != text {
		return errors.New("unusual spelling")
	}
	return nil
}
