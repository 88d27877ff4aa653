package sandbox

import (
	"errors"
	"fmt"
)

// pending are the parts of a policy that are checked but not kept yet. Whoever
// makes one of them hold removes its line.
var pending = []struct {
	field string
	used  func(*Policy) bool
}{}

// checkKept returns an error for each part of a policy, in normal form, that
// this version would not keep: nothing is taken and then ignored.
func (p *Policy) checkKept() error {
	var errs []error
	for _, part := range pending {
		if part.used(p) {
			errs = append(errs, &PolicyError{Field: part.field, Problem: "this version cannot keep it", Fix: fmt.Sprintf("leave %s out", part.field)})
		}
	}
	return errors.Join(errs...)
}
