package audit_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/twinward-dev/twinward/audit"
)

// A door records an act before it happens and its outcome before it answers.
func Example() {
	base, err := os.MkdirTemp("", "audit")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(base)
	dir, anchor := filepath.Join(base, "log"), filepath.Join(base, "anchor")
	ctx := context.Background()

	log, err := audit.Open(dir, &audit.Options{Anchors: []audit.Anchor{audit.FileAnchor(anchor)}})
	if err != nil {
		panic(err)
	}
	call, err := log.Begin(ctx, audit.Intent{
		Door: audit.DoorTool, Action: "github__list_prs", Actor: audit.Actor{Agent: "standup"},
		Decision: audit.Decision{ID: "d1", Effect: audit.Allow},
	})
	if err != nil {
		panic(err) // and do not act
	}
	// … act …
	if err := call.End(ctx, audit.Outcome{Status: audit.StatusOK, Bytes: 512}); err != nil {
		panic(err) // and do not answer
	}
	if err := log.Close(); err != nil {
		panic(err)
	}

	checkpoint, err := os.ReadFile(anchor)
	if err != nil {
		panic(err)
	}
	rep, err := audit.Verify(ctx, os.DirFS(dir), &audit.VerifyOptions{
		Key:     log.VerifierKey(),
		Anchors: []string{string(checkpoint)},
	})
	fmt.Println(rep.Records, "records,", rep.Anchored, "anchored,", len(rep.Open), "open, error:", err)
	// Output: 2 records, 2 anchored, 0 open, error: <nil>
}
