//go:build linux && (amd64 || arm64)

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit/audittest"
)

func init() {
	// Inside a sandbox there can be no other: the best system without user
	// namespaces that a test can have.
	roles["probe"] = func() {
		fmt.Println(Probe().Missing)
		_, err := Start(context.Background(), nil, agent, discard{}, nil)
		var le *LayerError
		if errors.As(err, &le) {
			fmt.Println(le.Layer, le.Step, le.Hint != "")
		}
		left, _ := os.ReadDir(os.TempDir())
		fmt.Println(len(left), "left")
	}
}

func TestProbeSaysWhatIsMissing(t *testing.T) {
	s := box(t, audittest.NewLog(t), nil, &Options{Self: true})
	c := s.Command(context.Background(), Self)
	c.Env = roleEnv("probe")
	out, err := c.CombinedOutput()
	require.NoError(t, err, string(out))
	assert.Equal(t, "[user-namespace]\nuser-namespace create namespaces true\n0 left\n", string(out))
}

// TestOptionalLayer leaves Landlock optional: where it can be had it is used.
func TestOptionalLayer(t *testing.T) {
	var require []Layer
	for _, l := range Layers() {
		if l != LayerLandlock {
			require = append(require, l)
		}
	}
	s := box(t, audittest.NewLog(t), nil, &Options{Require: require})
	assert.Contains(t, s.Report().Layers, LayerLandlock)
}

// Who requires nothing has the network's door all the same: without it nothing that
// was promised of names would hold.
func TestNetworkIsNeverOptional(t *testing.T) {
	s := &Session{policy: (&Policy{}).normal(), opts: Options{Require: []Layer{}}, workspace: t.TempDir(), ownWorkspace: true}
	spec, err := s.spec()
	require.NoError(t, err)
	assert.Contains(t, spec.Optional, LayerLandlock)
	assert.NotContains(t, spec.Optional, LayerNetwork)
}

func TestCloseTellsThatTheEndIsNotOnRecord(t *testing.T) {
	log := audittest.NewLog(t)
	s := box(t, log, nil, nil)
	full := errors.New("disk full")
	log.Fail(full)
	require.ErrorIs(t, s.Close(), full)
	assert.ErrorIs(t, s.Close(), full, "and again")
	assert.NoDirExists(t, s.Workspace(), "all the same it is gone")
	log.Fail(nil)
}
