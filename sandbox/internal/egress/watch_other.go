//go:build !linux

package egress

import (
	"errors"
	"os"
)

// Watch is for the network of a sandbox.
func (d *Door) Watch(packets *os.File) error {
	packets.Close()
	return errors.ErrUnsupported
}
