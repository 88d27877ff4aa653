//go:build !linux

package main

import (
	"io"

	"github.com/twinward-dev/twinward/sandbox"
)

type localTerminal struct{}

func terminal(io.Reader, io.Writer) (localTerminal, bool) { return localTerminal{}, false }

func (localTerminal) execute(cmd *sandbox.Cmd) error { return cmd.Run() }
