package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/report"
)

func reportCommand() command {
	fs := flag.NewFlagSet("report", flag.ContinueOnError)
	var keys files
	var compare anchors
	fs.Var(&keys, "key", "a log's verifier key, or a file that holds it (one for each log)")
	compare.register(fs)
	var opts report.Options
	var from, to moment
	fs.StringVar(&opts.Title, "title", "", "the headline")
	fs.StringVar(&opts.Agent, "agent", "", "only this agent")
	fs.Var(&from, "from", "acts from this time on")
	fs.Var(&to, "to", "acts before this time")
	fs.IntVar(&opts.MaxRows, "rows", 0, "single records in each table, at most (1000)")
	phrases := fs.String("phrases", "", "a JSON file that names operations")
	asJSON := fs.Bool("json", false, "write the answers as JSON")
	catalogue := fs.String("catalogue", "", "a folder of catalogue files, whose titles name operations")
	name := fs.String("o", "", "the file to write")
	var far progress
	far.register(fs)
	return command{flags: fs, many: func(ctx context.Context, dirs []string, out io.Writer) error {
		if *name == "" && !*asJSON {
			return fmt.Errorf("%w: -o is missing", errUsage)
		}
		opts.From, opts.To = from.Time, to.Time
		if *catalogue != "" {
			if err := readCatalogue(*catalogue, &opts); err != nil {
				return err
			}
		}
		if *phrases != "" {
			if err := readPhrases(*phrases, &opts); err != nil {
				return err
			}
		}
		trusted, err := trustOf(keys, &compare, dirs)
		if err != nil {
			return err
		}
		var logs []report.Log
		for _, dir := range dirs {
			l, err := verified(ctx, dir, trusted, far.verifying())
			if err != nil {
				return err // no page about a log that cannot be trusted
			}
			l.Records = far.reading(l.Records)
			logs = append(logs, l)
		}
		s, err := report.SummariseLogs(logs, &opts)
		if err != nil {
			return err
		}
		write := s.HTML
		if *asJSON {
			write = func(w io.Writer) error { return writeIndented(w, s) }
		}
		return writeTo(*name, out, write)
	}}
}

// writeTo writes to a file that only its owner may read, or without a name to
// out. The file is there when all of it is, and else as it was before.
func writeTo(name string, out io.Writer, write func(io.Writer) error) error {
	if name == "" {
		return write(out)
	}
	if st, err := os.Stat(name); err == nil && !st.Mode().IsRegular() { // a pipe, say
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	if err = errors.Join(write(f), f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

func readPhrases(name string, opts *report.Options) error {
	text, err := readSmall(name)
	if err != nil {
		return fmt.Errorf("%w: -phrases: %w", errUsage, err)
	}
	dec := json.NewDecoder(bytes.NewReader([]byte(text)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&opts.Phrases); err != nil {
		return fmt.Errorf("%w: -phrases %s: %w", errUsage, name, err)
	}
	return nil
}

// readCatalogue names operations by the titles of tools in the JSON files of a
// folder, such as the catalogue of a bundle.
func readCatalogue(dir string, opts *report.Options) error {
	names, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(names) == 0 {
		return fmt.Errorf("%w: -catalogue: there is no JSON file in %s", errUsage, dir)
	}
	opts.Phrases = map[string]report.Phrase{}
	for _, name := range names {
		text, err := readUpTo(name, 64<<20)
		if err != nil {
			return fmt.Errorf("%w: -catalogue: %w", errUsage, err)
		}
		var c struct {
			Server string `json:"server"`
			Tools  []struct{ Name, Title string }
		}
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			return fmt.Errorf("%w: -catalogue %s: %w", errUsage, name, err)
		}
		for _, tool := range c.Tools {
			if tool.Title != "" {
				opts.Phrases[c.Server+"__"+tool.Name] = report.Phrase{One: tool.Title}
			}
		}
	}
	return nil
}

// trustOf sorts keys and anchors by the logs that they name.
func trustOf(keys files, compare *anchors, dirs []string) ([]*audit.VerifyOptions, error) {
	if len(keys) != len(dirs) {
		return nil, fmt.Errorf("%w: -key: want one for each log, %d are given for %d", errUsage, len(keys), len(dirs))
	}
	var all []*audit.VerifyOptions
	byName := map[string]*audit.VerifyOptions{}
	for _, k := range keys {
		key, err := readKey(k)
		if err != nil {
			return nil, err
		}
		opts := &audit.VerifyOptions{Key: key, Witnesses: compare.witnesses, Quorum: compare.quorum}
		origin, _, _ := strings.Cut(opts.Key, "+")
		if byName[origin] != nil {
			return nil, fmt.Errorf("%w: -key: two keys are of the log %q", errUsage, origin)
		}
		byName[origin] = opts
		all = append(all, opts)
	}
	given, err := compare.read(dirs...)
	if err != nil {
		return nil, err
	}
	for _, a := range given {
		origin, _, _ := strings.Cut(a.text, "\n")
		opts := byName[origin]
		switch {
		case opts != nil:
		case len(dirs) == 1:
			opts = all[0] // verifying says that it is of another log
		default:
			return nil, fmt.Errorf("%w: the anchor %s is of the log %q, and there is no -key of it", errUsage, a.name, origin)
		}
		a.addTo(opts)
	}
	return all, nil
}

// verified verifies the log in a folder with the key that is its own.
func verified(ctx context.Context, dir string, trusted []*audit.VerifyOptions, progress func(uint64)) (report.Log, error) {
	var failure error
	for _, opts := range trusted {
		opts.Progress = progress
		rep, err := audit.Verify(ctx, folderOf(ctx, dir), opts)
		if err == nil {
			return report.Log{Origin: rep.Origin, Records: rep.Scan(ctx, folderOf(ctx, dir), audit.Filter{}), Verified: &rep}, nil
		}
		// The error that came furthest is about the right key.
		if failure == nil || rep.Checkpoints > 0 {
			failure = err
		}
	}
	return report.Log{}, fmt.Errorf("%s: %w", dir, failure)
}
