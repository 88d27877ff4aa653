// Command twinward-audit verifies, shows, reports and exports an audit log. It
// needs the log's folder and no host.
//
//	twinward-audit verify -key KEY [COMPARE] [-progress] [-json] LOG
//	twinward-audit anchor -key KEY -o FILE [-progress] [-json] LOG
//	twinward-audit show   [SELECTION] [-kek FILE [-values DIR]] [-json] LOG
//	twinward-audit tail   [SELECTION] [-n N] [-f] [-json] LOG
//	twinward-audit report -key KEY... [COMPARE] [-agent A] [-from T] [-to T]
//	                      [-title TEXT] [-phrases FILE] [-catalogue DIR] [-rows N]
//	                      [-progress] [-json] [-o OUT] LOG...
//	twinward-audit export -format F [SELECTION] [-key KEY [COMPARE]] [-origin NAME]
//	                      [-progress] [-o OUT] LOG
//	twinward-audit export -subject agent=A|user=U [-kek FILE [-values DIR]] [SELECTION] [-o OUT] LOG
//	twinward-audit prove  -record N LOG
//	twinward-audit check  -key KEY [-disclosure FILE] [-json] PROOF
//
//	twinward-audit values   [-kek FILE] [-values DIR] [-json] LOG
//	twinward-audit disclose -record N [-field F] -kek FILE [-values DIR] LOG
//	twinward-audit erase    OFFICE [-agent A] [-user U] [-records N,N] LOG
//	twinward-audit prune    OFFICE [-records] [-keep D [-short]] [-quiet D] LOG
//	twinward-audit rekey    OFFICE [-kek FILE] LOG
//	twinward-audit hold     OFFICE -matter M [-agent A] [-user U] [-records N,N] LOG
//	twinward-audit release  OFFICE -matter M LOG
//
// LOG is the log's folder. Where older files of a log were moved to an archive,
// name both, as in a PATH: ARCHIVE:LOG (";" on Windows). The commands that write
// take one folder. A log in PostgreSQL is postgres://USER@HOST/DATABASE#NAME, with
// the password in PGPASSWORD or a file as libpq has it; anchors of it are always
// -anchor-copy. KEY is the log's verifier key, or a file that holds it; take it
// from a place that the log's writer cannot change.
//
// COMPARE is what the log is compared with; each may be repeated. Without an
// anchor, verify says what it cannot exclude.
//
//	-anchor FILE       a checkpoint of the log. It counts if the owner of LOG can
//	                   change neither FILE nor the folders it is in
//	-anchor-copy FILE  a copy of a checkpoint that you brought from such a place
//	-witness KEY       a witness's verifier key. All witnesses that are given, or
//	                   -quorum N of them, must have cosigned one of the anchors
//	                   each, which then counts wherever it was
//
// anchor verifies the log, also against the checkpoint in FILE if there is one,
// and then keeps the newest in FILE. Run it on a schedule as another uid than the
// log's, or on another machine that can read LOG: FILE is then an anchor.
//
// prove prints a proof that one record is in the log, as c2sp.org/tlog-proof has
// it, for somebody who does not have the log. check verifies such a file and
// prints the record.
//
// SELECTION chooses records; all of it must fit. Outcomes are shown with the
// calls that are selected.
//
//	-agent A             acts of this agent
//	-door D              tool, compute, model or admin
//	-action X            the action, such as slack__post_message
//	-kind K              events of this kind, such as denial or policy.load
//	-decision allow|deny what was allowed, or denied; -denied is the same as the latter
//	-policy P            decided by the policy with this id, or refused for this reason
//	-since T, -until T   since T (inclusive) until T (exclusive)
//	-seq N               from record N on
//
// T is a time such as 2026-11-28T09:00:00Z, a date (its beginning in UTC), or a
// duration such as 36h, which means that long ago.
//
// show prints one line a record, tail the last N of them (10), and with -f those
// to come, until it is interrupted. Neither verifies.
//
// report verifies each log first and writes nothing about one that fails. Give
// as many keys as logs, in any order: keys and anchors name their logs. The page
// goes to OUT, which is required; with -json the answers go there as JSON, or to
// the standard output. -phrases is a JSON file with an object for each action
// that sentences should name otherwise: {"slack__post_message": {"did": "posted",
// "do": "post", "one": "standup summary", "many": "standup summaries"}}. Without
// one, a tool has its title in the files of -catalogue, the folder of a bundle's
// catalogue. -rows limits each table of single records (1000).
//
// export writes records as ndjson, csv, ocsf (1.8.0; ocsf-1.9 is 1.9.0-dev),
// cloudevents or otlp (logs, in lines that collectors read). It verifies only when
// it is given a key, and then first; -origin is the log's name in the export, that
// of the key if there is one.
//
// What is reported and exported is what was verified, whatever becomes of the log
// meanwhile. OUT is there when all of it is written, and else as it was before.
// -progress tells on the standard error how far long work is.
//
// # Arguments
//
// A log keeps the arguments of denied, writing and destructive acts encrypted in
// the folder LOG.values. show prints them when it is given the file of the
// key-encryption key with -kek; with -json each line is then an object of "record",
// "arguments" (or "arguments_raw", base64), for outcomes "result" (or "result_raw")
// where results are kept, and "value".
// export -subject writes everything on record about one agent or user in this
// form: their acts, and what was done to or by them.
//
// values says what became of the arguments, and which are missing though no
// erasure is on record; that is no fault of the log, so its status is 0. disclose
// prints the arguments of one record, or one member of them, with what opens the
// record's commitment; check -disclosure verifies it together with a proof.
//
// erase makes arguments unreadable and leaves every proof valid; prune does so
// with those older than -keep (4416h, six months), and with -records removes the
// oldest files of the log, too, as far as all in them is that old: hashes and
// administrative acts are left of them, on which all proofs hold, and verify says
// what was removed, by whom and why. Of a time in which nothing was recorded, only
// -quiet (168h) counts, for the clock may have been wrong. hold forbids all this
// for what it names, or for everything, until release. rekey makes a new
// key-encryption key, wraps all data keys with it and destroys the old one, as far
// as FILE goes: copies of it are yours to destroy. They write to the log, so its host
// must have stopped. OFFICE is
//
//	-by WHO -reason WHY  required, and on record
//	-keyfile FILE        the log's key, instead of LOG.key
//	-values DIR          the arguments, instead of LOG.values
//	-json                print the result as JSON
//
// # Exit status
//
//	0  all is well
//	1  verification failed, a hold forbids it, or a log cannot be read or written
//	2  the command was not understood; nothing was done
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
  twinward-audit verify -key KEY [COMPARE] [-progress] [-json] LOG
  twinward-audit anchor -key KEY -o FILE [-progress] [-json] LOG
  twinward-audit show   [SELECTION] [-kek FILE [-values DIR]] [-json] LOG
  twinward-audit tail   [SELECTION] [-n N] [-f] [-json] LOG
  twinward-audit report -key KEY... [COMPARE] [-agent A] [-from T] [-to T]
                        [-title TEXT] [-phrases FILE] [-catalogue DIR] [-rows N]
                        [-progress] [-json] [-o OUT] LOG...
  twinward-audit export -format ndjson|csv|ocsf|ocsf-1.9|cloudevents|otlp [SELECTION]
                        [-key KEY [COMPARE]] [-origin NAME] [-progress] [-o OUT] LOG
  twinward-audit export -subject agent=A|user=U [-kek FILE [-values DIR]] [SELECTION] [-o OUT] LOG
  twinward-audit prove  -record N LOG
  twinward-audit check  -key KEY [-disclosure FILE] [-json] PROOF
  twinward-audit values   [-kek FILE] [-values DIR] [-json] LOG
  twinward-audit disclose -record N [-field F] -kek FILE [-values DIR] LOG
  twinward-audit erase    OFFICE [-agent A] [-user U] [-records N,N] LOG
  twinward-audit prune    OFFICE [-records] [-keep D [-short]] [-quiet D] LOG
  twinward-audit rekey    OFFICE [-kek FILE] LOG
  twinward-audit hold     OFFICE -matter M [-agent A] [-user U] [-records N,N] LOG
  twinward-audit release  OFFICE -matter M LOG
OFFICE is -by WHO -reason WHY [-keyfile FILE] [-values DIR] [-json].
SELECTION is any of -agent A, -door D, -action X, -kind K, -decision allow|deny,
-policy P, -since T, -until T, -seq N. T is a time, a date or how long ago (36h).
COMPARE is any of -anchor FILE, -anchor-copy FILE, -witness KEY, -quorum N.
KEY is a verifier key or a file that holds one; FILE is a checkpoint kept elsewhere.
Exit status: 0 all is well, 1 verification failed or no log to read, 2 usage.
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
	// many is run's form for a command that takes several logs.
	many func(ctx context.Context, dirs []string, out io.Writer) error
}

// errUsage marks errors that are about how the command was called.
var errUsage = errors.New("usage")

// run is main without the process around it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	var c command
	switch args[0] {
	case "verify":
		c = verifyCommand()
	case "anchor":
		c = anchorCommand()
	case "show":
		c = showCommand()
	case "tail":
		c = tailCommand()
	case "report":
		c = reportCommand()
	case "export":
		c = exportCommand()
	case "prove":
		c = proveCommand()
	case "check":
		c = checkCommand()
	case "values":
		c = valuesCommand()
	case "disclose":
		c = discloseCommand()
	case "erase":
		c = eraseCommand()
	case "prune":
		c = pruneCommand()
	case "rekey":
		c = rekeyCommand()
	case "hold":
		c = holdCommand(false)
	case "release":
		c = holdCommand(true)
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
	if c.flags.NArg() == 0 || c.flags.NArg() > 1 && c.many == nil {
		fmt.Fprintf(stderr, "twinward-audit: give one folder of a log or one proof, after the flags\n%s", usage)
		return exitUsage
	}
	var err error
	if c.many != nil {
		err = c.many(ctx, c.flags.Args(), stdout)
	} else {
		err = c.run(ctx, c.flags.Arg(0), stdout)
	}
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
