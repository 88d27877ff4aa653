//go:build linux

package escape

// arm64 has only the common calls.
var archCalls []call

func archProbes(func(string, string, []string, func(Target) error)) {}
