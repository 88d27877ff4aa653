// Record writes what the servers of connectors answer to tools/list:
//
//	go run ./mcpx/catalog/internal/recorder/record FOLDER FILE.yaml…
//
// It installs each server's package in a folder of its own below FOLDER, starts
// it with made-up secrets, and writes FILE.tools.json beside the connector. Then
// look at the difference, and at the class of each tool.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/twinward-dev/twinward/mcpx/catalog"
	"github.com/twinward-dev/twinward/mcpx/catalog/internal/recorder"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: record FOLDER FILE.yaml…")
		os.Exit(2)
	}
	var errs []error
	for _, file := range os.Args[2:] {
		if err := record(os.Args[1], file); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", file, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func record(folder, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var c catalog.Connector // not yet parsed: its classes may be what comes next
	if err := yaml.Unmarshal(text, &c); err != nil {
		return err
	}
	dir := filepath.Join(folder, c.ID)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	r, err := recorder.Record(ctx, &c, dir)
	if err != nil {
		return err
	}
	out, err := r.JSON()
	if err != nil {
		return err
	}
	fmt.Println(c.ID, len(r.Tools), "tools", r.License)
	return os.WriteFile(strings.TrimSuffix(file, ".yaml")+".tools.json", out, 0o644)
}
