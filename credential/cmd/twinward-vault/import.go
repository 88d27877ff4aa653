package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
)

var importCommand = command{
	name: "import",
	args: "-from dotenv|nemoclaw [-prefix P] [-only NAME,NAME] [-promote] [-dry-run] STORE OFFICE FILE",
	prepare: func(fs *flag.FlagSet) func(context.Context, []string, streams) error {
		var o office
		var p place
		var i importing
		o.register(fs)
		p.register(fs)
		from := fs.String("from", "", "what the file is: dotenv, or nemoclaw for its credentials.json")
		only := fs.String("only", "", "the names to import, between commas; all else is left out")
		fs.StringVar(&i.prefix, "prefix", "", "what to put before each name, such as nemoclaw/")
		fs.BoolVar(&i.promote, "promote", false, "make what is imported current at once, without a test")
		dry := fs.Bool("dry-run", false, "change nothing, and say what would be done")
		return func(ctx context.Context, args []string, std streams) error {
			path, err := one(args, "file")
			if err != nil {
				return err
			}
			parse, ok := parsers[*from]
			if !ok {
				return fmt.Errorf("%w: -from is dotenv or nemoclaw", errUsage)
			}
			i.note = "imported from " + filepath.Base(path)
			content, err := readImport(path, parse, std)
			if err != nil {
				return err
			}
			if *only != "" {
				if err := content.keep(strings.Split(*only, ",")); err != nil {
					return err
				}
			}
			if *dry {
				return i.run(ctx, nil, nil, audit.Change{}, content, std)
			}
			return o.do(func(log *audit.Log, by audit.Change) error {
				store, done, err := p.open(ctx, log)
				if err != nil {
					return err
				}
				broker, err := credential.NewBroker(store, log, nil)
				if err != nil {
					return errors.Join(err, done())
				}
				err = i.run(ctx, store, broker, by, content, std)
				return errors.Join(err, broker.Close(), done())
			})
		}
	},
}

var parsers = map[string]func([]byte) (found, error){"dotenv": parseDotenv, "nemoclaw": parseNemoClaw}

// readImport reads and parses a file.
func readImport(path string, parse func([]byte) (found, error), std streams) (found, error) {
	if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() { // before it is opened: a FIFO would wait
		return found{}, errors.Join(err, fmt.Errorf("%s is no regular file", path))
	}
	f, err := os.Open(path)
	if err != nil {
		return found{}, err
	}
	defer func() { _ = f.Close() }()
	text := make([]byte, maxImportBytes+1)
	defer clear(text)
	n, err := io.ReadFull(f, text)
	switch {
	case err == nil:
		return found{}, fmt.Errorf("%s has more than %d bytes", path, maxImportBytes)
	case err != io.EOF && err != io.ErrUnexpectedEOF:
		return found{}, err
	}
	if st, err := f.Stat(); err == nil && st.Mode().Perm()&0o077 != 0 && os.PathSeparator == '/' {
		fmt.Fprintf(std.err, "warning: others can read %s: whoever could knows these secrets; rotate them\n", path)
	}
	content, err := parse(text[:n])
	if err != nil {
		return found{}, fmt.Errorf("%s: nothing was imported: %w", path, err)
	}
	return content, nil
}

// keep skips all entries but those named, which must be there.
func (f *found) keep(names []string) error {
	for _, name := range names {
		is := func(n string) bool { return n == name }
		if !slices.ContainsFunc(f.entries, func(e entry) bool { return is(e.name) }) &&
			!slices.ContainsFunc(f.skipped, func(s skipped) bool { return is(s.name) }) {
			return fmt.Errorf("%w: -only: there is no %q in the file", errUsage, name)
		}
	}
	f.entries = slices.DeleteFunc(f.entries, func(e entry) bool {
		if slices.Contains(names, e.name) {
			return false
		}
		e.secret.Destroy()
		f.skipped = append(f.skipped, skipped{e.name, e.line, "not asked for"})
		return true
	})
	return nil
}

// An importing is how to import.
type importing struct {
	prefix  string
	promote bool
	note    string
}

// run imports, or without a broker says what it would. It goes on after a
// secret that could not be imported.
func (i importing) run(ctx context.Context, store credential.Store, broker *credential.Broker, by audit.Change, content found, std streams) error {
	var failed error
	imported := 0
	for _, e := range content.entries {
		name := i.prefix + e.name
		if err := credential.CheckName(name); err != nil {
			content.skipped = append(content.skipped, skipped{e.name, e.line, "no secret can have that name after the prefix"})
			continue
		}
		if broker == nil {
			fmt.Fprintf(std.out, "would import %s\n", name)
			continue
		}
		there, err := store.List(ctx, name)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", name, err))
			continue
		}
		if len(there) > 0 {
			content.skipped = append(content.skipped, skipped{e.name, e.line, "the store has a secret of that name: put the value there by hand if it is newer"})
			continue
		}
		ref, err := broker.Put(ctx, name, e.secret, i.note, by)
		if err == nil && i.promote {
			err = broker.Promote(ctx, ref, by)
		}
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		imported++
		state := credential.StatePending
		if i.promote {
			state = credential.StateCurrent
		}
		fmt.Fprintf(std.out, "imported %s, %s\n", ref, state)
	}
	slices.SortStableFunc(content.skipped, func(a, b skipped) int { return cmp.Compare(a.line, b.line) })
	for _, s := range content.skipped {
		fmt.Fprintf(std.out, "skipped  line %d%s: %s\n", s.line, named(s.name), s.why)
	}
	if broker != nil {
		fmt.Fprintf(std.out, "%d imported, %d skipped\n", imported, len(content.skipped))
		if imported > 0 {
			fmt.Fprintln(std.out, "The file still has them in the clear: once the vault's are tried, delete it.")
		}
	}
	return failed
}

func named(name string) string {
	if name == "" {
		return ""
	}
	return ", " + name
}
