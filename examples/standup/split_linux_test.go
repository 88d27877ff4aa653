package main

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/examples/internal/tell"
)

// Tools and agents in two processes, as root of two users: the story is the same,
// and neither memory holds a secret of the other.
func TestSplit(t *testing.T) {
	if os.Getenv("TWINWARD_FULL") == "" {
		t.Skip("this test starts two hosts: set TWINWARD_FULL=1")
	}
	needsSandbox(t)
	dir, err := os.MkdirTemp("", "twinward-split-") // two users have to get there, which t.TempDir is not for
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	var out bytes.Buffer
	require.NoError(t, runSplit(t.Context(), options{split: true, json: true, dir: dir}, &out))
	doors := map[string]int{}
	for dec := json.NewDecoder(&out); dec.More(); {
		var l tell.Line
		require.NoError(t, dec.Decode(&l))
		doors[l.Door+" "+l.Decision]++
	}
	assert.Error(t, runSplit(t.Context(), options{split: true, remote: true}, &bytes.Buffer{}))
	assert.Equal(t, 3, doors["tool allow"], "%v", doors)
	assert.Equal(t, 4, doors["tool deny"], "%v", doors)
	assert.Equal(t, 5, doors["compute deny"], "%v", doors)
}
