//go:build linux && (amd64 || arm64)

package credzero

func thief(string) {}
