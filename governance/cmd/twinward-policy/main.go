// Command twinward-policy checks, tests, explains, compares and writes policy
// bundles.
//
//	twinward-policy init    -server NAME [-agent A] [-profile P] DIR [TOOLS.json]
//	twinward-policy check   [-warnings] [-json] DIR | FILE.cedar...
//	twinward-policy test    [-mutate] [-min PERCENT] [-json] DIR
//	twinward-policy explain -agent A [-user U] -tool T [-args JSON] [-json] DIR
//	twinward-policy replay  [-json] DIR TAPE
//	twinward-policy diff    [-tries N] [-seed N] [-json] OLD NEW
//	twinward-policy suggest [-values N] [-free TOOL/ARG]... [-json] DIR TAPE
//	twinward-policy promote DIR POLICY...
//	twinward-policy schema  DIR
//	twinward-policy sign    -key FILE DIR
//	twinward-policy verify  -author KEY... -reviewer KEY... DIR
//
// DIR is the folder of a bundle; TAPE a file of recorded requests, "-" for
// standard input.
//
// init writes the folder of a new bundle: a catalogue from the answer of a
// server to tools/list, read from TOOLS.json or standard input, with classes
// guessed from the server's own annotations, which are to be reviewed; a
// profile; policies that permit nothing that writes; and a first test.
//
// check finds fault with a bundle, one "file:line:col: severity: …" a line, and
// runs its tests. Of bare .cedar files it checks the syntax and annotations.
//
// test runs the cases in tests/*.json and says which policies no case is about;
// with -mutate it changes policies in small ways and says which changes no case
// notices.
//
// explain decides one request and says which conditions failed. -action, -server,
// -name and -attr NAME=VALUE ask for what is no tool.
//
// replay decides recorded requests again and says which are decided differently.
//
// diff searches for requests that two bundles decide differently.
//
// suggest prints least-privilege policies for what a tape says was allowed.
//
// promote puts policies that are only observed into force: it takes
// @mode("observe") out of their files and changes no other byte.
//
// schema prints the Cedar schema of a bundle.
//
// sign adds the signature of a person to bundle.note: of the author first, then
// of a reviewer. FILE holds the person's signer key. verify checks them; KEY is
// a verifier key or a file that holds one.
//
// The exit status is 0 when all is well, 1 when there is something to look at (a
// finding that blocks, a failed test, a denial, a flip, a witness) or the work
// could not be done, 2 when the command was not understood.
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
	exitOK    = 0
	exitFound = 1
	exitUsage = 2
)

const usage = `Usage:
  twinward-policy init    -server NAME [-agent A] [-profile P] DIR [TOOLS.json]
  twinward-policy check   [-warnings] [-json] DIR | FILE.cedar...
  twinward-policy test    [-mutate] [-min PERCENT] [-json] DIR
  twinward-policy explain -agent A [-user U] -tool T [-args JSON] [-json] DIR
  twinward-policy replay  [-json] DIR TAPE
  twinward-policy diff    [-tries N] [-seed N] [-json] OLD NEW
  twinward-policy suggest [-values N] [-free TOOL/ARG]... [-json] DIR TAPE
  twinward-policy promote DIR POLICY...
  twinward-policy schema  DIR
  twinward-policy sign    -key FILE DIR
  twinward-policy verify  -author KEY... -reviewer KEY... DIR
DIR is the folder of a bundle, TAPE a file of recorded requests or "-".
Exit status: 0 all is well, 1 something to look at, 2 usage.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// A command does its work after its flags were parsed.
type command struct {
	flags *flag.FlagSet
	// least and most bound the arguments after the flags; most < 0 is any number.
	least, most int
	run         func(ctx context.Context, args []string, in io.Reader, out io.Writer) error
}

// errUsage marks errors that are about how the command was called.
var errUsage = errors.New("usage")

// errFound says that there is something to look at, which was printed.
var errFound = errors.New("found")

var commands = map[string]func() command{
	"init": initCommand, "check": checkCommand, "test": testCommand, "explain": explainCommand,
	"replay": replayCommand, "diff": diffCommand, "suggest": suggestCommand, "promote": promoteCommand,
	"schema": schemaCommand, "sign": signCommand, "verify": verifyCommand,
}

// run is main without the process around it.
func run(ctx context.Context, args []string, in io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		fmt.Fprint(stdout, usage)
		return exitOK
	}
	make, ok := commands[args[0]]
	if !ok {
		fmt.Fprintf(stderr, "twinward-policy: unknown command %q\n%s", args[0], usage)
		return exitUsage
	}
	c := make()
	c.flags.SetOutput(stderr)
	c.flags.Usage = func() {
		fmt.Fprint(stderr, usage)
		c.flags.PrintDefaults()
	}
	if err := c.flags.Parse(args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitOK
		}
		return exitUsage
	}
	if n := c.flags.NArg(); n < c.least || c.most >= 0 && n > c.most {
		fmt.Fprintf(stderr, "twinward-policy: %s: wrong number of arguments after the flags\n%s", args[0], usage)
		return exitUsage
	}
	err := c.run(ctx, c.flags.Args(), in, stdout)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errFound):
		return exitFound
	case errors.Is(err, errUsage):
		fmt.Fprintf(stderr, "twinward-policy: %s: %v\n%s", args[0], err, usage)
		return exitUsage
	}
	fmt.Fprintf(stderr, "twinward-policy: %s: %v\n", args[0], err)
	return exitFound
}

// list is a flag that may be repeated.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func flags(name string) *flag.FlagSet { return flag.NewFlagSet(name, flag.ContinueOnError) }
