package audit_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/twinward-dev/twinward/audit"
)

// Records older than six months are removed on record; what is left verifies, and
// the verifier says who removed them and why.
func ExampleLog_PruneRecords() {
	base, err := os.MkdirTemp("", "audit")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(base)
	ctx, dir := context.Background(), filepath.Join(base, "log")
	now := time.Date(2026, 1, 1, 9, 0, 0, 0, time.UTC)
	log, err := audit.Open(dir, &audit.Options{Clock: func() time.Time { return now }, SegmentSize: 20_000})
	if err != nil {
		panic(err)
	}
	for range 300 { // an act a day
		post(log, "ana", `{"channel":"#team","text":"done"}`)
		now = now.Add(24 * time.Hour)
	}
	by := audit.Change{By: "dpo@example.com", Reason: "retention policy 3"}
	pruned, err := log.PruneRecords(ctx, audit.Retention{}, by)
	fmt.Println("some were removed:", pruned.Records > 150, "error:", err)
	key := log.VerifierKey()
	if err := log.Close(); err != nil {
		panic(err)
	}

	rep, err := audit.Verify(ctx, os.DirFS(dir), &audit.VerifyOptions{Key: key})
	fmt.Println("removed by", rep.Pruned.Change.By, "for", rep.Pruned.Change.Reason, "error:", err)
	// Output:
	// some were removed: true error: <nil>
	// removed by dpo@example.com for retention policy 3 error: <nil>
}

// The key-encryption key is replaced; the one of before reads nothing any more.
func ExampleLog_RotateKEK() {
	base, err := os.MkdirTemp("", "audit")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(base)
	ctx, dir := context.Background(), filepath.Join(base, "log")
	log, err := audit.Open(dir, nil)
	if err != nil {
		panic(err)
	}
	post(log, "ana", `{"channel":"#team","text":"done"}`)
	old, err := audit.LoadKEK(dir + ".kek")
	if err != nil {
		panic(err)
	}
	keys, err := log.RotateKEK(ctx, nil, audit.Change{By: "ops@example.com", Reason: "yearly"})
	fmt.Println(keys, "data key, error:", err)
	if err := log.Close(); err != nil {
		panic(err)
	}
	for _, kek := range []audit.KEK{old, mustKEK(dir + ".kek")} {
		values, err := audit.OpenValues(ctx, os.DirFS(dir+".values"), kek)
		if err != nil {
			panic(err)
		}
		rep, err := values.Check(ctx, audit.Scan(ctx, os.DirFS(dir), audit.Filter{}))
		fmt.Println(rep.Readable, "readable,", len(rep.Unopened), "under another key, error:", err)
	}
	// Output:
	// 1 data key, error: <nil>
	// 0 readable, 1 under another key, error: <nil>
	// 1 readable, 0 under another key, error: <nil>
}

func mustKEK(path string) audit.KEK {
	kek, err := audit.LoadKEK(path)
	if err != nil {
		panic(err)
	}
	return kek
}
