package keyring

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// errHeld is returned by tryLock while another process holds the lock.
var errHeld = errors.New("held")

// locked runs f while no other process does. The lock is the kernel's and goes
// with the process.
func locked[T any](ctx context.Context, path string, f func() (T, error)) (T, error) {
	var zero T
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return zero, fmt.Errorf("keyring: the folder of the lock: %w", err)
	}
	for {
		held, err := tryLock(path)
		if err == nil {
			defer func() { _ = held.Close() }()
			return f()
		}
		if !errors.Is(err, errHeld) {
			return zero, fmt.Errorf("keyring: the lock: %w", err)
		}
		select {
		case <-ctx.Done():
			return zero, fmt.Errorf("%w: another process is changing it: %w", ErrUnavailable, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}
