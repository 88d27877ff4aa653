package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/governance/policytest"
)

// checked is what check prints as JSON.
type checked struct {
	OK        bool                 `json:"ok"`
	Hash      string               `json:"hash,omitempty"`
	Policies  int                  `json:"policies"`
	Generated int                  `json:"generated"`
	Tools     int                  `json:"tools"`
	Cases     int                  `json:"cases"`
	Findings  []governance.Finding `json:"findings"`
	Failures  []string             `json:"failures,omitempty"`
	Error     string               `json:"error,omitempty"`
}

func checkCommand() command {
	fs := flags("check")
	asJSON := fs.Bool("json", false, "print JSON")
	strict := fs.Bool("warnings", false, "let warnings block too")
	return command{fs, 1, -1, func(ctx context.Context, args []string, _ io.Reader, out io.Writer) error {
		var c checked
		opts := &governance.Options{}
		if *strict {
			opts.WarningsBlock = []string{"*"}
		}
		if strings.HasSuffix(args[0], ".cedar") {
			if err := c.files(args); err != nil {
				return err
			}
		} else if len(args) == 1 {
			c.folder(ctx, args[0], opts)
		} else {
			return fmt.Errorf("%w: give one folder, or .cedar files", errUsage)
		}
		if *asJSON {
			if c.Findings == nil {
				c.Findings = []governance.Finding{}
			}
			if err := printJSON(out, c); err != nil {
				return err
			}
			return foundIf(!c.OK)
		}
		for _, f := range c.Findings {
			fmt.Fprintln(out, f)
		}
		for _, f := range c.Failures {
			fmt.Fprintf(out, "%s\n", f)
		}
		if c.Error != "" {
			fmt.Fprintln(out, c.Error)
		}
		if c.OK {
			fmt.Fprintf(out, "ok: %d policies, %d generated from profiles, %d tools, %d cases pass\n", c.Policies, c.Generated, c.Tools, c.Cases)
		}
		return foundIf(!c.OK)
	}}
}

// folder checks a bundle as a whole.
func (c *checked) folder(ctx context.Context, dir string, opts *governance.Options) {
	b, err := governance.LoadBundle(os.DirFS(dir))
	if err != nil {
		c.Error = err.Error()
		return
	}
	s, rep, err := governance.Compile(ctx, b, opts)
	c.Findings, c.Hash, c.Policies, c.Generated, c.Tools = rep.Findings, rep.Hash, rep.Policies, rep.Generated, rep.Tools
	if err != nil {
		if len(c.Findings) == 0 || !errors.Is(err, governance.ErrBundle) {
			c.Error = err.Error()
		}
		return
	}
	cases, err := policytest.Cases(b)
	if err != nil {
		c.Error = err.Error()
		return
	}
	r := policytest.Check(ctx, s, cases)
	c.Cases = r.Cases
	for _, f := range r.Failures {
		c.Failures = append(c.Failures, f.String())
	}
	c.OK = len(c.Failures) == 0
}

// files checks policies by themselves: without a catalogue nothing is known of
// the tools that they name.
func (c *checked) files(names []string) error {
	var sources []governance.Source
	for _, name := range names {
		if filepath.Ext(name) != ".cedar" {
			return fmt.Errorf("%w: %s is no .cedar file", errUsage, name)
		}
		text, err := readAll(name, nil)
		if err != nil {
			return err
		}
		sources = append(sources, governance.Source{Name: name, Text: string(text)})
	}
	c.Policies, c.Findings = governance.CheckSyntax(sources)
	c.OK = true
	for _, f := range c.Findings {
		c.OK = c.OK && f.Severity != governance.SeverityError
	}
	return nil
}
