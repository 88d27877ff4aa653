package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/twinward-dev/twinward/governance"
)

func promoteCommand() command {
	return command{flags("promote"), 2, -1, func(ctx context.Context, args []string, _ io.Reader, out io.Writer) error {
		dir, ids := args[0], args[1:]
		b, s, err := compile(ctx, dir)
		if err != nil {
			return err
		}
		known := map[string]governance.PolicyInfo{}
		for _, p := range s.Policies() {
			known[p.ID] = p
		}
		b.Policies = slices.Clone(b.Policies)
		touched := map[int]bool{}
		for _, id := range ids {
			p, ok := known[id]
			switch {
			case !ok:
				return fmt.Errorf("there is no policy %q", id)
			case !p.Observed:
				return fmt.Errorf("policy %q is in force already", id)
			}
			i := slices.IndexFunc(b.Policies, func(src governance.Source) bool { return strings.Contains(src.Text, p.Text) })
			if i < 0 {
				return fmt.Errorf("policy %q is in no file of the bundle", id)
			}
			text, err := enforced(p.Text)
			if err != nil {
				return fmt.Errorf("policy %q: %w", id, err)
			}
			b.Policies[i].Text = strings.Replace(b.Policies[i].Text, p.Text, text, 1)
			touched[i] = true
		}
		after, _, err := governance.Compile(ctx, b, nil)
		if err != nil {
			return fmt.Errorf("nothing was written: %w", err)
		}
		for _, p := range after.Policies() {
			if p.Observed && slices.Contains(ids, p.ID) {
				return fmt.Errorf("nothing was written: policy %q would still be observed only", p.ID)
			}
		}
		for i, src := range b.Policies {
			if touched[i] {
				if err := replaceFile(filepath.Join(dir, filepath.FromSlash(src.Name)), src.Text); err != nil {
					return err
				}
			}
		}
		for _, id := range ids {
			fmt.Fprintf(out, "%s is enforced now\n", id)
		}
		return nil
	}}
}

var observeAnnotation = regexp.MustCompile(`^@mode\s*\(\s*"observe"\s*\)(?:[ \t]*\r?\n[ \t]*|[ \t]+)?`)

// enforced takes @mode("observe") out of the text of a policy.
func enforced(text string) (string, error) {
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case strings.HasPrefix(text[i:], "//"):
			for i < len(text) && text[i] != '\n' {
				i++
			}
		case c == '"':
			for i++; i < len(text) && text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
		case c == '@':
			if m := observeAnnotation.FindString(text[i:]); m != "" {
				return text[:i] + text[i+len(m):], nil
			}
		}
	}
	return "", errors.New(`its text has no @mode("observe")`)
}

// replaceFile puts a file in the place of another in one step.
func replaceFile(name, text string) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".promote-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = io.WriteString(f, text)
	err = errors.Join(err, f.Chmod(info.Mode().Perm()), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
