package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// An office are the flags of the commands that write to a log: who, why, and the
// log's key. They need the log for themselves: its host must have stopped.
type office struct {
	by, reason, keyFile, values string
	asJSON                      bool

	kekFile string // for what needs the key-encryption key
}

func (o *office) register(fs *flag.FlagSet) {
	fs.StringVar(&o.by, "by", "", "who orders it")
	fs.StringVar(&o.reason, "reason", "", "why")
	fs.StringVar(&o.keyFile, "keyfile", "", "the file of the log's key, instead of LOG.key")
	fs.StringVar(&o.values, "values", "", "the folder of the arguments that were kept, instead of LOG.values")
	fs.BoolVar(&o.asJSON, "json", false, "print the result as JSON")
}

// noKEK stands in for the key-encryption key: what the office does needs none.
type noKEK struct{}

var errNoKEK = errors.New("there is no key-encryption key here")

func (noKEK) ID() string                                             { return "none" }
func (noKEK) Wrap(context.Context, []byte, []byte) ([]byte, error)   { return nil, errNoKEK }
func (noKEK) Unwrap(context.Context, []byte, []byte) ([]byte, error) { return nil, errNoKEK }

// do opens the log, which must exist, does one thing and closes it.
func (o *office) do(dir string, f func(log *audit.Log, by audit.Change) error) error {
	by := audit.Change{By: o.by, Reason: o.reason}
	if by.Validate() != nil {
		return fmt.Errorf("%w: -by and -reason are required", errUsage)
	}
	// Opening would make what is missing, and then there would be nothing to do.
	values := valuesOf(dir, o.values)
	if len(segmentsIn(os.DirFS(dir))) == 0 {
		return fmt.Errorf("there is no log in %s", dir)
	}
	if st, err := os.Stat(values); err != nil || !st.IsDir() {
		return fmt.Errorf("the arguments that the log kept are not in %s: say where with -values", values)
	}
	opts := &audit.Options{KeyFile: o.keyFile, ValuesDir: values, KEKFile: o.kekFile}
	if o.kekFile == "" {
		opts.KEK = noKEK{}
	}
	log, err := audit.Open(dir, opts)
	if err != nil {
		return err
	}
	return errors.Join(f(log, by), log.Close())
}

func (o *office) print(out io.Writer, e audit.Erased) error {
	if o.asJSON {
		return writeJSON(out, e)
	}
	_, err := fmt.Fprintf(out, "destroyed: the arguments of %d records, %d data keys\n", e.Values, e.Keys)
	if err == nil && e.Held > 0 {
		_, err = fmt.Fprintf(out, "held:      the arguments of %d records, by a legal hold\n", e.Held)
	}
	return err
}

// A subjectFlags says whose arguments something is about.
type subjectFlags struct {
	audit.Subject
	records string
}

func (s *subjectFlags) register(fs *flag.FlagSet) {
	fs.StringVar(&s.Agent, "agent", "", "acts of this agent")
	fs.StringVar(&s.User, "user", "", "acts for this user")
	fs.StringVar(&s.records, "records", "", "records with these numbers, such as 3,17")
}

func (s *subjectFlags) subject() (audit.Subject, error) {
	for _, text := range strings.FieldsFunc(s.records, func(r rune) bool { return r == ',' || r == ' ' }) {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil || n == 0 {
			return audit.Subject{}, fmt.Errorf("%w: -records: %q is no number of a record", errUsage, text)
		}
		s.Records = append(s.Records, n)
	}
	return s.Subject, nil
}

func eraseCommand() command {
	fs := flag.NewFlagSet("erase", flag.ContinueOnError)
	var o office
	var s subjectFlags
	o.register(fs)
	s.register(fs)
	return command{flags: fs, run: func(ctx context.Context, dir string, out io.Writer) error {
		subject, err := s.subject()
		if err != nil {
			return err
		}
		if subject.IsZero() {
			return fmt.Errorf("%w: give -agent, -user or -records", errUsage)
		}
		return o.do(dir, func(log *audit.Log, by audit.Change) error {
			e, err := log.Erase(ctx, subject, by)
			if err != nil {
				return err
			}
			return o.print(out, e)
		})
	}}
}

func rekeyCommand() command {
	fs := flag.NewFlagSet("rekey", flag.ContinueOnError)
	var o office
	o.register(fs)
	kek := fs.String("kek", "", "the file of the key-encryption key, instead of LOG.kek")
	return command{flags: fs, run: func(ctx context.Context, dir string, out io.Writer) error {
		file := cmp.Or(*kek, beside(dir, ".kek"))
		if _, err := audit.LoadKEK(file); err != nil {
			return err
		}
		o.kekFile = file
		return o.do(dir, func(log *audit.Log, by audit.Change) error {
			n, err := log.RotateKEK(ctx, nil, by)
			if err != nil {
				return err
			}
			if o.asJSON {
				return writeJSON(out, map[string]int{"keys": n})
			}
			_, err = fmt.Fprintf(out, "wrapped anew: %d data keys; %s holds the new key and no other\n", n, file)
			return err
		})
	}}
}

func pruneCommand() command {
	fs := flag.NewFlagSet("prune", flag.ContinueOnError)
	var o office
	o.register(fs)
	keep := fs.Duration("keep", audit.SixMonths, "how long the arguments of all acts are kept, such as 8784h")
	short := fs.Bool("short", false, "less than six months is meant")
	records := fs.Bool("records", false, "remove records that old, too, as far as whole files hold no other")
	quiet := fs.Duration("quiet", audit.DefaultQuiet, "how much counts of a time in which nothing was recorded")
	return command{flags: fs, run: func(ctx context.Context, dir string, out io.Writer) error {
		if *keep <= 0 || *keep < audit.SixMonths && !*short {
			return fmt.Errorf("%w: -keep %s is less than six months (%s): say -short if that is meant", errUsage, *keep, time.Duration(audit.SixMonths))
		}
		r := audit.Retention{Read: *keep, Write: *keep, Destructive: *keep, Denied: *keep, Other: *keep, ShorterThanSixMonths: *short, Quiet: *quiet}
		return o.do(dir, func(log *audit.Log, by audit.Change) error {
			e, err := log.Prune(ctx, r, by)
			if err != nil || !*records {
				return errors.Join(err, o.print(out, e))
			}
			p, err := log.PruneRecords(ctx, r, by)
			if err != nil {
				return err
			}
			p.Values, p.Keys, p.Held = p.Values+e.Values, p.Keys+e.Keys, e.Held
			if o.asJSON {
				return writeJSON(out, p)
			}
			fmt.Fprintf(out, "removed:   %d records in %d files\n", p.Records, p.Segments)
			return o.print(out, p.Erased)
		})
	}}
}

func holdCommand(release bool) command {
	fs := flag.NewFlagSet("hold", flag.ContinueOnError)
	var o office
	var s subjectFlags
	o.register(fs)
	matter := fs.String("matter", "", "the case")
	if !release {
		s.register(fs)
	}
	return command{flags: fs, run: func(ctx context.Context, dir string, out io.Writer) error {
		subject, err := s.subject()
		if err != nil {
			return err
		}
		if strings.TrimSpace(*matter) == "" {
			return fmt.Errorf("%w: -matter is missing", errUsage)
		}
		return o.do(dir, func(log *audit.Log, by audit.Change) error {
			if release {
				err = log.Release(ctx, *matter, by)
			} else {
				err = log.Hold(ctx, *matter, subject, by)
			}
			if err != nil {
				return err
			}
			holds, err := log.Holds(ctx)
			if err != nil {
				return err
			}
			if o.asJSON {
				return writeJSON(out, holds)
			}
			_, err = fmt.Fprintf(out, "holds in force: %d\n", len(holds))
			return err
		})
	}}
}
