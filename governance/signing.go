package governance

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	sumnote "golang.org/x/mod/sumdb/note"
)

// SignatureFile is the name of the file in a bundle's folder that holds who
// wrote and who reviewed it.
const SignatureFile = "bundle.note"

// maxSignatureFile is far above two signatures.
const maxSignatureFile = 16 << 10

// Signers are the people whose signatures a host asks of a bundle: one of the
// authors, who wrote it, and one of the reviewers, who is somebody else. A
// person may be in both lists. Names of keys are names of people: two keys of
// one person have one name. Signatures do not end: that an old bundle does not
// come back is what [Options.MinVersion] is for.
type Signers struct {
	Authors, Reviewers []sumnote.Verifier
}

// ErrSignature is wrapped by the error of [Compile] about a bundle that lacks a
// signature that [Options.Signers] asks for, or that was changed after it was
// signed. [ErrBundle] is as well.
var ErrSignature = errors.New("the signatures of the bundle do not hold")

// A seal is what LoadBundle saw of a folder.
type seal struct {
	digest string
	note   []byte // SignatureFile, if there is one
	print  [sha256.Size]byte
}

// Digest identifies the files of the folder that a bundle was loaded from,
// positions, comments, tests and all, and is what signatures are about:
// "sha256:" and 64 hexadecimal digits. It is the SHA-256 of what "sha256sum"
// prints for those files in the order of their names. It is "" for a bundle made
// in Go.
//
// [Snapshot.Hash] identifies what decides, which two different folders may share.
func (b Bundle) Digest() string {
	if b.seal == nil {
		return ""
	}
	return b.seal.digest
}

// SignBundle signs a loaded bundle and returns what belongs in its
// [SignatureFile]. The first to sign is the author; whoever signs after that, a
// reviewer, has to look at the same files: a bundle whose SignatureFile is about
// others is an error, and has to be signed by its author again.
//
// The file is a signed note (https://c2sp.org/signed-note) with the lines
// "twinward bundle v1", the digest, and "author" with the author's name.
func SignBundle(b Bundle, signer sumnote.Signer) ([]byte, error) {
	if b.seal == nil || b.seal.print != b.print() {
		return nil, errors.New("governance: sign: only a bundle as LoadBundle returned it can be signed, because signatures are about files")
	}
	if len(b.seal.note) == 0 {
		return sumnote.Sign(&sumnote.Note{Text: noteText(b.seal.digest, signer.Name())}, signer)
	}
	n, err := unverified(b.seal.note)
	if err != nil {
		return nil, fmt.Errorf("governance: sign: %s: %w", SignatureFile, err)
	}
	digest, author, err := parseNoteText(n.Text)
	switch {
	case err != nil:
		return nil, fmt.Errorf("governance: sign: %s: %w", SignatureFile, err)
	case digest != b.seal.digest:
		return nil, fmt.Errorf("governance: sign: %s is about other files (%s, and these are %s): remove it, so that the author signs again", SignatureFile, digest, b.seal.digest)
	case author == signer.Name():
		return nil, fmt.Errorf("governance: sign: %s has signed as its author; somebody else reviews it", author)
	}
	return sumnote.Sign(n, signer)
}

func noteText(digest, author string) string {
	return "twinward bundle v1\n" + digest + "\nauthor " + author + "\n"
}

func parseNoteText(text string) (digest, author string, err error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[0] != "twinward bundle v1" || lines[3] != "" {
		return "", "", errors.New("it is no signature of a bundle, or one of a later version")
	}
	author, ok := strings.CutPrefix(lines[2], "author ")
	if !ok || author == "" || text != noteText(lines[1], author) {
		return "", "", errors.New("it names no author")
	}
	return lines[1], author, nil
}

// unverified reads a note and holds on to all its signatures.
func unverified(text []byte) (*sumnote.Note, error) {
	n, err := sumnote.Open(text, sumnote.VerifierList())
	if e, ok := errors.AsType[*sumnote.UnverifiedNoteError](err); ok {
		return e.Note, nil
	}
	if err == nil {
		return n, nil
	}
	return nil, err
}

// verify returns who wrote and who reviewed a bundle. nil Signers ask for
// nobody and return nobody.
func (s *Signers) verify(b Bundle) (author, reviewer string, err error) {
	if s == nil {
		return "", "", nil
	}
	fail := func(format string, args ...any) (string, string, error) {
		return "", "", fmt.Errorf("%w: %w: %s", ErrBundle, ErrSignature, fmt.Sprintf(format, args...))
	}
	switch {
	case b.seal == nil:
		return fail("it was made in Go, and only a folder can be signed: use LoadBundle")
	case len(b.seal.note) == 0:
		return fail("it has no %s: its author and its reviewer have to sign it", SignatureFile)
	case b.seal.print != b.print() || b.seal.print == [sha256.Size]byte{}:
		return fail("it was changed in memory after it was loaded")
	}
	all := slices.Concat(s.Authors, s.Reviewers)
	byKey := map[string]sumnote.Verifier{}
	var known []sumnote.Verifier // sumnote.VerifierList takes a key that is listed twice for two
	for _, v := range all {
		key := fmt.Sprintf("%s+%08x", v.Name(), v.KeyHash())
		if byKey[key] == nil {
			byKey[key] = v
			known = append(known, v)
		}
	}
	n, err := sumnote.Open(b.seal.note, sumnote.VerifierList(known...))
	if err != nil {
		return fail("%s: %s", SignatureFile, err)
	}
	digest, author, err := parseNoteText(n.Text)
	switch {
	case err != nil:
		return fail("%s: %s", SignatureFile, err)
	case digest != b.seal.digest:
		return fail("%s is about other files: it says %s, and the files are %s", SignatureFile, digest, b.seal.digest)
	}
	signed := func(by []sumnote.Verifier, who func(string) bool) string {
		for _, sig := range n.Sigs {
			for _, v := range by {
				if v.Name() == sig.Name && v.KeyHash() == sig.Hash && who(sig.Name) {
					return sig.Name
				}
			}
		}
		return ""
	}
	if signed(s.Authors, func(name string) bool { return name == author }) == "" {
		return fail("%s says that %s is its author, and no author's key of that name has signed it", SignatureFile, author)
	}
	reviewer = signed(s.Reviewers, func(name string) bool { return name != author })
	if reviewer == "" {
		return fail("nobody but its author %s has signed it: a reviewer has to", author)
	}
	return author, reviewer, nil
}

// signed adds to a record what folder a bundle came from, and whose it is.
func (s *Snapshot) signed(detail map[string]string) map[string]string {
	version := ""
	if s.version != 0 {
		version = strconv.FormatUint(s.version, 10)
	}
	for key, value := range map[string]string{"bundle": s.digest, "bundle_version": version, "author": s.author, "reviewer": s.reviewer} {
		if value != "" {
			detail[key] = value
		}
	}
	return detail
}

// print tells one bundle from another, so that what was loaded and what is
// compiled are known to be the same.
func (b Bundle) print() (sum [sha256.Size]byte) {
	text, err := json.Marshal([]any{b.Policies, b.Profiles, b.Catalog, b.Entities, b.Facts, b.Tests, b.Version})
	if err != nil {
		return sum // which no text has, and no signature is taken for
	}
	return sha256.Sum256(text)
}

// A reader is a folder that remembers what was read from it, so that a digest
// is about what was loaded, and about nothing that was there at another moment.
type reader struct {
	fs.FS
	sums map[string][sha256.Size]byte
}

func (r reader) read(name string, text []byte) { r.sums[name] = sha256.Sum256(text) }

func (r reader) digest() string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(r.sums)) {
		fmt.Fprintf(h, "%x  %s\n", r.sums[name], name)
	}
	return hashPrefix + hex.EncodeToString(h.Sum(nil))
}
