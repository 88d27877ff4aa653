// Package export writes the records of a log for other people's systems.
//
// All formats are written as records are read: memory is the calls that are
// still open. What agents and tools put into the log stays data in each format:
// a cell of a spreadsheet is never a formula, a line never drives a terminal.
//
//	[NDJSON]       the records themselves, one JSON object a line, as a log stores them
//	[CSV]          one row for each act or event, for spreadsheets (RFC 4180, UTF-8)
//	[OCSF]         one event a line for each act or event, of OCSF's class API Activity (6003)
//	[CloudEvents]  one event a line for each record, in the JSON format of CloudEvents 1.0
//
// NDJSON and CloudEvents have an entry for each record. CSV and OCSF have one
// for each act: a call's intent and its outcome are one entry, written when the
// outcome is read; calls without an outcome come at the end and say so.
//
// An export proves nothing: it is a copy. OCSF entries carry the fingerprints
// that lead back to the log, see [OCSF].
package export

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/internal/visible"
)

// A Format is how records are written.
type Format string

const (
	NDJSON      Format = "ndjson"
	CSV         Format = "csv"
	OCSF        Format = "ocsf"
	CloudEvents Format = "cloudevents"
)

// Formats are all formats.
func Formats() []Format { return []Format{NDJSON, CSV, OCSF, CloudEvents} }

// ErrFormat is returned for a format or a version of one that is not known.
var ErrFormat = errors.New("export: not a known format")

// Options say how to write. The zero value and nil are safe.
type Options struct {
	// Origin is the name of the log that the records are of. OCSF and CloudEvents
	// put it next to a record's number, so that the two name one record of one
	// log. Empty means "audit".
	Origin string
	// OCSFVersion is the version of the OCSF schema, one of the constants. Empty
	// means [OCSF18].
	OCSFVersion string
}

// Write writes the records of one log to w, in order, as from [audit.Scan].
func Write(w io.Writer, f Format, records iter.Seq2[audit.Record, error], opts *Options) error {
	var o Options
	if opts != nil {
		o = *opts
	}
	o.Origin = cmp.Or(o.Origin, "audit")
	o.OCSFVersion = cmp.Or(o.OCSFVersion, OCSF18)
	if f == OCSF && o.OCSFVersion != OCSF18 && o.OCSFVersion != OCSF19 {
		return fmt.Errorf("%w: version %q of OCSF: want %s or %s", ErrFormat, o.OCSFVersion, OCSF18, OCSF19)
	}
	bw := bufio.NewWriterSize(w, 64<<10)
	var err error
	switch f {
	case NDJSON:
		err = writeRecords(bw, records)
	case CSV:
		err = writeCSV(bw, records, o)
	case OCSF:
		err = writeOCSF(bw, records, o)
	case CloudEvents:
		err = writeCloudEvents(bw, records, o)
	default:
		return fmt.Errorf("%w: %q: want one of %v", ErrFormat, f, Formats())
	}
	if ferr := bw.Flush(); err == nil {
		err = ferr // what was written before an error is whole
	}
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

func writeRecords(w io.Writer, records iter.Seq2[audit.Record, error]) error {
	for r, err := range records {
		if err != nil {
			return err
		}
		line, err := r.Line()
		if err != nil {
			return err
		}
		if _, err := w.Write(append(visible.JSON(line), '\n')); err != nil {
			return err
		}
	}
	return nil
}

// writeLine writes v as one line of JSON that cannot drive a terminal.
func writeLine(w io.Writer, v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil { // ends with a newline
		return err
	}
	line := visible.JSON(b.Bytes()[:b.Len()-1])
	_, err := w.Write(append(line, '\n'))
	return err
}

// An act is an event, or a call: an intent and, unless it is open, its outcome.
type act struct {
	audit.Record
	outcome *audit.Record
}

// acts pairs outcomes with their intents. Outcomes whose intents are not among
// the records are left out: the filter that the records come from did not
// select them.
func acts(records iter.Seq2[audit.Record, error]) iter.Seq2[act, error] {
	return func(yield func(act, error) bool) {
		open := map[uint64]audit.Record{}
		for r, err := range records {
			switch {
			case err != nil:
				yield(act{}, err)
				return
			case r.Intent != nil:
				open[r.Seq] = r
			case r.Event != nil:
				if !yield(act{Record: r}, nil) {
					return
				}
			default:
				in, ok := open[r.Call]
				delete(open, r.Call)
				if ok && !yield(act{in, &r}, nil) {
					return
				}
			}
		}
		for _, seq := range slices.Sorted(maps.Keys(open)) {
			if !yield(act{Record: open[seq]}, nil) {
				return
			}
		}
	}
}

// status says how an act ended: that of its outcome, "open" without one,
// "denied", or "" for other events.
func (a act) status() string {
	switch {
	case a.outcome != nil:
		return string(a.outcome.Outcome.Status)
	case a.Intent != nil:
		return "open"
	case a.Event.Kind == audit.KindDenial:
		return "denied"
	}
	return ""
}
