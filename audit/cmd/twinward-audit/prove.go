package main

import (
	"context"
	"flag"
	"fmt"
	"io"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/internal/visible"
)

func proveCommand() command {
	fs := flag.NewFlagSet("prove", flag.ContinueOnError)
	seq := fs.Uint64("record", 0, "the number of the record")
	return command{flags: fs, run: func(ctx context.Context, dir string, out io.Writer) error {
		if *seq == 0 {
			return fmt.Errorf("%w: -record is missing", errUsage)
		}
		p, err := audit.Prove(ctx, folderOf(ctx, dir), *seq)
		if err != nil {
			return err
		}
		_, err = out.Write(p.Text())
		return err
	}}
}

func checkCommand() command {
	fs := flag.NewFlagSet("check", flag.ContinueOnError)
	var key string
	registerKey(fs, &key)
	disclosure := fs.String("disclosure", "", "a file that discloses arguments of the record")
	return command{flags: fs, run: func(_ context.Context, name string, out io.Writer) error {
		vkey, err := readKey(key)
		if err != nil {
			return err
		}
		text, err := readSmall(name)
		if err != nil {
			return err
		}
		p, err := audit.VerifyProof([]byte(text), nil, vkey)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "proven: record %d is in the log %s, which had %d records\n%s\n",
			p.Seq, visible.Text(p.Checkpoint.Origin), p.Checkpoint.Size, visible.Text(string(p.Record)))
		if err != nil || *disclosure == "" {
			return err
		}
		return printDisclosure(out, *disclosure, p.Record)
	}}
}
