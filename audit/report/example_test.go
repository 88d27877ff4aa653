package report_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/audit/report"
)

// The page of one agent, with what verifying the whole log found.
func ExampleHTML() {
	ctx := context.Background()
	log := audittest.NewLog(new(testing.T)) // audit.Open in a program
	refused := audit.Refusal(audit.NewID(), audit.ReasonNoPermit)
	if err := log.Append(ctx, audit.Event{
		Kind: audit.KindDenial, Door: audit.DoorTool, Action: "slack__read_dms", Resource: `Tool::"slack__read_dms"`,
		Actor: audit.Actor{Agent: "standup"}, Decision: &refused,
	}); err != nil {
		panic(err)
	}

	dir := log.Storage.FS() // os.DirFS of the log's folder
	verified, failure := audit.Verify(ctx, dir, &audit.VerifyOptions{Key: log.VerifierKey()})
	var page strings.Builder // a file, most often
	err := report.HTML(&page, audit.Scan(ctx, dir, audit.Filter{Agent: "standup"}), &report.Options{
		Title: "What standup did", Verified: &verified, Failure: failure,
	})
	fmt.Println(err, strings.Contains(page.String(), "slack__read_dms"))
	// Output: <nil> true
}
