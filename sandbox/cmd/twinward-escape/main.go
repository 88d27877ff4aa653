// Twinward-escape compares sandboxes by what gets out of them. It puts things in
// reach of anybody on this host (files, sockets, keys, a process), runs a few
// hundred attempts to get at them, or at parts of the kernel that no ordinary
// program needs, inside each sandbox that it finds, and prints side by side
// which got through.
//
//	twinward-escape [-in plain,twinward,bwrap,…] [-group files] [-v] [-table]
//
// The program inside is this very file, which is why it has to be built without
// cgo: CGO_ENABLED=0 go build. A sandbox that is not installed is said to be
// missing, and is no failure. Run it as root and as an ordinary user: the
// answers differ. What it tries changes nothing on the host but the files that
// it makes itself in $TMPDIR, which it removes.
//
// The sandboxes run as their makers show it:
//
//   - plain: no sandbox at all, as a measure of what the others add
//   - twinward: package sandbox, zero policy, all layers; twinward-vfork by its
//     other launcher, twinward-strict with exec: strict
//   - bwrap: bubblewrap with all namespaces, /usr, and a private /tmp, /dev and /proc
//   - bwrap-tight: and --disable-userns, --cap-drop ALL, --clearenv
//   - srt: npm's @anthropic-ai/sandbox-runtime, no network, one writable directory
//
// The exit status is 1 when anything got out of twinward, and 2 for other failures.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/twinward-dev/twinward/sandbox/internal/escape"
)

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case probeArg:
			exit(probe())
		case escape.SetIDArg:
			exit(printRights())
		}
	}
	err := run(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	exit(err)
}

// probeArg makes this program be the one inside.
const probeArg = "probe"

var errOut = errors.New("something got out of twinward")

func exit(err error) {
	switch {
	case err == nil:
		os.Exit(0)
	case errors.Is(err, errOut):
		fmt.Fprintln(os.Stderr, "twinward-escape:", err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stderr, "twinward-escape:", err)
	os.Exit(2)
}
