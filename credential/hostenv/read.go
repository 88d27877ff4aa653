package hostenv

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/twinward-dev/twinward/credential"
)

// read reads the source. The error is [fs.ErrNotExist] if it is not there.
func (s Source) read() (credential.Secret, error) {
	var b []byte
	if s.Env != "" {
		v, ok := os.LookupEnv(s.Env)
		if !ok {
			return credential.Secret{}, fs.ErrNotExist
		}
		b = []byte(v)
	} else {
		var err error
		if b, err = s.readFile(); err != nil {
			return credential.Secret{}, err
		}
	}
	defer clear(b)
	if len(b) == 0 || len(b) > credential.MaxLength {
		return credential.Secret{}, fmt.Errorf("%w: the %s has %s", ErrSource, s.where(), size(len(b)))
	}
	return credential.NewSecret(b), nil
}

// size does not tell how long a secret is.
func size(n int) string {
	if n == 0 {
		return "nothing in it"
	}
	return fmt.Sprintf("more than %d bytes", credential.MaxLength)
}

func (s Source) readFile() ([]byte, error) {
	f, err := openFile(s.File)
	if err != nil {
		return nil, err // names the path and a word of the system
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat() // of what was opened, whatever stands there now
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: the %s is not regular", ErrSource, s.where())
	}
	if !private(info, s.AllowOthersToRead) {
		return nil, fmt.Errorf("%w: %s", ErrExposed, s.where())
	}
	b := make([]byte, credential.MaxLength+3) // a line's end, and one to see that it is too long
	n, err := io.ReadFull(f, b)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		clear(b)
		return nil, err
	}
	b = b[:n]
	b = bytes.TrimSuffix(b, []byte("\n"))
	return bytes.TrimSuffix(b, []byte("\r")), nil
}
