package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/export"
	"github.com/twinward-dev/twinward/audit/otlp"
)

// formatOTLP is that of package otlp.
const formatOTLP export.Format = "otlp"

func exportCommand() command {
	fs := flag.NewFlagSet("export", flag.ContinueOnError)
	var sel selection
	sel.register(fs)
	var t trust
	t.register(fs)
	format := fs.String("format", "", "ndjson, csv, ocsf, ocsf-1.9, cloudevents or otlp")
	origin := fs.String("origin", "", "the log's name in the export")
	subject := fs.String("subject", "", "everything about agent=NAME or user=NAME")
	var kept reading
	kept.register(fs)
	name := fs.String("o", "", "the file to write, instead of the standard output")
	var far progress
	far.register(fs)
	return command{flags: fs, run: func(ctx context.Context, dir string, out io.Writer) error {
		if err := sel.check(); err != nil {
			return err
		}
		f := export.Format(*format)
		opts := export.Options{Origin: *origin}
		if *format == "ocsf-1.9" {
			f, opts.OCSFVersion = export.OCSF, export.OCSF19
		}
		who, err := exportOf(*subject, *format, sel, kept)
		if err != nil {
			return err
		}
		if *format == "" && *subject == "" {
			return fmt.Errorf("%w: -format is missing", errUsage)
		}
		if err := export.Write(io.Discard, cmp.Or(f, export.NDJSON), nothing, &opts); f != formatOTLP && errors.Is(err, export.ErrFormat) {
			return fmt.Errorf("%w: -format: %w", errUsage, err)
		}
		read := scan(audit.Scan)
		if t.key != "" {
			vopts, err := t.options(dir)
			if err != nil {
				return err
			}
			vopts.Progress = far.verifying()
			rep, err := audit.Verify(ctx, folderOf(ctx, dir), vopts)
			if err != nil {
				return err // nothing is exported from a log that cannot be trusted
			}
			opts.Origin = cmp.Or(opts.Origin, rep.Origin)
			read = rep.Scan // what was verified, whatever becomes of the folder
		} else if t.given() {
			return fmt.Errorf("%w: an anchor needs -key", errUsage)
		}
		values, err := kept.open(ctx, dir)
		if err != nil {
			return err
		}
		return writeTo(*name, out, func(w io.Writer) error {
			records := far.reading(sel.records(ctx, folderOf(ctx, dir), read))
			if *subject != "" {
				return writeSubject(ctx, w, who, values, records)
			}
			if f == formatOTLP {
				return otlp.Write(w, records, &otlp.Options{Origin: cmp.Or(opts.Origin, "audit")})
			}
			return export.Write(w, f, records, &opts)
		})
	}}
}

// exportOf checks that the flags about a subject go together with the others.
func exportOf(subject, format string, sel selection, read reading) (audit.Subject, error) {
	switch {
	case subject == "" && (read.kek != "" || read.dir != ""):
		return audit.Subject{}, fmt.Errorf("%w: -kek and -values are for -subject", errUsage)
	case subject == "":
		return audit.Subject{}, nil
	case format != "" && format != string(export.NDJSON):
		return audit.Subject{}, fmt.Errorf("%w: -subject is written as ndjson", errUsage)
	case sel.Agent != "":
		return audit.Subject{}, fmt.Errorf("%w: -subject and -agent exclude each other", errUsage)
	}
	return parseWho(subject)
}

// nothing are no records.
func nothing(func(audit.Record, error) bool) {}
