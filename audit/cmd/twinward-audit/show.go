package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/internal/visible"
)

func showCommand() command {
	fs := flag.NewFlagSet("show", flag.ContinueOnError)
	var f audit.Filter
	fs.StringVar(&f.Agent, "agent", "", "only this agent")
	fs.StringVar(&f.Door, "door", "", "only this door: tool, compute, model or admin")
	denied := fs.Bool("denied", false, "only what was denied")
	asJSON := fs.Bool("json", false, "print records as JSON, one a line")
	return command{fs, func(ctx context.Context, dir string, out io.Writer) error {
		if doors := []string{"", audit.DoorTool, audit.DoorCompute, audit.DoorModel, audit.DoorAdmin}; !slices.Contains(doors, f.Door) {
			return fmt.Errorf("%w: -door is one of %s", errUsage, strings.Join(doors[1:], ", "))
		}
		if *denied {
			f.Effect = audit.Deny
		}
		w := bufio.NewWriter(out)
		enc := json.NewEncoder(w)
		for r, err := range audit.Scan(ctx, os.DirFS(dir), f) {
			if err != nil {
				w.Flush()
				return err
			}
			if *asJSON {
				err = enc.Encode(r)
			} else {
				_, err = fmt.Fprintln(w, line(r))
			}
			if err != nil {
				return err
			}
		}
		return w.Flush()
	}}
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
