package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"os"

	"github.com/twinward-dev/twinward/governance"
)

// maxInput bounds what is read from standard input and single files.
const maxInput = 64 << 20

// compile loads and compiles the bundle in a folder.
func compile(ctx context.Context, dir string) (governance.Bundle, *governance.Snapshot, error) {
	b, err := governance.LoadBundle(os.DirFS(dir))
	if err != nil {
		return b, nil, err
	}
	s, _, err := governance.Compile(ctx, b, nil)
	return b, s, err
}

// tape opens recorded requests; "-" is in.
func tape(name string, in io.Reader) (iter.Seq2[governance.Recorded, error], func(), error) {
	if name == "-" {
		return governance.ReadTape(in), func() {}, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	return governance.ReadTape(f), func() { f.Close() }, nil
}

// readAll reads a file, or in for "" and "-".
func readAll(name string, in io.Reader) ([]byte, error) {
	if name != "" && name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errUsage, err)
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxInput+1))
	if err == nil && len(text) > maxInput {
		err = fmt.Errorf("more than %d MiB", maxInput>>20)
	}
	return text, err
}

func printJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// foundIf is errFound if there is something to look at.
func foundIf(something bool) error {
	if something {
		return errFound
	}
	return nil
}
