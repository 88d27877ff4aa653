// Command twinward-audit verifies, shows and reports an audit log.
//
//	twinward-audit verify -key KEY [-anchor FILE]... [-json] LOG
//	twinward-audit show   [-agent A] [-door D] [-denied] [-json] LOG
//	twinward-audit report -key KEY [-anchor FILE]... [-title T] -o OUT.html LOG
//
// LOG is the log's folder. KEY is the log's verifier key, or a file that holds
// it; take it from a place that the log's writer cannot change. FILE is a
// checkpoint of the log that was kept elsewhere; give several by repeating
// -anchor. Without an anchor, verify says what it cannot exclude.
//
// show prints one line a record; outcomes are shown with the calls that the
// flags select. It does not verify.
//
// The exit status is 0 when all is well, 1 when verification failed or the log
// cannot be read, 2 when the command was not understood.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
)

const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

const usage = `Usage:
  twinward-audit verify -key KEY [-anchor FILE]... [-json] LOG
  twinward-audit show   [-agent A] [-door D] [-denied] [-json] LOG
  twinward-audit report -key KEY [-anchor FILE]... [-title T] -o OUT.html LOG
KEY is a verifier key or a file that holds one; FILE is a checkpoint kept elsewhere.
Exit status: 0 all is well, 1 verification failed, 2 usage.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// A command does its work after its flags were parsed.
type command struct {
	flags *flag.FlagSet
	run   func(ctx context.Context, dir string, out io.Writer) error
}

// errUsage marks errors that are about how the command was called.
var errUsage = errors.New("usage")

// run is main without the process around it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	var c command
	switch args[0] {
	case "verify":
		c = verifyCommand()
	case "show":
		c = showCommand()
	case "report":
		c = reportCommand()
	case "help", "-h", "-help", "--help":
		fmt.Fprint(stdout, usage)
		return exitOK
	default:
		fmt.Fprintf(stderr, "twinward-audit: unknown command %q\n%s", args[0], usage)
		return exitUsage
	}
	c.flags.SetOutput(stderr)
	c.flags.Usage = func() { fmt.Fprint(stderr, usage) }
	if err := c.flags.Parse(args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitOK
		}
		return exitUsage
	}
	if c.flags.NArg() != 1 {
		fmt.Fprintf(stderr, "twinward-audit: give one folder of a log, after the flags\n%s", usage)
		return exitUsage
	}
	err := c.run(ctx, c.flags.Arg(0), stdout)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errUsage):
		fmt.Fprintf(stderr, "twinward-audit: %v\n%s", err, usage)
		return exitUsage
	}
	fmt.Fprintf(stderr, "twinward-audit: %v\n", err)
	return exitFailed
}

// files is a flag that may be repeated.
type files []string

func (f *files) String() string     { return strings.Join(*f, ",") }
func (f *files) Set(s string) error { *f = append(*f, s); return nil }
