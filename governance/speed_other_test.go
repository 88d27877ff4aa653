//go:build !unix

package governance

import "time"

var begun = time.Now()

// cpu is the time since the start, where the system tells no processor time.
func cpu() time.Duration { return time.Since(begun) }
