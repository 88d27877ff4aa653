package audit_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twinward-dev/twinward/audit"
)

var update = flag.Bool("update", false, "rewrite the example in doc.go")

// The key of the example in the package comment. It is public.
const exampleKey = "# The key of a Twinward audit log. Whoever has it can forge the log: keep it apart.\n" +
	"PRIVATE+KEY+audit.example/host7+f17e6e7c+AcPI4ChXdcq0DT+TsqC4ESf4bOXJdEWrI4u3iY+TBVeC\n"

// The example in the package comment is what the log writes, byte for byte.
func TestPackageCommentExample(t *testing.T) {
	base := t.TempDir()
	keyFile := filepath.Join(base, "key")
	require.NoError(t, os.WriteFile(keyFile, []byte(exampleKey), 0o600))
	now := time.Date(2026, 11, 25, 9, 0, 0, 0, time.UTC)
	log, err := audit.Open(filepath.Join(base, "log"), &audit.Options{
		KeyFile: keyFile,
		Clock:   func() time.Time { now = now.Add(time.Millisecond); return now },
	})
	require.NoError(t, err)
	c, err := log.Begin(ctx, audit.Intent{
		Door: audit.DoorTool, Action: "github__list_prs", Resource: `Tool::"github__list_prs"`,
		Actor:    audit.Actor{Agent: "standup"},
		Decision: audit.Decision{ID: "d1", Effect: audit.Allow, Policies: []audit.Policy{{ID: "readers"}}},
	})
	require.NoError(t, err)
	require.NoError(t, c.End(ctx, audit.Outcome{Status: audit.StatusOK, Bytes: 512}))
	d := audit.Decision{ID: "d2", Effect: audit.Deny, Reason: "no-dms", Policies: []audit.Policy{{ID: "no-dms"}}}
	require.NoError(t, log.Append(ctx, audit.Event{
		Kind: audit.KindDenial, Door: audit.DoorTool, Action: "slack__read_dms", Resource: `Tool::"slack__read_dms"`,
		Actor: audit.Actor{Agent: "standup"}, Decision: &d,
	}))
	require.NoError(t, log.Close())
	data, err := os.ReadFile(filepath.Join(base, "log", audit.SegmentName(1)))
	require.NoError(t, err)
	cp, err := log.Checkpoint(ctx)
	require.NoError(t, err)

	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	got := withBlock(string(doc), "either a record or a checkpoint:", string(data))
	got = withBlock(got, "the last of the example reads", string(cp.Text))
	if *update {
		require.NoError(t, os.WriteFile("doc.go", []byte(got), 0o644))
	}
	assert.Equal(t, string(doc), got, "run go test -run PackageComment -update")
}

// withBlock returns doc with text in the preformatted block after the line that
// ends with head.
func withBlock(doc, head, text string) string {
	before, rest, _ := strings.Cut(doc, head+"\n//\n")
	var b strings.Builder
	for line := range strings.Lines(text) {
		if line == "\n" {
			b.WriteString("//\n")
			continue
		}
		b.WriteString("//\t" + line)
	}
	for strings.HasPrefix(rest, "//\t") || strings.HasPrefix(rest, "//\n//\t") {
		_, rest, _ = strings.Cut(rest, "\n")
	}
	return before + head + "\n//\n" + b.String() + rest
}
