//go:build linux && (amd64 || arm64)

package sandbox

import "sync"

var probeOnce = sync.OnceValue(Probe)
