package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
)

// twins are two logs that are both in order and begin alike: first half of the
// records, then what their agents are called.
func twins(t *testing.T, records int) (dir, other, key string) {
	base := t.TempDir()
	dir, other = filepath.Join(base, "log"), filepath.Join(base, "other")
	k, err := audit.NewKey("twins")
	require.NoError(t, err)
	write := func(dir, agent string) {
		log, err := audit.Open(dir, &audit.Options{Key: k, Mode: audit.BestEffort})
		require.NoError(t, err)
		for i := range records / 2 {
			require.NoError(t, log.Append(ctx, audit.Event{Kind: audit.KindProbe, Action: fmt.Sprint(strings.Repeat("x", 200), i), Actor: audit.Actor{Agent: agent}}))
		}
		require.NoError(t, log.Close())
	}
	write(dir, "first")
	require.NoError(t, os.CopyFS(other, os.DirFS(dir)))
	write(dir, "good")
	write(other, "evil")
	return dir, other, k.VerifierKey()
}

// swap puts the segment of one log into the place of another's.
func swap(t *testing.T, dir, other string) {
	text, err := os.ReadFile(filepath.Join(other, audit.SegmentName(1)))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, audit.SegmentName(1)), text, 0o600))
}

// A swapper is somebody who changes a log while it is being exported.
type swapper struct {
	bytes.Buffer
	swap func()
}

func (s *swapper) Write(p []byte) (int, error) {
	if s.swap != nil {
		s.swap()
		s.swap = nil
	}
	return s.Buffer.Write(p)
}

// What is exported and reported is what was verified, also when the folder is
// changed in between, for a log that is in order itself.
func TestLogThatChangesAfterItWasVerified(t *testing.T) {
	dir, other, key := twins(t, 2000)
	for _, d := range []string{dir, other} {
		code, _, errs := cli("verify", "-key", key, d)
		require.Equal(t, exitOK, code, errs)
	}
	out := &swapper{swap: func() { swap(t, dir, other) }}
	var errs bytes.Buffer
	code := run(ctx, []string{"export", "-format", "ndjson", "-key", key, dir}, out, &errs)
	assert.Equal(t, exitFailed, code)
	assert.Contains(t, errs.String(), "not the one that was verified any more")
	assert.Contains(t, out.String(), `"agent":"first"`)
	assert.Contains(t, out.String(), `"agent":"evil"`, "only the end shows it: or this test is about nothing")

	// For a file, nothing is there before all is.
	dir, other, key = twins(t, 10)
	keys := files{key}
	trusted, err := trustOf(keys, &anchors{}, []string{dir})
	require.NoError(t, err)
	log, err := verified(ctx, dir, trusted, nil)
	require.NoError(t, err)
	swap(t, dir, other)
	for _, err = range log.Records {
	}
	require.ErrorIs(t, err, audit.ErrTampered)
}

// A file that could not be written to its end is as it was.
func TestFileIsWholeOrUntouched(t *testing.T) {
	s := newStage(t)
	file := filepath.Join(s.base, "out")
	require.NoError(t, os.WriteFile(file, []byte("before"), 0o644))
	whole, err := os.ReadFile(filepath.Join(s.dir, audit.SegmentName(1)))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, audit.SegmentName(1)), bytes.Replace(whole, []byte("standup"), []byte("stendup"), 1), 0o600))
	code, _, _ := cli("export", "-format", "csv", "-o", file, s.dir) // unverified: the damage shows on the way
	assert.Equal(t, exitFailed, code)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, "before", string(text))
	left, err := filepath.Glob(file + "*")
	require.NoError(t, err)
	assert.Equal(t, []string{file}, left)

	require.NoError(t, os.WriteFile(filepath.Join(s.dir, audit.SegmentName(1)), whole, 0o600))
	code, _, errs := cli("export", "-format", "csv", "-o", file, s.dir)
	require.Equal(t, exitOK, code, errs)
	text, err = os.ReadFile(file)
	require.NoError(t, err)
	assert.True(t, strings.HasPrefix(string(text), "record,"))
	st, err := os.Stat(file)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), st.Mode().Perm())
}
