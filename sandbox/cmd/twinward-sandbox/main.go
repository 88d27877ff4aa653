// Twinward-sandbox runs a program in a sandbox, and shows what it reaches for.
//
//	twinward-sandbox run     [-policy FILE] [-preset NAME,NAME] [-workspace DIR] [-serve NAME=URL] [-log DIR] [-quiet] -- PROGRAM [ARGUMENT ...]
//	twinward-sandbox check   FILE
//	twinward-sandbox presets [NAME]
//	twinward-sandbox probe
//
// run takes the policy of FILE (see sandbox.LoadPolicy) and of the presets, all
// together; with none of them the program has no network at all. It works in
// /sandbox, which is DIR on this machine, or a new empty folder that is removed at
// the end. Each connection that is made and each attempt that is refused is a line
// on standard error. With -log all is kept in a tamper-evident log, which
// twinward-audit reads. -serve answers a name that the policy says is served, such
// as inference.local, with what is at URL, for instance a model on this machine.
// On a terminal the program has a terminal of its own.
//
// The exit status is the program's, or 128 and the number of the signal that
// ended it; 127 when there is no such program inside, 125 when no sandbox could
// be made or the command line is wrong.
//
// check says what is wrong with a policy. presets lists the policies that come
// with the package, or what one of them opens. probe says which layers of a
// sandbox this system can make.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// On a terminal of its own, Ctrl-C is the program's; else it ends the sandbox.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code, err := command(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "twinward-sandbox:", err)
	}
	os.Exit(code)
}

const failed, notFound = 125, 127

func command(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) (int, error) {
	name := ""
	if len(args) > 0 {
		name, args = args[0], args[1:]
	}
	switch {
	case name == "run":
		return run(ctx, args, in, out, errs)
	case name == "check" && len(args) == 1:
		return check(args[0])
	case name == "presets" && len(args) == 0:
		return listPresets(out)
	case name == "presets" && len(args) == 1:
		return showPreset(out, args[0])
	case name == "probe" && len(args) == 0:
		return probe(out)
	}
	return failed, errors.New("usage: twinward-sandbox run [flags] -- PROGRAM [ARGUMENT ...] | check FILE | presets [NAME] | probe")
}

func exitStatus(err error) int {
	if err != nil {
		return failed
	}
	return 0
}
