package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"iter"
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
		folder := folderOf(ctx, dir)
		before := stateOf(dir, folder)
		last, err := printLast(out, sel.records(ctx, folder, audit.Scan), *n, *asJSON)
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
			now := stateOf(dir, folder)
			if now == before {
				continue
			}
			before = now
			// An outcome is selected with its call, so calls from before count.
			for r, err := range sel.records(ctx, folder, audit.Scan) {
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
func printLast(out io.Writer, records iter.Seq2[audit.Record, error], n int, asJSON bool) (uint64, error) {
	var ring []audit.Record
	var last uint64
	seen := 0
	for r, err := range records {
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

func stateOf(dir string, folder fs.FS) state {
	names := segmentsIn(folder)
	if len(names) == 0 {
		return state{}
	}
	last := names[len(names)-1]
	f, err := folder.Open(last)
	if err != nil {
		return state{}
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return state{}
	}
	end := st.Size()
	r, ok := f.(io.ReaderAt)
	if !ok || inDatabase(dir) { // where nothing is allocated
		return state{last, end}
	}
	for buf := make([]byte, 64<<10); end > 0; {
		n := min(end, int64(len(buf)))
		if _, err := r.ReadAt(buf[:n], end-n); err != nil {
			return state{} // it was cut meanwhile
		}
		if kept := len(bytes.TrimRight(buf[:n], "\x00")); kept > 0 {
			return state{last, end - n + int64(kept)}
		}
		end -= n
	}
	return state{last, 0}
}
