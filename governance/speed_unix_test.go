//go:build unix

package governance

import (
	"syscall"
	"time"
)

// cpu is the processor time that this process has used, garbage collection
// included.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
