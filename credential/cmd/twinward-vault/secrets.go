package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/credential"
	"github.com/twinward-dev/twinward/credential/filevault"
	"github.com/twinward-dev/twinward/credential/oauth"
)

// The life of a secret: put, tried, promoted, and, when nobody uses the old
// version any more, revoked and destroyed.

// A task is what the commands about secrets work with.
type task struct {
	store  credential.WritableStore
	broker *credential.Broker // nil for those that only look
	log    *audit.Log         // nil without -log
	by     audit.Change
	std    streams
	json   bool
}

// actOnSecret is a command about one secret, which is named after the flags as
// NAME or NAME@VERSION.
func actOnSecret(name, args string, prepare func(fs *flag.FlagSet) func(ctx context.Context, t *task, ref credential.Ref) error) command {
	return command{name: name, args: args, prepare: func(fs *flag.FlagSet) func(context.Context, []string, streams) error {
		var o office
		var p place
		t := new(task)
		o.register(fs)
		p.register(fs)
		fs.BoolVar(&t.json, "json", false, "print JSON")
		act := prepare(fs)
		return func(ctx context.Context, args []string, std streams) error {
			text, err := one(args, "secret")
			if err != nil {
				return err
			}
			ref, err := parseRef(text)
			if err != nil {
				return err
			}
			return o.do(func(log *audit.Log, by audit.Change) (err error) {
				store, done, err := p.open(ctx, log)
				if err != nil {
					return err
				}
				defer func() { err = errors.Join(err, done()) }()
				broker, err := credential.NewBroker(store, log, &credential.BrokerOptions{Binding: binding})
				if err != nil {
					return err
				}
				defer func() { err = errors.Join(err, broker.Close()) }()
				t.store, t.broker, t.log, t.by, t.std = store, broker, log, by, std
				return act(ctx, t, ref)
			})
		}
	}}
}

// look is a command that changes nothing. With -log it makes sure that a
// vault in a file is not an old one.
func look(name, args string, do func(ctx context.Context, t *task, args []string) error) command {
	return command{name: name, args: args, prepare: func(fs *flag.FlagSet) func(context.Context, []string, streams) error {
		var p place
		t := new(task)
		p.register(fs)
		fs.BoolVar(&t.json, "json", false, "print JSON")
		dir := fs.String("log", "", "the folder of the audit log that knows the newest save of the vault")
		return func(ctx context.Context, args []string, std streams) (err error) {
			if *dir != "" {
				// One that is made now would know of no newer save.
				if err := isLog(*dir); err != nil {
					return err
				}
				if t.log, err = audit.Open(*dir, nil); err != nil {
					return err
				}
				defer func() { err = errors.Join(err, t.log.Close()) }()
			}
			store, done, err := p.open(ctx, t.log)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, done()) }()
			t.store, t.std = store, std
			return do(ctx, t, args)
		}
	}}
}

func binding(spec credential.BindingSpec) (credential.Binding, error) {
	return oauth.Binding(spec, nil)
}

// parseRef reads NAME or NAME@VERSION.
func parseRef(text string) (credential.Ref, error) {
	name, number, given := strings.Cut(text, "@")
	ref := credential.Ref{Name: name}
	err := credential.CheckName(name)
	if given && err == nil {
		if ref.Version, err = strconv.ParseUint(number, 10, 64); err == nil && ref.Version == 0 {
			err = errors.New("versions count from 1")
		}
	}
	if err != nil {
		return credential.Ref{}, fmt.Errorf("%w: %q is not NAME or NAME@VERSION: %v", errUsage, text, err)
	}
	return ref, nil
}

// whole returns a ref that names a version, or an error: what takes something
// away does not guess.
func whole(ref credential.Ref) (credential.Ref, error) {
	if ref.Version == 0 {
		return ref, fmt.Errorf("%w: say which version, such as %s@1", errUsage, ref.Name)
	}
	return ref, nil
}

// pending returns ref, or the newest pending version if it names none.
func (t *task) pending(ctx context.Context, ref credential.Ref) (credential.Ref, error) {
	if ref.Version > 0 {
		return ref, nil
	}
	list, err := t.store.List(ctx, ref.Name)
	if err != nil {
		return ref, err
	}
	for _, v := range list {
		if v.State == credential.StatePending {
			ref = v.Ref
		}
	}
	switch {
	case len(list) == 0:
		return ref, fmt.Errorf("%w: %q", credential.ErrUnknown, ref.Name)
	case ref.Version == 0:
		return ref, fmt.Errorf("%q has no pending version: put one, or say which version", ref.Name)
	}
	return ref, nil
}

// say prints one sentence, or what it is about.
func (t *task) say(about any, format string, args ...any) error {
	if t.json {
		return json.NewEncoder(t.std.out).Encode(about)
	}
	_, err := fmt.Fprintf(t.std.out, format+"\n", args...)
	return err
}

// A moved version is what is printed of an act with -json.
type moved struct {
	Name    string           `json:"name"`
	Version uint64           `json:"version"`
	State   credential.State `json:"state"`
}

var putCommand = actOnSecret("put", "[-note TEXT] [-raw] STORE OFFICE NAME <SECRET", func(fs *flag.FlagSet) func(context.Context, *task, credential.Ref) error {
	note := fs.String("note", "", "kept with the version in the clear, such as where it came from")
	raw := fs.Bool("raw", false, "take a newline at the end as a part of the secret")
	return func(ctx context.Context, t *task, ref credential.Ref) error {
		if ref.Version > 0 {
			return fmt.Errorf("%w: the store numbers the versions", errUsage)
		}
		secret, err := readSecret(t.std.in, *raw)
		if err != nil {
			return err
		}
		defer secret.Destroy()
		if ref, err = t.broker.Put(ctx, ref.Name, secret, *note, t.by); err != nil {
			return err
		}
		return t.say(moved{ref.Name, ref.Version, credential.StatePending}, "%s is pending: try it with test, then promote it", ref)
	}
})

// readSecret reads standard input to its end. One newline at the end is not a
// part of the secret unless raw.
func readSecret(in io.Reader, raw bool) (credential.Secret, error) {
	if f, ok := in.(*os.File); ok {
		if st, err := f.Stat(); err == nil && st.Mode()&os.ModeCharDevice != 0 {
			return credential.Secret{}, fmt.Errorf("%w: pipe the secret in, so that it is not shown and not in a history", errUsage)
		}
	}
	b := make([]byte, credential.MaxLength+3)
	defer clear(b)
	n, err := io.ReadFull(in, b)
	if err == nil || n > credential.MaxLength+2 {
		return credential.Secret{}, credential.ErrLength
	}
	if err != io.EOF && err != io.ErrUnexpectedEOF {
		return credential.Secret{}, err
	}
	text := b[:n]
	if !raw {
		if k := len(text); k > 0 && text[k-1] == '\n' {
			text = text[:k-1]
			if k > 1 && text[k-2] == '\r' {
				text = text[:k-2]
			}
		}
	}
	return credential.NewSecret(text), nil
}

var promoteCommand = actOnSecret("promote", "[-json] STORE OFFICE NAME[@VERSION]", func(*flag.FlagSet) func(context.Context, *task, credential.Ref) error {
	return func(ctx context.Context, t *task, ref credential.Ref) error {
		ref, err := t.pending(ctx, ref)
		if err != nil {
			return err
		}
		if err := t.broker.Promote(ctx, ref, t.by); err != nil {
			return err
		}
		return t.say(moved{ref.Name, ref.Version, credential.StateCurrent},
			"%s is current; the version before is previous: revoke it when last-use says that nobody uses it", ref)
	}
})

var revokeCommand = actOnSecret("revoke", "[-json] STORE OFFICE NAME@VERSION", func(*flag.FlagSet) func(context.Context, *task, credential.Ref) error {
	return func(ctx context.Context, t *task, ref credential.Ref) error {
		ref, err := whole(ref)
		if err != nil {
			return err
		}
		if err := t.broker.Revoke(ctx, ref, t.by); err != nil {
			return err
		}
		return t.say(moved{ref.Name, ref.Version, credential.StateRevoked}, "%s is revoked here; revoke it at its issuer too", ref)
	}
})

var destroyCommand = actOnSecret("destroy", "[-json] STORE OFFICE NAME@VERSION", func(*flag.FlagSet) func(context.Context, *task, credential.Ref) error {
	return func(ctx context.Context, t *task, ref credential.Ref) error {
		ref, err := whole(ref)
		if err != nil {
			return err
		}
		if err := t.broker.Destroy(ctx, ref, t.by); err != nil {
			return err
		}
		return t.say(moved{ref.Name, ref.Version, credential.StateDestroyed}, "%s is destroyed", ref)
	}
})

var bindCommand = actOnSecret("bind", "SPEC [-json] STORE OFFICE NAME", func(fs *flag.FlagSet) func(context.Context, *task, credential.Ref) error {
	var s specFlags
	s.register(fs)
	return func(ctx context.Context, t *task, ref credential.Ref) error {
		spec, err := s.spec()
		if err != nil {
			return err
		}
		if spec == nil || ref.Version > 0 {
			return fmt.Errorf("%w: want -spec or -origin, and a name without a version", errUsage)
		}
		if err := t.broker.BindSpec(ctx, ref.Name, *spec, t.by); err != nil {
			return err
		}
		return t.say(spec, "%s goes to %s as %s, and nowhere else", ref.Name, spec.Origin, spec.Type)
	}
})

// The specFlags say where a secret may go.
type specFlags struct {
	file string
	credential.BindingSpec
}

func (s *specFlags) register(fs *flag.FlagSet) {
	fs.StringVar(&s.file, "spec", "", "a file with the binding as JSON, as in the catalogue")
	fs.StringVar(&s.Origin, "origin", "", "where the secret may go: scheme://host[:port]")
	fs.StringVar(&s.Type, "type", credential.TypeBearer, "how it is put on a request: bearer, header, basic")
	fs.StringVar(&s.Name, "name", "", "the name of the header")
	fs.StringVar(&s.Format, "format", "", "the value of the header, with {secret} in it")
	fs.StringVar(&s.User, "user", "", "the user's name of basic")
}

// spec returns nil if no flag was given.
func (s *specFlags) spec() (*credential.BindingSpec, error) {
	switch {
	case s.file != "" && s.Origin != "":
		return nil, fmt.Errorf("%w: want either -spec or -origin", errUsage)
	case s.file != "":
		text, err := os.ReadFile(s.file)
		if err != nil {
			return nil, err
		}
		spec, err := credential.ParseBindingSpec(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.file, err)
		}
		return &spec, nil
	case s.Origin == "":
		return nil, nil
	}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	return &s.BindingSpec, nil
}

var listCommand = look("list", "[-json] STORE [-log DIR]", func(ctx context.Context, t *task, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%w: nothing follows the flags", errUsage)
	}
	if v, ok := t.store.(*filevault.Store); ok && !t.json {
		fmt.Fprintf(t.std.out, "vault %s\n", v.ID())
	}
	return t.print(ctx, "")
})

var showCommand = look("show", "[-json] STORE [-log DIR] NAME", func(ctx context.Context, t *task, args []string) error {
	name, err := one(args, "secret")
	if err != nil {
		return err
	}
	return t.print(ctx, name)
})

// A shown secret is what is printed of it: never a value.
type shown struct {
	Name     string                  `json:"name"`
	Binding  *credential.BindingSpec `json:"binding,omitempty"`
	Versions []credential.Version    `json:"versions"`
}

func (t *task) print(ctx context.Context, name string) error {
	list, err := t.store.List(ctx, name)
	if err != nil {
		return err
	}
	if name != "" && len(list) == 0 {
		return fmt.Errorf("%w: %q", credential.ErrUnknown, name)
	}
	all := []shown{}
	for _, v := range list {
		if len(all) == 0 || all[len(all)-1].Name != v.Ref.Name {
			s := shown{Name: v.Ref.Name}
			if b, ok := t.store.(credential.BindingStore); ok {
				spec, bound, err := b.Binding(ctx, s.Name)
				if err != nil {
					return err
				}
				if bound {
					s.Binding = &spec
				}
			}
			all = append(all, s)
		}
		s := &all[len(all)-1]
		s.Versions = append(s.Versions, v)
	}
	if t.json {
		return json.NewEncoder(t.std.out).Encode(all)
	}
	w := tabwriter.NewWriter(t.std.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tVERSION\tSTATE\tSINCE\tGOES TO\tNOTE")
	for _, s := range all {
		to := "-"
		if s.Binding != nil {
			to = s.Binding.Origin + " as " + s.Binding.Type
		}
		for _, v := range s.Versions {
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%q\n", s.Name, v.Ref.Version, v.State, v.Changed.UTC().Format(time.RFC3339), to, v.Note)
		}
	}
	return w.Flush()
}

var lastUseCommand = command{name: "last-use", args: "-log DIR [-json] NAME", prepare: func(fs *flag.FlagSet) func(context.Context, []string, streams) error {
	dir := fs.String("log", "", "the folder of the audit log of the host that uses the secret")
	asJSON := fs.Bool("json", false, "print JSON")
	return func(ctx context.Context, args []string, std streams) error {
		name, err := one(args, "secret")
		if err != nil {
			return err
		}
		if err := isLog(*dir); err != nil {
			return err
		}
		uses, err := credential.VersionUses(audit.Scan(ctx, os.DirFS(*dir), audit.Filter{}), name)
		if err != nil {
			return err
		}
		if *asJSON {
			return json.NewEncoder(std.out).Encode(append([]credential.VersionUse{}, uses...))
		}
		w := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "VERSION\tCALLS\tLAST\tAGENT\tRECORD")
		for _, u := range uses {
			version := "unknown" // under way, cut off, or of a public client
			if u.Version > 0 {
				version = strconv.FormatUint(u.Version, 10)
			}
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%d\n", version, u.Calls, u.Last.UTC().Format(time.RFC3339), u.Agent, u.Record)
		}
		return w.Flush()
	}
}}
