package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/internal/visible"
)

func showCommand() command {
	fs := flag.NewFlagSet("show", flag.ContinueOnError)
	var sel selection
	sel.register(fs)
	asJSON := fs.Bool("json", false, "print records as JSON, one a line")
	var read reading
	read.register(fs)
	return command{flags: fs, run: func(ctx context.Context, dir string, out io.Writer) error {
		if err := sel.check(); err != nil {
			return err
		}
		values, err := read.open(ctx, dir)
		if err != nil {
			return err
		}
		w := bufio.NewWriter(out)
		records := sel.records(ctx, folderOf(ctx, dir), audit.Scan)
		if values == nil {
			return errors.Join(printRecords(w, records, *asJSON), w.Flush())
		}
		for r, err := range records {
			if err == nil {
				err = printKnown(ctx, w, values, r, *asJSON)
			}
			if err != nil {
				return errors.Join(err, w.Flush())
			}
		}
		return w.Flush()
	}}
}

func printRecords(w io.Writer, records iter.Seq2[audit.Record, error], asJSON bool) error {
	for r, err := range records {
		if err != nil {
			return err
		}
		if err := printRecord(w, r, asJSON); err != nil {
			return err
		}
	}
	return nil
}

// printRecord prints a record on one line: as the log stores it, or for people.
func printRecord(w io.Writer, r audit.Record, asJSON bool) error {
	text := ""
	if asJSON {
		stored, err := r.Line()
		if err != nil {
			return err
		}
		text = string(visible.JSON(stored))
	} else {
		text = line(r)
	}
	_, err := fmt.Fprintln(w, text)
	return err
}

// line is a record for people. Whatever agents put there cannot drive the
// terminal.
func line(r audit.Record) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%6d  %s  ", r.Seq, r.Time.UTC().Format("2006-01-02 15:04:05.000"))
	switch {
	case r.Intent != nil:
		fmt.Fprintf(&b, "%-15s  %-16s %s %s", "allow", r.Intent.Actor.Agent, r.Intent.Action, r.Intent.Resource)
		if ids := r.Intent.Decision.PolicyIDs(); len(ids) > 0 {
			fmt.Fprintf(&b, "  [%s]", strings.Join(ids, ", "))
		}
		if a := r.Intent.Decision.Approval; a != nil {
			fmt.Fprintf(&b, "  approved by %s", a.By)
		}
		would(&b, &r.Intent.Decision)
		if c := r.Intent.Credential; c != nil {
			fmt.Fprintf(&b, "  credential %s", c.Name)
		}
	case r.Outcome != nil:
		fmt.Fprintf(&b, "%-15s  of record %d, %d bytes, %s", r.Outcome.Status, r.Call, r.Outcome.Bytes, r.Outcome.Latency)
		if r.Outcome.ErrorCode != "" {
			fmt.Fprintf(&b, "  %s", r.Outcome.ErrorCode)
		}
	case r.Event != nil:
		word := string(r.Event.Kind)
		if r.Event.Kind == audit.KindDenial {
			word = "deny"
		}
		fmt.Fprintf(&b, "%-15s  %-16s %s %s", word, r.Event.Actor.Agent, r.Event.Action, r.Event.Resource)
		if d := r.Event.Decision; d != nil && d.Reason != "" {
			fmt.Fprintf(&b, "  because %s", d.Reason)
		}
		would(&b, r.Event.Decision)
		if c := r.Event.Change; c != nil {
			fmt.Fprintf(&b, "  by %s: %s", c.By, c.Reason)
		}
		for _, k := range slices.Sorted(maps.Keys(r.Event.Detail)) {
			fmt.Fprintf(&b, "  %s=%s", k, r.Event.Detail[k])
		}
	}
	return visible.Text(b.String())
}

// would writes what was decided beside and not applied.
func would(b *strings.Builder, d *audit.Decision) {
	if d == nil {
		return
	}
	for _, w := range d.Would {
		fmt.Fprintf(b, "  (would %s)", w)
	}
}
