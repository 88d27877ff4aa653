package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// pollEvery is how often tail -f looks whether the log has grown. It reads the
// folder, not the host, so nobody tells it.
const pollEvery = 500 * time.Millisecond

func tailCommand() command {
	flags := flag.NewFlagSet("tail", flag.ContinueOnError)
	var sel selection
	sel.register(flags)
	n := flags.Int("n", 10, "how many records to begin with")
	follow := flags.Bool("f", false, "go on with records to come")
	asJSON := flags.Bool("json", false, "print records as JSON, one a line")
	return command{flags: flags, run: func(ctx context.Context, dir string, out io.Writer) error {
		if err := sel.check(); err != nil {
			return err
		}
		if *n < 0 || *n > 1_000_000 {
			return fmt.Errorf("%w: -n is from 0 to 1000000", errUsage)
		}
		before := stateOf(ctx, dir)
		last, err := printLast(ctx, sel, dir, *n, out, *asJSON)
		if err != nil || !*follow {
			return err
		}
		tick := time.NewTicker(pollEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil // interrupted, as it is meant to be
			case <-tick.C:
			}
			now := stateOf(ctx, dir)
			if now == before {
				continue
			}
			before = now
			// An outcome is selected with its call, so calls from before count.
			for r, err := range sel.records(ctx, folderOf(ctx, dir), audit.Scan) {
				if ctx.Err() != nil {
					return nil
				}
				if err != nil {
					return err
				}
				if r.Seq <= last {
					continue
				}
				last = r.Seq
				if err := printRecord(out, r, *asJSON); err != nil {
					return err
				}
			}
		}
	}}
}

// printLast prints the last n records, and returns the number of the last.
func printLast(ctx context.Context, sel selection, dir string, n int, out io.Writer, asJSON bool) (uint64, error) {
	var ring []audit.Record
	var last uint64
	seen := 0
	for r, err := range sel.records(ctx, folderOf(ctx, dir), audit.Scan) {
		if err != nil {
			return last, err
		}
		last = r.Seq
		if len(ring) < n {
			ring = append(ring, r)
		} else if n > 0 {
			ring[seen%n] = r
		}
		seen++
	}
	for i := range ring {
		at := i
		if seen > n {
			at = (seen + i) % n
		}
		if err := printRecord(out, ring[at], asJSON); err != nil {
			return last, err
		}
	}
	return last, nil
}

// A state tells whether a log has grown. A segment is allocated ahead, so that its
// size says little, and its time is not fine enough to tell two writes apart:
// what counts is where the zeros at the end of the last one begin.
type state struct {
	segment string
	end     int64
}

func stateOf(ctx context.Context, dir string) state {
	if inDatabase(dir) {
		list, err := fs.ReadDir(folderOf(ctx, dir), ".")
		if err != nil || len(list) == 0 {
			return state{}
		}
		last := list[len(list)-1]
		st, err := last.Info()
		if err != nil {
			return state{}
		}
		return state{last.Name(), st.Size()}
	}
	names, _ := filepath.Glob(filepath.Join(homeOf(dir), "*.jsonl"))
	if len(names) == 0 {
		return state{}
	}
	last := slices.Max(names)
	f, err := os.Open(last)
	if err != nil {
		return state{}
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return state{}
	}
	for buf := make([]byte, 64<<10); end > 0; {
		n := min(end, int64(len(buf)))
		if _, err := f.ReadAt(buf[:n], end-n); err != nil {
			return state{} // it was cut meanwhile
		}
		if kept := len(bytes.TrimRight(buf[:n], "\x00")); kept > 0 {
			return state{last, end - n + int64(kept)}
		}
		end -= n
	}
	return state{last, 0}
}
