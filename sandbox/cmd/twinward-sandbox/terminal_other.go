//go:build !linux

package main

import (
	"io"

	"github.com/twinward-dev/twinward/sandbox"
)

type screen struct{}

func terminal(io.Reader, io.Writer) (screen, bool) { return screen{}, false }

func (screen) execute(cmd *sandbox.Cmd) error { return cmd.Run() }
