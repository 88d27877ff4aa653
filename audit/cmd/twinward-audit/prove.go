package main

import (
	"bytes"
	"context"
	"encoding/json"
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
	asJSON := fs.Bool("json", false, "print what is proven as JSON")
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
		if *asJSON {
			return printProven(out, p, *disclosure)
		}
		_, err = fmt.Fprintf(out, "proven: record %d is in the log %s, which had %d records\n%s\n",
			p.Seq, visible.Text(p.Checkpoint.Origin), p.Checkpoint.Size, visible.Text(string(p.Record)))
		if err != nil || *disclosure == "" {
			return err
		}
		return printDisclosure(out, *disclosure, p.Record)
	}}
}

// A proven record is what a proof shows, as JSON.
type proven struct {
	Log     string          `json:"log"`
	Records uint64          `json:"records"` // that the log had then
	Seq     uint64          `json:"seq"`
	Record  json.RawMessage `json:"record"`
	// Disclosed are the arguments, or one field of them, if they came with it.
	Disclosed *disclosed `json:"disclosed,omitempty"`
}

type disclosed struct {
	Field    string          `json:"field,omitempty"`
	Value    json.RawMessage `json:"value,omitempty"`
	ValueRaw []byte          `json:"value_raw,omitempty"` // if it is no JSON
}

func printProven(out io.Writer, p audit.Proof, disclosure string) error {
	v := proven{Log: p.Checkpoint.Origin, Records: p.Checkpoint.Size, Seq: p.Seq, Record: p.Record}
	if disclosure != "" {
		d, err := readDisclosure(disclosure, p.Record)
		if err != nil {
			return err
		}
		v.Disclosed = &disclosed{Field: d.Field}
		if json.Valid(d.Value) {
			v.Disclosed.Value = d.Value
		} else {
			v.Disclosed.ValueRaw = d.Value
		}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // the record's bytes stay what they are
	if err := enc.Encode(v); err != nil {
		return err // a log's record is JSON; another proof's may be none
	}
	_, err := out.Write(append(visible.JSON(bytes.TrimSuffix(b.Bytes(), []byte("\n"))), '\n'))
	return err
}
