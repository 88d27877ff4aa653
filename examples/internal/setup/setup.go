// Package setup is what the hosts of the demonstrations need to be set up and
// taken down.
package setup

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"slices"

	"github.com/twinward-dev/twinward/audit"
)

// Token returns a vendor's token that nobody has seen before.
func Token() string {
	b := make([]byte, 24)
	_, _ = rand.Read(b) // documented never to fail
	return "tok_" + base64.RawURLEncoding.EncodeToString(b)
}

// A Stack ends what a host has started. The zero value is empty; it is for one
// goroutine.
type Stack struct{ ends []func() error }

// Later has Close call end.
func (s *Stack) Later(end func() error) { s.ends = append(s.ends, end) }

// Close ends everything, the last that was started first and the log last of all.
// It may be called twice, and with a log that was never opened.
func (s *Stack) Close(log *audit.Log) error {
	var errs []error
	for _, end := range slices.Backward(s.ends) {
		errs = append(errs, end())
	}
	s.ends = nil
	if err := log.Close(); !errors.Is(err, audit.ErrClosed) && !errors.Is(err, audit.ErrNoLog) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
