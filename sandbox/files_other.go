//go:build !linux

package sandbox

import "context"

func (s *Session) copyFiles(context.Context, transfer) (Copied, error) {
	return Copied{}, ErrUnsupported
}
