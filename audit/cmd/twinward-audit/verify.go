package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/internal/visible"
)

// trust is what a verification starts from.
type trust struct {
	key     string
	anchors files
}

func (t *trust) registerKey(fs *flag.FlagSet) {
	fs.StringVar(&t.key, "key", "", "the log's verifier key, or a file that holds it")
}

func (t *trust) register(fs *flag.FlagSet) {
	t.registerKey(fs)
	fs.Var(&t.anchors, "anchor", "a file with a checkpoint of the log, kept elsewhere (repeatable)")
}

// options reads the files.
func (t *trust) options() (*audit.VerifyOptions, error) {
	if t.key == "" {
		return nil, fmt.Errorf("%w: -key is missing", errUsage)
	}
	opts := &audit.VerifyOptions{Key: t.key}
	if !strings.Contains(t.key, "+") {
		text, err := readSmall(t.key)
		if err != nil {
			return nil, fmt.Errorf("%w: -key is neither a verifier key nor a file: %w", errUsage, err)
		}
		opts.Key = strings.TrimSpace(text)
	}
	for _, name := range t.anchors {
		text, err := readSmall(name)
		if err != nil {
			return nil, fmt.Errorf("%w: -anchor: %w", errUsage, err)
		}
		opts.Anchors = append(opts.Anchors, text)
	}
	return opts, nil
}

// readSmall reads a file of at most 1 MiB.
func readSmall(name string) (string, error) { return readUpTo(name, 1<<20) }

func readUpTo(name string, limit int64) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit))
	return string(b), err
}

func verifyCommand() command {
	fs := flag.NewFlagSet("verify", flag.ContinueOnError)
	var t trust
	t.register(fs)
	asJSON := fs.Bool("json", false, "print the report as JSON")
	return command{flags: fs, run: func(ctx context.Context, dir string, out io.Writer) error {
		opts, err := t.options()
		if err != nil {
			return err
		}
		rep, err := audit.Verify(ctx, os.DirFS(dir), opts)
		if *asJSON {
			return printJSON(out, rep, err)
		}
		if err != nil {
			return err
		}
		printReport(out, rep)
		return nil
	}}
}

// printJSON prints the report with the verdict, and returns the verdict.
func printJSON(out io.Writer, rep audit.VerifyReport, verdict error) error {
	v := struct {
		Verified bool   `json:"verified"`
		Error    string `json:"error,omitempty"`
		audit.VerifyReport
	}{verdict == nil, "", rep}
	if verdict != nil {
		v.Error = verdict.Error()
	}
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return err
	}
	return verdict
}

func printReport(out io.Writer, rep audit.VerifyReport) {
	fmt.Fprintf(out, "verified: %s\n", visible.Text(rep.Origin))
	fmt.Fprintf(out, "records:  %d (%d signed, %d anchored), %d checkpoints\n", rep.Records, rep.Signed, rep.Anchored, rep.Checkpoints)
	fmt.Fprintf(out, "root:     %s (size %d)\n", rep.Root, rep.Signed)
	if n := len(rep.Open); n > 0 {
		fmt.Fprintf(out, "open:     %d calls have no outcome: records %s\n", n, numbers(rep.Open))
	}
	for _, c := range rep.Caveats {
		fmt.Fprintf(out, "note:     %s\n", visible.Text(c))
	}
}

// numbers lists the first few of ns.
func numbers(ns []uint64) string {
	const most = 20
	s := strings.Trim(fmt.Sprint(ns[:min(len(ns), most)]), "[]")
	if len(ns) > most {
		s += " …"
	}
	return s
}
