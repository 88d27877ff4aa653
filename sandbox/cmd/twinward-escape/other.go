//go:build !linux || !(amd64 || arm64)

package main

import "github.com/twinward-dev/twinward/sandbox"

func run([]string) error { return sandbox.ErrUnsupported }

func probe() error { return sandbox.ErrUnsupported }

func printRights() error { return sandbox.ErrUnsupported }
