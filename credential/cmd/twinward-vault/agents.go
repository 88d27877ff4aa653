package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/agentid"
	"github.com/twinward-dev/twinward/credential/postgres"
)

// An agentsDB is the database of agents.
type agentsDB struct{ dsn string }

func (d *agentsDB) register(fs *flag.FlagSet) {
	fs.StringVar(&d.dsn, "db", "", "how to connect to PostgreSQL; what is left out is taken from PGHOST and the like")
}

// do opens the registry, does one thing and closes it.
func (d *agentsDB) do(ctx context.Context, log audit.Recorder, f func(*agentid.Registry) error) error {
	pool, err := pgxpool.New(ctx, d.dsn)
	if err != nil {
		return errors.New("-db is no connection string") // pgx's own error may quote a password
	}
	defer pool.Close()
	store, err := postgres.Open(ctx, pool)
	if err != nil {
		return err
	}
	registry, err := agentid.NewRegistry(log, &agentid.Options{Store: store})
	if err != nil {
		return err
	}
	if err := registry.Sync(ctx); err != nil {
		return err
	}
	return f(registry)
}

// agentCommand is a command that changes one agent. Prepare registers the
// command's own flags and returns what to do.
func agentCommand(name, args string, prepare func(fs *flag.FlagSet) agentAct) command {
	return command{name: "agents " + name, args: args, prepare: func(fs *flag.FlagSet) func(context.Context, []string, streams) error {
		var o office
		var d agentsDB
		o.register(fs)
		d.register(fs)
		act := prepare(fs)
		return func(ctx context.Context, args []string, std streams) error {
			id, err := one(args, "agent")
			if err != nil {
				return err
			}
			return o.do(func(log *audit.Log, by audit.Change) error {
				return d.do(ctx, log, func(r *agentid.Registry) error { return act(ctx, r, id, by, std) })
			})
		}
	}}
}

type agentAct func(ctx context.Context, r *agentid.Registry, id string, by audit.Change, std streams) error

var registerCommand = agentCommand("register", "-owner WHO [-profile P] [-keys FILE] [-expires T] [-secret-file FILE] OFFICE AGENT", func(fs *flag.FlagSet) agentAct {
	owner := fs.String("owner", "", "the person or team that answers for the agent")
	profile := fs.String("profile", "", "its profile")
	keys := fs.String("keys", "", "a JWK Set of the public keys that it signs with")
	expires := fs.String("expires", "", "when it ends by itself")
	secretFile := fs.String("secret-file", "", "a new file for its client secret")
	return func(ctx context.Context, r *agentid.Registry, id string, by audit.Change, std streams) error {
		a := agentid.Agent{ID: id, Owner: *owner, Profile: *profile}
		var err error
		if *expires != "" {
			if a.Expires, err = parseTime(*expires, time.Now(), 1); err != nil {
				return err
			}
		}
		if *keys != "" {
			if a.Keys, err = os.ReadFile(*keys); err != nil {
				return err
			}
		}
		return withSecretFile(*secretFile, false, std, func() (credential.Secret, error) { return r.Register(ctx, a, by) })
	}
})

var secretCommand = agentCommand("secret", "-secret-file FILE OFFICE AGENT", func(fs *flag.FlagSet) agentAct {
	secretFile := fs.String("secret-file", "", "a new file for the new client secret; the old one is void")
	return func(ctx context.Context, r *agentid.Registry, id string, by audit.Change, std streams) error {
		return withSecretFile(*secretFile, true, std, func() (credential.Secret, error) { return r.NewSecret(ctx, id, by) })
	}
})

// withSecretFile makes the file before the act whose secret it is for: an act
// whose secret then could not be written would have to be repeated.
func withSecretFile(path string, required bool, std streams, act func() (credential.Secret, error)) error {
	if path == "" {
		if required {
			return fmt.Errorf("%w: -secret-file is required", errUsage)
		}
		secret, err := act()
		secret.Destroy()
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	secret, err := act()
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(path))
	}
	err = secret.Use(func(b []byte) error { _, err := f.Write(b); return err })
	secret.Destroy()
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("the client secret was not written; have another one made with agents secret: %w", err)
	}
	fmt.Fprintf(std.out, "the client secret is in %s\n", path)
	return nil
}

var assignCommand = agentCommand("assign", "-profile P OFFICE AGENT", func(fs *flag.FlagSet) agentAct {
	profile := fs.String("profile", "", "the profile; empty for none")
	return func(ctx context.Context, r *agentid.Registry, id string, by audit.Change, std streams) error {
		given := false
		fs.Visit(func(f *flag.Flag) { given = given || f.Name == "profile" })
		if !given {
			return fmt.Errorf("%w: -profile is required", errUsage)
		}
		return r.Assign(ctx, id, *profile, by)
	}
})

var reinstateCommand = agentCommand("reinstate", "OFFICE AGENT", func(*flag.FlagSet) agentAct {
	return func(ctx context.Context, r *agentid.Registry, id string, by audit.Change, _ streams) error {
		return r.Reinstate(ctx, id, by)
	}
})

var (
	freezeCommand = endCommand("freeze", (*agentid.Registry).Freeze)
	killCommand   = endCommand("kill", (*agentid.Registry).Revoke)
)

// endCommand is an agentCommand for emergencies: it works without the log, and
// then fails.
func endCommand(name string, end func(*agentid.Registry, context.Context, string, audit.Change) error) command {
	return command{name: "agents " + name, args: "OFFICE AGENT", prepare: func(fs *flag.FlagSet) func(context.Context, []string, streams) error {
		var o office
		var d agentsDB
		o.register(fs)
		d.register(fs)
		return func(ctx context.Context, args []string, std streams) error {
			id, err := one(args, "agent")
			if err != nil {
				return err
			}
			by, err := o.change()
			if err != nil {
				return err
			}
			log, logErr := audit.Open(o.log, nil)
			var recorder audit.Recorder = log
			if logErr != nil {
				recorder = noLog{logErr}
			}
			err = d.do(ctx, recorder, func(r *agentid.Registry) error { return end(r, ctx, id, by) })
			if logErr == nil {
				err = errors.Join(err, log.Close())
			}
			if err == nil {
				fmt.Fprintf(std.out, "%s: the database has the end of %s; its hosts hear of it now, and deny everything when they cannot ask\n", name, id)
			}
			return err
		}
	}}
}

// noLog stands in for a log that could not be opened.
type noLog struct{ err error }

func (n noLog) Begin(context.Context, audit.Intent) (audit.Call, error) { return nil, n.err }
func (n noLog) Append(context.Context, audit.Event) error               { return n.err }

var listAgentsCommand = command{
	name: "agents list", args: "[-json]",
	prepare: func(fs *flag.FlagSet) func(context.Context, []string, streams) error {
		var d agentsDB
		d.register(fs)
		asJSON := fs.Bool("json", false, "print JSON")
		return func(ctx context.Context, args []string, std streams) error {
			if len(args) > 0 {
				return fmt.Errorf("%w: nothing follows the flags", errUsage)
			}
			return d.do(ctx, nil, func(r *agentid.Registry) error {
				all, err := r.Agents()
				if err != nil {
					return err
				}
				slices.SortFunc(all, func(a, b agentid.Entry) int { return cmp.Compare(a.ID, b.ID) })
				rows := make([]agentRow, len(all))
				for i, e := range all {
					rows[i] = agentRow{e.ID, e.Owner, e.Profile, string(e.State), e.Issuer, e.Expires, len(e.Keys) > 0}
				}
				if *asJSON {
					return json.NewEncoder(std.out).Encode(rows)
				}
				return table(std.out, "AGENT\tOWNER\tPROFILE\tSTATE\tEXPIRES", func(w io.Writer) {
					for _, r := range rows {
						fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.ID, dash(r.Owner), dash(r.Profile), r.State, moment(r.Expires))
					}
				})
			})
		}
	},
}

// An agentRow is what a list shows of an agent.
type agentRow struct {
	ID      string    `json:"id"`
	Owner   string    `json:"owner"`
	Profile string    `json:"profile,omitempty"`
	State   string    `json:"state"`
	Issuer  string    `json:"issuer,omitempty"`
	Expires time.Time `json:"expires,omitzero"`
	Signs   bool      `json:"signs,omitempty"` // with keys of its own
}

var usedCommand = command{
	name: "agents used", args: "-log DIR [-since T] [-json] AGENT",
	prepare: func(fs *flag.FlagSet) func(context.Context, []string, streams) error {
		log := fs.String("log", "", "the folder of the host's audit log")
		since := fs.String("since", "1h", "since when")
		asJSON := fs.Bool("json", false, "print JSON")
		return func(ctx context.Context, args []string, std streams) error {
			id, err := one(args, "agent")
			if err != nil {
				return err
			}
			if err := isLog(*log); err != nil {
				return err
			}
			from, err := parseTime(*since, time.Now(), -1)
			if err != nil {
				return err
			}
			uses, err := agentid.Used(audit.Scan(ctx, os.DirFS(*log), audit.Filter{Agent: id, From: from}), id, from)
			if err != nil {
				return err
			}
			if *asJSON {
				rows := make([]useRow, len(uses))
				for i, u := range uses {
					rows[i] = useRow(u)
				}
				return json.NewEncoder(std.out).Encode(rows)
			}
			return table(std.out, "CREDENTIAL\tVERSION\tCALLS\tOPEN\tFIRST\tLAST", func(w io.Writer) {
				for _, u := range uses {
					version := "-"
					if u.Version > 0 {
						version = fmt.Sprint(u.Version)
					}
					fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\n", dash(u.Credential), version, u.Calls, u.Open, moment(u.First), moment(u.Last))
				}
			})
		}
	},
}

// A useRow is an agentid.Use as JSON.
type useRow struct {
	Credential string    `json:"credential"`
	Calls      int       `json:"calls"`
	First      time.Time `json:"first"`
	Last       time.Time `json:"last"`
	Version    uint64    `json:"version,omitempty"` // the last that was sent
	Open       int       `json:"open,omitempty"`    // calls without an outcome
}

func table(out io.Writer, head string, rows func(io.Writer)) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, head)
	rows(w)
	return w.Flush()
}

// dash is a text of somebody else's for a terminal, or a dash if there is none.
func dash(s string) string {
	return cmp.Or(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s), "-")
}

func moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}
