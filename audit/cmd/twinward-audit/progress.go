package main

import (
	"flag"
	"fmt"
	"iter"

	"github.com/twinward-dev/twinward/audit"
)

// A progress tells on the standard error how far long work is, if it is asked to.
type progress struct {
	flags *flag.FlagSet
	on    bool
}

func (p *progress) register(fs *flag.FlagSet) {
	p.flags = fs
	fs.BoolVar(&p.on, "progress", false, "tell on the standard error how far it is")
}

// every is how many records are read from one word to the next.
const every = 100_000

func (p *progress) say(done string, n uint64) {
	fmt.Fprintf(p.flags.Output(), "%s %d records\n", done, n)
}

// verifying is for [audit.VerifyOptions].
func (p *progress) verifying() func(uint64) {
	if !p.on {
		return nil
	}
	return func(n uint64) { p.say("verified", n) }
}

// reading tells how many records were read.
func (p *progress) reading(records iter.Seq2[audit.Record, error]) iter.Seq2[audit.Record, error] {
	if !p.on {
		return records
	}
	return func(yield func(audit.Record, error) bool) {
		var n uint64
		for r, err := range records {
			if n++; n%every == 0 {
				p.say("read", n)
			}
			if !yield(r, err) {
				return
			}
		}
	}
}
