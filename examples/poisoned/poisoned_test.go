//go:build linux && (amd64 || arm64)

package main

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit/audittest"
	"github.com/twinward-dev/twinward/examples/internal/outside"
	"github.com/twinward-dev/twinward/examples/internal/tell"
	"github.com/twinward-dev/twinward/governance"
	"github.com/twinward-dev/twinward/sandbox"
)

func TestMain(m *testing.M) {
	outside.Main()
	os.Exit(m.Run())
}

// installed returns the options of a run with what npm has installed, in full
// mode only.
func installed(t *testing.T, agent string) options {
	t.Helper()
	if os.Getenv("TWINWARD_FULL") == "" {
		t.Skip("this test runs agents and servers from npm: set TWINWARD_FULL=1, TWINWARD_AGENTS and TWINWARD_NPM")
	}
	require.Empty(t, sandbox.Probe().Missing)
	opts := options{agents: os.Getenv("TWINWARD_AGENTS"), servers: os.Getenv("TWINWARD_NPM"), agent: agent, json: true, dir: t.TempDir()}
	require.NoError(t, opts.check())
	return opts
}

// What the agents do with a poisoned pull request comes to nothing, and what the
// user asked for is done.
func TestStory(t *testing.T) {
	for agent := range agentKinds {
		t.Run(agent, func(t *testing.T) {
			opts := installed(t, agent)
			var out bytes.Buffer
			s, err := play(t.Context(), opts, &out)
			require.NoError(t, err, out.String())
			assert.True(t, s.Verified)
			assert.Zero(t, s.Secrets)
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			for _, text := range lines[:len(lines)-1] {
				var l tell.Line
				require.NoError(t, json.Unmarshal([]byte(text), &l))
			}
			var last map[string]tell.Summary
			require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &last))
			assert.Equal(t, len(lines)-1, last["summary"].Allowed+last["summary"].Denied)
			assert.Len(t, last["summary"].Steps, len(story()))
		})
	}
}

// Without a guard, what it held happens, and nothing besides.
func TestKnockOut(t *testing.T) {
	for _, g := range guards {
		t.Run(g.name, func(t *testing.T) {
			opts := installed(t, "claude")
			if os.Getuid() != 0 {
				t.Skip("once is enough: as root")
			}
			opts.without = g.name
			s, err := play(t.Context(), opts, &bytes.Buffer{})
			require.NoError(t, err)
			held := 0
			for i, step := range story() {
				if step.guard == g.name {
					held++
					assert.True(t, s.Steps[i].Happened, step.says)
				}
			}
			assert.NotZero(t, held)
		})
	}
}

// Each guard holds a step, each order is in the text, and the rules load with and
// without each guard.
func TestRules(t *testing.T) {
	held := map[string]bool{}
	for _, s := range story() {
		held[s.guard] = true
		assert.Contains(t, poison(), s.order)
	}
	for _, g := range append([]guard{{}}, guards...) {
		assert.True(t, held[g.name], g.name)
		bundle, walls, err := options{without: g.name}.rules()
		require.NoError(t, err, g.name)
		b, err := governance.LoadBundle(bundle)
		require.NoError(t, err, g.name)
		_, err = governance.NewEngine(audittest.NewLog(t), nil).Reload(t.Context(), b, deployer)
		require.NoError(t, err, g.name)
		_, err = sandbox.LoadPolicy("sandbox.yaml", walls)
		require.NoError(t, err, g.name)
		if g.file != "" {
			changed, err := fs.ReadFile(bundle, strings.TrimPrefix(g.file, "bundle/"))
			if g.file == "sandbox.yaml" {
				changed, err = walls, nil
			}
			require.NoError(t, err)
			assert.Contains(t, string(changed), g.to, g.name)
		}
	}
	assert.Error(t, (&options{agent: "nobody"}).check())
	assert.Error(t, (&options{agent: "claude", without: "luck"}).check())
}
