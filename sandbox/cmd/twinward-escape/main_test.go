//go:build linux && (amd64 || arm64)

package main

import (
	"bytes"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/sandbox"
	"github.com/twinward-dev/twinward/sandbox/internal/escape"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == probeArg || os.Args[1] == escape.SetIDArg) {
		main()
	}
	os.Exit(m.Run())
}

// TestCompare compares no sandbox with ours, and with one that is not there.
func TestCompare(t *testing.T) {
	if len(sandbox.Probe().Missing) > 0 {
		t.Skip("this system cannot have a sandbox")
	}
	t.Setenv("PATH", "/usr/bin:/bin:/nowhere")
	require.ErrorContains(t, run([]string{"-in", "chroot"}), `no sandbox "chroot"`)
	require.ErrorContains(t, run([]string{"-group", "nothing"}), `no group "nothing"`)

	tg, undo, err := escape.Lay()
	require.NoError(t, err)
	defer undo()
	var probes []escape.Probe
	var only []string
	for _, p := range escape.Probes() {
		if p.Group == escape.IPC {
			probes, only = append(probes, p), append(only, p.Name)
		}
	}
	results := make([]result, 2)
	for i := range results { // plain and twinward
		results[i].peer = peers[i]
		results[i].found, err = attack(t.Context(), peers[i], tg, only)
		require.NoError(t, err, peers[i].name)
	}
	results = append(results, result{peer: peer{name: "other"}, missing: errMissing})
	var out bytes.Buffer
	compare(&out, probes, results, false)
	assert.Regexp(t, `open POSIX shared memory of the host +OPEN +- +\?`, out.String())
	assert.Regexp(t, `group +probes +plain +twinward +other`, out.String())
	assert.Contains(t, out.String(), "other: not to be had here")
	for _, p := range probes {
		if p.Accepted == "" {
			assert.False(t, results[1].found[p.Name].Open, p.Name)
		}
	}
}
