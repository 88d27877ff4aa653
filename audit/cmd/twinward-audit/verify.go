package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/internal/visible"
)

// trust is what a verification starts from.
type trust struct {
	key string
	anchors
}

func (t *trust) register(fs *flag.FlagSet) {
	registerKey(fs, &t.key)
	t.anchors.register(fs)
}

func registerKey(fs *flag.FlagSet, key *string) {
	fs.StringVar(key, "key", "", "the log's verifier key, or a file that holds it")
}

// options reads the files, to verify the log in dir.
func (t *trust) options(dir string) (*audit.VerifyOptions, error) {
	key, err := readKey(t.key)
	if err != nil {
		return nil, err
	}
	opts := &audit.VerifyOptions{Key: key, Witnesses: t.witnesses, Quorum: t.quorum}
	given, err := t.read(dir)
	for _, a := range given {
		a.addTo(opts)
	}
	return opts, err
}

// readKey returns a verifier key, from a file if it is the name of one.
func readKey(key string) (string, error) {
	if key == "" {
		return "", fmt.Errorf("%w: -key is missing", errUsage)
	}
	if strings.Contains(key, "+") {
		return key, nil
	}
	text, err := readSmall(key)
	if err != nil {
		return "", fmt.Errorf("%w: -key is neither a verifier key nor a file: %w", errUsage, err)
	}
	return strings.TrimSpace(text), nil
}

// readSmall reads a file of at most 1 MiB.
func readSmall(name string) (string, error) { return readUpTo(name, 1<<20) }

// readUpTo reads a file, which is not read in part if it is larger.
func readUpTo(name string, limit int64) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		return "", fmt.Errorf("%s is larger than %d bytes", name, limit)
	}
	return string(b), err
}

func verifyCommand() command {
	fs := flag.NewFlagSet("verify", flag.ContinueOnError)
	var t trust
	t.register(fs)
	var far progress
	far.register(fs)
	asJSON := fs.Bool("json", false, "print the report as JSON")
	return command{flags: fs, run: func(ctx context.Context, dir string, out io.Writer) error {
		opts, err := t.options(dir)
		if err != nil {
			return err
		}
		opts.Progress = far.verifying()
		rep, err := audit.Verify(ctx, folderOf(ctx, dir), opts)
		if *asJSON {
			return printVerdict(out, rep, err)
		}
		if err != nil {
			return err
		}
		printReport(out, rep)
		return nil
	}}
}

// printVerdict prints the report with the verdict as JSON, and returns the verdict.
func printVerdict(out io.Writer, rep audit.VerifyReport, verdict error) error {
	v := struct {
		Verified bool   `json:"verified"`
		Error    string `json:"error,omitempty"`
		audit.VerifyReport
	}{verdict == nil, "", rep}
	if verdict != nil {
		v.Error = verdict.Error()
	}
	if err := writeIndented(out, v); err != nil {
		return err
	}
	return verdict
}

func printReport(out io.Writer, rep audit.VerifyReport) {
	fmt.Fprintf(out, "verified: %s\n", visible.Text(rep.Origin))
	fmt.Fprintf(out, "records:  %d (%d signed, %d anchored), %d checkpoints\n", rep.Records, rep.Signed, rep.Anchored, rep.Checkpoints)
	fmt.Fprintf(out, "root:     %s (size %d)\n", rep.Root, rep.Signed)
	if p := rep.Pruned; p != nil {
		fmt.Fprintf(out, "pruned:   records 1 to %d, but for %d, on %s by %s: record %d\n", p.Records, p.Kept, p.Time.Format(time.RFC3339), visible.Text(p.Change.By), p.Record)
	}
	for _, c := range rep.Cosignatures {
		fmt.Fprintf(out, "witness:  %s signed records 1 to %d on %s\n", visible.Text(c.Witness), c.Records, c.Time.Format(time.RFC3339))
	}
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
