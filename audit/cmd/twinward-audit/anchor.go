package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"path/filepath"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/twinward-dev/twinward/audit"
)

// anchors are the flags that say what to compare a log with.
type anchors struct {
	files, copies, witnesses files
	quorum                   int
}

func (a *anchors) register(fs *flag.FlagSet) {
	fs.Var(&a.files, "anchor", "a file with a checkpoint of the log, where the log's owner cannot change it (repeatable)")
	fs.Var(&a.copies, "anchor-copy", "a copy of such a file, which you brought from such a place (repeatable)")
	fs.Var(&a.witnesses, "witness", "the verifier key of a witness that must have cosigned an anchor (repeatable)")
	fs.IntVar(&a.quorum, "quorum", 0, "how many of the witnesses must have (0: all)")
}

// given reports whether there are any.
func (a *anchors) given() bool { return len(a.files)+len(a.copies)+len(a.witnesses) > 0 }

// An anchor is the text of a file.
type anchor struct {
	name, text string
	local      bool // the owner of a log can change it
}

func (a anchor) addTo(opts *audit.VerifyOptions) {
	if a.local {
		opts.LocalAnchors = append(opts.LocalAnchors, a.text)
	} else {
		opts.Anchors = append(opts.Anchors, a.text)
	}
}

// read reads the files, and looks at who could change them.
func (a *anchors) read(dirs ...string) ([]anchor, error) {
	var all []anchor
	for i, name := range append(a.files[:len(a.files):len(a.files)], a.copies...) {
		text, err := readSmall(name)
		if err != nil {
			return nil, fmt.Errorf("%w: an anchor: %w", errUsage, err)
		}
		local := false
		for _, dir := range dirs {
			local = local || i < len(a.files) && audit.CheckAnchorFile(name, homeOf(dir)) != nil
		}
		all = append(all, anchor{name, text, local})
	}
	return all, nil
}

func anchorCommand() command {
	fs := flag.NewFlagSet("anchor", flag.ContinueOnError)
	var key string
	registerKey(fs, &key)
	name := fs.String("o", "", "the file that keeps the newest checkpoint")
	var far progress
	far.register(fs)
	asJSON := fs.Bool("json", false, "print what is anchored as JSON")
	return command{flags: fs, run: func(ctx context.Context, dir string, out io.Writer) error {
		key, err := readKey(key)
		if err != nil {
			return err
		}
		if *name == "" {
			return fmt.Errorf("%w: -o is missing", errUsage)
		}
		opts := &audit.VerifyOptions{Key: key, Progress: far.verifying()}
		keep := audit.FileAnchor(*name)
		kept, err := keep.Latest(ctx)
		if err != nil {
			return err
		}
		if len(kept) > 0 {
			opts.Anchors = []string{string(kept)}
		}
		rep, err := audit.Verify(ctx, folderOf(ctx, dir), opts)
		if err != nil {
			return err // what is kept stays: it is the evidence
		}
		if !bytes.Equal(kept, rep.Newest.Text) {
			if err := keep.Publish(ctx, rep.Newest.Text); err != nil {
				return err
			}
		}
		counts := audit.CheckAnchorFile(*name, homeOf(dir))
		if *asJSON {
			return printAnchored(out, rep, filepath.Clean(*name), counts)
		}
		fmt.Fprintf(out, "anchored: records 1 to %d in %s\n", rep.Signed, filepath.Clean(*name))
		if counts != nil {
			fmt.Fprintf(out, "note:     it does not count here: %v\n", counts)
		}
		return nil
	}}
}

// printAnchored prints which checkpoint is kept, and whether it counts where it is.
func printAnchored(out io.Writer, rep audit.VerifyReport, name string, counts error) error {
	v := struct {
		Log      string    `json:"log"`
		Anchored uint64    `json:"anchored"`
		Root     tlog.Hash `json:"root"`
		File     string    `json:"file"`
		Counts   bool      `json:"counts"`
		Note     string    `json:"note,omitempty"` // why it does not
	}{rep.Origin, rep.Signed, rep.Root, name, counts == nil, ""}
	if counts != nil {
		v.Note = counts.Error()
	}
	return writeIndented(out, v)
}
