package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/twinward-dev/twinward/governance"
)

func signCommand() command {
	fs := flags("sign")
	key := fs.String("key", "", "a file with the person's signer key")
	return command{fs, 1, 1, func(ctx context.Context, args []string, _ io.Reader, out io.Writer) error {
		if *key == "" {
			return fmt.Errorf("%w: -key is missing", errUsage)
		}
		text, err := readAll(*key, nil)
		if err != nil {
			return err
		}
		signer, err := note.NewSigner(strings.TrimSpace(string(text)))
		if err != nil {
			return fmt.Errorf("%w: -key: the file holds no signer key", errUsage) // never its text
		}
		b, _, err := compile(ctx, args[0])
		if err != nil {
			return err
		}
		signed, err := governance.SignBundle(b, signer)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(args[0], governance.SignatureFile), signed, 0o644); err != nil {
			return err
		}
		fmt.Fprintf(out, "%s has signed %s\n", signer.Name(), b.Digest())
		return nil
	}}
}

func verifyCommand() command {
	fs := flags("verify")
	var authors, reviewers list
	fs.Var(&authors, "author", "verifier key of somebody who may write the bundle, or a file with one (repeatable)")
	fs.Var(&reviewers, "reviewer", "verifier key of somebody who may review it, or a file with one (repeatable)")
	return command{fs, 1, 1, func(ctx context.Context, args []string, _ io.Reader, out io.Writer) error {
		if len(authors) == 0 || len(reviewers) == 0 {
			return fmt.Errorf("%w: give -author and -reviewer", errUsage)
		}
		var s governance.Signers
		var err error
		if s.Authors, err = verifiers(authors); err != nil {
			return err
		}
		if s.Reviewers, err = verifiers(reviewers); err != nil {
			return err
		}
		b, err := governance.LoadBundle(os.DirFS(args[0]))
		if err != nil {
			return err
		}
		snap, _, err := governance.Compile(ctx, b, &governance.Options{Signers: &s})
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "the signatures hold: bundle %s, snapshot %s\n", b.Digest(), snap.Hash())
		return nil
	}}
}

func verifiers(keys []string) ([]note.Verifier, error) {
	var out []note.Verifier
	for _, k := range keys {
		v, err := note.NewVerifier(strings.TrimSpace(k))
		if err != nil {
			text, readErr := readAll(k, nil)
			if readErr != nil {
				return nil, fmt.Errorf("%w: %q is neither a verifier key nor a file", errUsage, k)
			}
			if v, err = note.NewVerifier(strings.TrimSpace(string(text))); err != nil {
				return nil, fmt.Errorf("%w: %s holds no verifier key: %w", errUsage, k, err)
			}
		}
		out = append(out, v)
	}
	return out, nil
}
