// Command twinward-vault is how people look after secrets and agents: each act
// says who does it and why, and is on record in an audit log before it takes
// effect.
//
//	twinward-vault create    -vault FILE KEY OFFICE
//	twinward-vault put       [-note TEXT] [-raw] STORE OFFICE NAME <SECRET
//	twinward-vault list      [-json] STORE [-log DIR]
//	twinward-vault show      [-json] STORE [-log DIR] NAME
//	twinward-vault bind      SPEC STORE OFFICE NAME
//	twinward-vault test      [-path P] [-method M] [SPEC] STORE OFFICE NAME[@VERSION]
//	twinward-vault promote   STORE OFFICE NAME[@VERSION]
//	twinward-vault last-use  -log DIR [-json] NAME
//	twinward-vault revoke    STORE OFFICE NAME@VERSION
//	twinward-vault destroy   STORE OFFICE NAME@VERSION
//	twinward-vault restored  -vault FILE [-vault-id ID] KEY OFFICE
//
//	twinward-vault import -from dotenv|nemoclaw [-prefix P] [-only NAME,NAME] [-promote] [-dry-run] STORE OFFICE FILE
//
//	twinward-vault agents list      [-json]
//	twinward-vault agents register  -owner WHO [-profile P] [-keys FILE] [-expires T] [-secret-file FILE] OFFICE AGENT
//	twinward-vault agents assign    -profile P OFFICE AGENT
//	twinward-vault agents secret    -secret-file FILE OFFICE AGENT
//	twinward-vault agents freeze    OFFICE AGENT
//	twinward-vault agents kill      OFFICE AGENT
//	twinward-vault agents reinstate OFFICE AGENT
//	twinward-vault agents used      -log DIR [-since T] [-json] AGENT
//
// STORE is where the secrets are:
//
//	-vault FILE KEY       a vault in a file; with -vault-id ID, that one and no other
//	-keyring SERVICE      the keyring of this user, such as -keyring twinward
//	-openbao URL LOGIN    OpenBao or HashiCorp Vault, with [-mount M] [-folder F] [-namespace N]
//
// KEY opens a vault in a file:
//
//	-identity FILE        an age identity; create makes one if there is none
//	-passphrase-file FILE a file with a passphrase
//	-keyring-key NAME     a key in the keyring of this user, made when it is first used
//
// LOGIN is how the server knows who asks:
//
//	-token-file FILE                    a token
//	-role-id ID -secret-id-file FILE    AppRole
//
// OFFICE is for the record, and required for every change:
//
//	-by WHO -reason WHY -log DIR
//
// The log is one of this command's own, made if need be: the log of a running
// host can be written by that host only. A log of whose folder and key nobody
// but its auditor can be sure is to be anchored: see twinward-audit.
//
// Agents are in PostgreSQL, where hosts share them (see credential/postgres):
// -db says how to connect, such as "host=db dbname=twinward", and what it leaves
// out is taken from PGHOST, PGUSER, PGPASSFILE and the like. Passwords do not
// belong on a command line.
//
// # Secrets
//
// put reads a secret from standard input and never from the command line, which
// others can see, and keeps it as a pending version. One newline at its end is
// not a part of it, unless -raw. bind says where the secret may go, for all
// hosts that use the store:
//
//	-spec FILE                          a binding as JSON (see credential.BindingSpec)
//	-origin URL [-type T] [-name N] [-format F] [-user U]
//
// test makes one request to that origin which carries the pending version, and
// says how it was answered; what the answer holds is not shown. It fails unless
// the status is 2xx, and follows no redirect. Then promote makes the version
// current, and the one before previous, which hosts go on to accept; the one
// before that is revoked. Promoting the previous version takes the change back.
// Without a version, test and promote mean the newest that is pending.
//
// last-use tells from the audit log of a host when each version was last used.
// When the old one is not used any more, revoke it, here and at its issuer, and
// destroy it. Hosts that use the store notice within seconds, without a restart.
//
// A vault in a file that is older than the newest save in the log of this command
// is refused, because somebody may have put it back to have a revoked secret
// again. restored accepts a backup. The log of a running host, which knows what
// the host saw, is another one: see filevault.Options.Restored. Another vault of
// the same key is refused only if -vault-id says which one is meant, as create
// and list print it.
//
// put, bind, test, promote, revoke and destroy print JSON with -json.
//
// # Import
//
// import reads a file of somebody else's and puts each secret in it into the
// store, as a pending version, or with -promote as the current one. A secret
// whose name is there already is left alone. What is skipped is listed with the
// reason; no value is ever printed. A file that is damaged is refused as a whole.
// -dry-run reads the file and says what would be put, without asking the store
// whether it is there.
//
// # Agents
//
// freeze and kill end an agent on all hosts: its tokens are void, its calls,
// streams and sessions end. When the command returns the end is in the database;
// hosts hear of it within a moment, and one that cannot reach the database denies
// everything (see agentid.Options.MaxStale). A frozen one's workspaces are kept.
// Both take effect even if the log cannot be written, and then say so and fail. register
// and secret write the client secret to a new file that only this user can read;
// without -secret-file there is none, as for agents that sign with their own keys
// or live in sandbox sessions.
//
// used lists the credentials that an agent was given, from the audit log of a
// host: what has to be rotated when the agent was taken over.
//
// T is a time such as 2026-11-28T09:00:00Z, a date (its beginning in UTC), or a
// duration such as 36h: ago for -since, from now for -expires.
//
// # Exit status
//
//	0  all is well
//	1  it failed, or was done only in part: the message says what
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

// A command is one line of the usage.
type command struct {
	name string // one word or two
	args string // what follows it, for the usage
	// prepare registers the flags and returns what to do once they are parsed,
	// with the arguments that follow them.
	prepare func(fs *flag.FlagSet) func(ctx context.Context, args []string, std streams) error
}

// commands in the order of the usage.
var commands = []command{
	createCommand,
	putCommand,
	listCommand,
	showCommand,
	bindCommand,
	testCommand,
	promoteCommand,
	lastUseCommand,
	revokeCommand,
	destroyCommand,
	restoredCommand,
	importCommand,
	listAgentsCommand,
	registerCommand,
	assignCommand,
	secretCommand,
	freezeCommand,
	killCommand,
	reinstateCommand,
	usedCommand,
}

// streams are the standard ones.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

func usage() string {
	var b strings.Builder
	b.WriteString("Usage:\n")
	for _, c := range commands {
		fmt.Fprintf(&b, "  twinward-vault %s %s\n", c.name, c.args)
	}
	b.WriteString(`SPEC is -spec FILE, or -origin URL [-type T] [-name N] [-format F] [-user U].
STORE is -vault FILE KEY, -keyring SERVICE, or -openbao URL LOGIN [-mount M] [-folder F] [-namespace N].
KEY is -identity FILE, -passphrase-file FILE or -keyring-key NAME.
LOGIN is -token-file FILE, or -role-id ID -secret-id-file FILE.
OFFICE is -by WHO -reason WHY -log DIR, and on record. Agents are found with -db CONNECTION.
T is a time, a date, or a duration such as 36h.
Exit status: 0 all is well, 1 it failed or was done in part, 2 usage.
`)
	return b.String()
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr})
	stop()
	os.Exit(code)
}

// errUsage marks errors that are about how the command was called.
var errUsage = errors.New("usage")

// run is main without the process around it.
func run(ctx context.Context, args []string, std streams) int {
	if len(args) > 0 && (args[0] == "help" || args[0] == "-h" || args[0] == "-help" || args[0] == "--help") {
		fmt.Fprint(std.out, usage())
		return exitOK
	}
	c, rest, ok := find(args)
	if !ok {
		fmt.Fprintf(std.err, "twinward-vault: unknown command %q\n%s", strings.Join(args[:min(2, len(args))], " "), usage())
		return exitUsage
	}
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	fs.SetOutput(std.err)
	fs.Usage = func() { fmt.Fprintf(std.err, "Usage: twinward-vault %s %s\n", c.name, c.args) }
	do := c.prepare(fs)
	if err := fs.Parse(rest); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitOK
		}
		return exitUsage
	}
	err := do(ctx, fs.Args(), std)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errUsage):
		fmt.Fprintf(std.err, "twinward-vault: %v\n", err)
		fs.Usage()
		return exitUsage
	}
	fmt.Fprintf(std.err, "twinward-vault: %v\n", err)
	return exitFailed
}

// find returns the command that the arguments begin with.
func find(args []string) (command, []string, bool) {
	for _, c := range commands {
		words := strings.Fields(c.name)
		if len(args) >= len(words) && strings.Join(args[:len(words)], " ") == c.name {
			return c, args[len(words):], true
		}
	}
	return command{}, nil, false
}

// one returns the only argument.
func one(args []string, what string) (string, error) {
	if len(args) != 1 {
		return "", fmt.Errorf("%w: give one %s, after the flags", errUsage, what)
	}
	return args[0], nil
}
