//go:build linux && (amd64 || arm64)

package sandbox

import (
	"context"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// discard is a log that keeps nothing, so that only the sandbox is measured.
type discard struct{}

func (discard) Begin(context.Context, audit.Intent) (audit.Call, error) { return discard{}, nil }
func (discard) Append(context.Context, audit.Event) error               { return nil }
func (discard) Record() uint64                                          { return 0 }
func (discard) End(context.Context, audit.Outcome) error                { return nil }

// BenchmarkLaunch starts a session with all layers, runs /bin/true in it and
// ends it.
func BenchmarkLaunch(b *testing.B) {
	needSandbox(b)
	for b.Loop() {
		s, err := Start(context.Background(), nil, agent, discard{}, nil)
		require.NoError(b, err)
		require.NoError(b, s.Command(context.Background(), "/bin/true").Run())
		require.NoError(b, s.Close())
	}
}

// BenchmarkCommand runs /bin/true in a session that lives.
func BenchmarkCommand(b *testing.B) {
	s := box(b, discard{}, nil, nil)
	for b.Loop() {
		require.NoError(b, s.Command(context.Background(), "/bin/true").Run())
	}
}

// BenchmarkPlainExec is what Command is compared with.
func BenchmarkPlainExec(b *testing.B) {
	for b.Loop() {
		require.NoError(b, exec.Command("/bin/true").Run())
	}
}
