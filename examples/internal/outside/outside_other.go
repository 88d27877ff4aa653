//go:build !linux

package outside

// SearchMemory is for Linux.
func SearchMemory(int, []string) (int, int64, error) { return 0, 0, ErrUnsupported }

// Rooms is for Linux.
func Rooms() (map[string][]int, error) { return nil, ErrUnsupported }

// Capture is for Linux.
type Capture struct{}

// Listen is for Linux.
func Listen(int, []string) (*Capture, error) { return nil, ErrUnsupported }

// Stop is for Linux.
func (*Capture) Stop() (Traffic, error) { return Traffic{}, ErrUnsupported }

// Main is for Linux.
func Main() {}
