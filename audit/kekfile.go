package audit

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

// A file of a KEK holds it as one line. While data keys are being wrapped anew
// ([Log.RotateKEK]) it holds two: first the one that is to stay.

// maxKEKs is how many keys a file may hold.
const maxKEKs = 16

// LoadKEK reads a file that [Open] made for [Options.KEKFile]. It refuses a file
// that others can read.
func LoadKEK(path string) (KEK, error) {
	text, err := readSecretFile(path)
	if err != nil {
		return nil, err
	}
	keks, err := parseKEKs(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrKey, path, err)
	}
	if len(keks) == 1 {
		return keks[0], nil
	}
	return KEKs(keks[0], keks[1:]...), nil
}

func parseKEKs(text string) ([]KEK, error) {
	errForm := errors.New("not a file of a key-encryption key")
	rest, ok := strings.CutPrefix(text, kekFileHead)
	if !ok {
		return nil, errForm
	}
	var keks []KEK
	for line := range strings.Lines(rest) {
		k, ok := parseKEK(line)
		if !ok || len(keks) == maxKEKs {
			return nil, errForm
		}
		keks = append(keks, k)
	}
	if len(keks) == 0 {
		return nil, errForm
	}
	return keks, nil
}

// parseKEK reads a line with its newline. There is one spelling of each.
func parseKEK(line string) (localKEK, bool) {
	b64, ok := strings.CutPrefix(line, kekWord)
	key, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSuffix(b64, "\n"))
	if !ok || err != nil || len(key) != keySize {
		return localKEK{}, false
	}
	k := newLocalKEK(key)
	return k, k.text()+"\n" == line
}

func saveKEKs(path string, keks ...localKEK) error {
	text := kekFileHead
	for _, k := range keks {
		text += k.text() + "\n"
	}
	return writeFileAtomic(path, []byte(text))
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
	if err := saveKEKs(path, made); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return made, nil
}
