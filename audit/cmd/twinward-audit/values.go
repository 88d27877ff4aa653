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

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/internal/visible"
)

// A reading are the flags for arguments that a log kept.
type reading struct{ dir, kek string }

func (r *reading) register(fs *flag.FlagSet) {
	fs.StringVar(&r.kek, "kek", "", "the file of the key-encryption key: show the arguments that were kept")
	fs.StringVar(&r.dir, "values", "", "the folder that they are in, instead of LOG.values")
}

// open returns nil if arguments are not asked for.
func (r *reading) open(ctx context.Context, log string) (*audit.Values, error) {
	if r.kek == "" && r.dir == "" {
		return nil, nil
	}
	if r.kek == "" {
		return nil, fmt.Errorf("%w: -values needs -kek", errUsage)
	}
	kek, err := audit.LoadKEK(r.kek)
	if err != nil {
		return nil, err
	}
	return audit.OpenValues(ctx, os.DirFS(valuesOf(log, r.dir)), kek)
}

// valuesOf is the folder of a log's values.
func valuesOf(log, dir string) string { return cmp.Or(dir, beside(log, ".values")) }

// A known is a record with its arguments, as far as they are known.
type known struct {
	Record json.RawMessage `json:"record"`
	// Arguments are JSON, or in ArgumentsRaw (base64) if they are none.
	Arguments    json.RawMessage `json:"arguments,omitempty"`
	ArgumentsRaw []byte          `json:"arguments_raw,omitempty"`
	// Result is what an outcome gave back to the agent, in the same two forms.
	Result    json.RawMessage `json:"result,omitempty"`
	ResultRaw []byte          `json:"result_raw,omitempty"`
	// Value is what became of either: "shown", "committed" if they never were kept,
	// "gone", or why they cannot be read.
	Value string `json:"value,omitempty"`
}

// reveal reads the arguments or the result of a record, unless they cannot be had.
func reveal(ctx context.Context, v *audit.Values, r audit.Record) (known, error) {
	line, err := r.Line()
	if err != nil {
		return known{}, err
	}
	k := known{Record: visible.JSON(line)}
	c := r.Commitment()
	if c == nil {
		return k, nil
	}
	if v == nil && c.Kept {
		k.Value = "kept, and no key was given"
		return k, nil
	}
	var d audit.Disclosure
	if c.Kept {
		d, err = v.Reveal(ctx, r)
	}
	switch {
	case !c.Kept:
		k.Value = "committed"
	case errors.Is(err, audit.ErrGone):
		k.Value = "gone"
	case errors.Is(err, audit.ErrTampered), errors.Is(err, audit.ErrKey):
		k.Value = err.Error()
	case err != nil:
		return known{}, err
	case r.Outcome != nil && json.Valid(d.Value):
		k.Value, k.Result = "shown", d.Value
	case r.Outcome != nil:
		k.Value, k.ResultRaw = "shown", d.Value
	case json.Valid(d.Value):
		k.Value, k.Arguments = "shown", d.Value
	default:
		k.Value, k.ArgumentsRaw = "shown", d.Value
	}
	return k, nil
}

// text is a known on one line that cannot drive a terminal.
func (k known) text() (string, error) {
	enc, err := json.Marshal(k)
	return string(visible.JSON(enc)), err
}

// suffix is what follows a record's line for people.
func (k known) suffix() string {
	switch {
	case k.Value == "":
		return ""
	case k.Result != nil:
		return "  result " + visible.Text(string(k.Result))
	case k.ResultRaw != nil:
		return fmt.Sprintf("  result %+q", k.ResultRaw)
	case k.Arguments != nil:
		return "  arguments " + visible.Text(string(k.Arguments))
	case k.ArgumentsRaw != nil:
		return fmt.Sprintf("  arguments %+q", k.ArgumentsRaw)
	}
	return "  arguments: " + visible.Text(k.Value)
}

func valuesCommand() command {
	fs := flag.NewFlagSet("values", flag.ContinueOnError)
	var read reading
	read.register(fs)
	asJSON := fs.Bool("json", false, "print the report as JSON")
	return command{flags: fs, run: func(ctx context.Context, dir string, out io.Writer) error {
		var kek audit.KEK
		if read.kek != "" {
			var err error
			if kek, err = audit.LoadKEK(read.kek); err != nil {
				return err
			}
		}
		v, err := audit.OpenValues(ctx, os.DirFS(valuesOf(dir, read.dir)), kek)
		if err != nil {
			return err
		}
		rep, err := v.Check(ctx, audit.Scan(ctx, folderOf(ctx, dir), audit.Filter{}))
		if err != nil {
			return err
		}
		if *asJSON {
			return writeIndented(out, rep)
		}
		word := "readable"
		if kek == nil {
			word = "there"
		}
		fmt.Fprintf(out, "kept:     the arguments of %d records: %d %s, %d erased, %d pruned\n", rep.Kept, rep.Readable, word, rep.Erased, rep.Pruned)
		for _, l := range []struct {
			word string
			seqs []uint64
		}{
			{"missing: %d are gone, and no erasure is on record: records %s\n", rep.Missing},
			{"damaged: %d are not what was sealed for the record: records %s\n", rep.Damaged},
			{"unopened: %d are under another key-encryption key: records %s\n", rep.Unopened},
		} {
			if len(l.seqs) > 0 {
				fmt.Fprintf(out, l.word, len(l.seqs), numbers(l.seqs))
			}
		}
		return nil
	}}
}

func discloseCommand() command {
	fs := flag.NewFlagSet("disclose", flag.ContinueOnError)
	var read reading
	read.register(fs)
	seq := fs.Uint64("record", 0, "the number of the record")
	field := fs.String("field", "", "only this member of its arguments")
	return command{flags: fs, run: func(ctx context.Context, dir string, out io.Writer) error {
		if *seq == 0 || read.kek == "" {
			return fmt.Errorf("%w: -record or -kek is missing", errUsage)
		}
		v, err := read.open(ctx, dir)
		if err != nil {
			return err
		}
		p, err := audit.Prove(ctx, folderOf(ctx, dir), *seq)
		if err != nil {
			return err
		}
		var r audit.Record
		if err := json.Unmarshal(p.Record, &r); err != nil {
			return err
		}
		d, err := v.Reveal(ctx, r)
		if err != nil {
			return err
		}
		if *field != "" {
			if d, err = d.Only(*field); err != nil {
				return err
			}
		}
		if err := audit.VerifyDisclosure(d, p.Record); err != nil {
			return err
		}
		return writeJSON(out, d)
	}}
}

// readDisclosure reads a disclosure that a record commits to.
func readDisclosure(name string, record []byte) (audit.Disclosure, error) {
	text, err := readUpTo(name, 4<<20)
	if err != nil {
		return audit.Disclosure{}, err
	}
	d, err := audit.ParseDisclosure([]byte(text))
	if err != nil {
		return d, err
	}
	return d, audit.VerifyDisclosure(d, record)
}

// printDisclosure checks what was disclosed against a record that was proven.
func printDisclosure(out io.Writer, name string, record []byte) error {
	d, err := readDisclosure(name, record)
	if err != nil {
		return err
	}
	var r audit.Record
	if err := json.Unmarshal(record, &r); err != nil {
		return err
	}
	kept, was := "arguments", "were"
	if r.Outcome != nil {
		kept, was = "result", "was"
	}
	what := "its " + kept + " " + was
	if len(d.Fields) > 0 {
		what = fmt.Sprintf("the field %q of its %s was", visible.Text(d.Field), kept)
	}
	value := visible.Text(string(d.Value))
	if !json.Valid(d.Value) {
		value = fmt.Sprintf("%+q", d.Value)
	}
	_, err = fmt.Fprintf(out, "proven: %s\n%s\n", what, value)
	return err
}
