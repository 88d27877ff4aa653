package main

import (
	"io"

	"github.com/twinward-dev/twinward/sandbox"
)

// execute runs the program: with a terminal of its own when there is one here,
// and else with pipes, as a terminal of this machine is not for what runs inside.
func execute(cmd *sandbox.Cmd, in io.Reader, out, errs io.Writer) error {
	if term, ok := terminal(in, out); ok {
		return term.execute(cmd)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = struct{ io.Reader }{in}, struct{ io.Writer }{out}, struct{ io.Writer }{errs}
	return cmd.Run()
}
