//go:build !linux

package sandbox

func (s *Session) findProtected() ([]string, error) { return nil, ErrUnsupported }
