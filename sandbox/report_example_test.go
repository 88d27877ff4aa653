package sandbox_test

import (
	"fmt"
	"time"

	"github.com/twinward-dev/twinward/sandbox"
)

// A report is a table for people, and JSON for machines.
func ExampleReport_String() {
	r := sandbox.Report{
		Session: "s-1", Agent: "standup", Launcher: "re-exec", UID: 1000, PolicyHash: "sha256:47de…",
		Layers: []sandbox.Layer{sandbox.LayerUser, sandbox.LayerSeccomp}, LandlockABI: 7,
		Steps:    []sandbox.Step{{Name: "workspace", Took: 100 * time.Microsecond}, {Name: "room", Took: 12 * time.Millisecond}},
		Commands: 3, UserTime: 1500 * time.Millisecond, SystemTime: 20 * time.Millisecond, MaxRSS: 3 << 20,
		Denials: []sandbox.Denial{{Action: "connect", Reason: "raw-address", Count: 2}},
		Limits:  []sandbox.LimitHit{{Limit: "max_file_size", Count: 1}},
	}
	fmt.Print(r)
	// Output:
	// session   s-1 of standup, alive, launcher re-exec, outside uid 1000
	// policy    sha256:47de…
	// layers    user-namespace,seccomp
	// landlock  ABI 7
	// start     12.1ms: workspace 100µs, room 12ms
	// used      3 commands, 0 running; CPU 1.5s user, 20ms system; largest process 3072 KiB
	// denied    2 × connect: raw-address
	// limit     1 × max_file_size
}
