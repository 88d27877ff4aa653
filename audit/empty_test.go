package audit_test

import (
	"bytes"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// A writer that is stopped anywhere in its first write leaves a log that is
// empty, not one that was changed, and that opens again. Who has a checkpoint
// of it knows better.
func TestStoppedBeforeTheFirstCheckpoint(t *testing.T) {
	t.Parallel()
	key, err := audit.NewKey("audit.test/empty")
	require.NoError(t, err)
	var m audittest.Memory
	log, err := audit.New(&m, &audit.Options{Key: key})
	require.NoError(t, err)
	anchor, err := log.Checkpoint(ctx)
	require.NoError(t, err)
	name := audit.SegmentName(1)
	file, err := m.FS().Open(name)
	require.NoError(t, err)
	var whole bytes.Buffer
	_, err = whole.ReadFrom(file)
	require.NoError(t, err)
	require.NoError(t, log.Close())
	first := bytes.TrimRight(whole.Bytes(), "\x00")

	for n := range first {
		left := append(bytes.Clone(first[:n]), make([]byte, whole.Len()-n)...)
		if n%2 == 0 {
			left = first[:n]
		}
		dir := fstest.MapFS{name: {Data: left}}
		opts := audit.VerifyOptions{Key: key.VerifierKey()}
		_, err := audit.Verify(ctx, dir, &opts)
		require.ErrorIs(t, err, audit.ErrEmpty, "%d bytes", n)
		require.NotErrorIs(t, err, audit.ErrTampered)
		_, err = audit.Prove(ctx, dir, 1)
		require.ErrorIs(t, err, audit.ErrEmpty)

		opts.Anchors = []string{string(anchor.Text)}
		_, err = audit.Verify(ctx, dir, &opts)
		require.ErrorIs(t, err, audit.ErrTampered)

		again := audittest.NewMemoryFS(dir)
		log, err := audit.New(again, &audit.Options{Key: key})
		require.NoError(t, err)
		require.NoError(t, log.Close())
		opts.Anchors = nil
		_, err = audit.Verify(ctx, again.FS(), &opts)
		assert.NoError(t, err)
	}
}

// A log that was emptied is no new log to who has a checkpoint of it, even one
// under a key that only the log's own records tell of.
func TestEmptiedAfterARotation(t *testing.T) {
	t.Parallel()
	k := newKeeper(t, audit.Options{})
	pinned := k.VerifierKey()
	k.begin(act("a", "u", audit.ClassWrite))
	require.NoError(t, k.Rotate(ctx, must(audit.NewKey("audit.test/values")), officer))
	k.begin(act("a", "u", audit.ClassWrite))
	cp, err := k.Checkpoint(ctx)
	require.NoError(t, err)
	emptied := fstest.MapFS{audit.SegmentName(1): {}}
	for _, o := range []audit.VerifyOptions{{Anchors: []string{string(cp.Text)}}, {LocalAnchors: []string{string(cp.Text)}}} {
		o.Key = pinned
		_, err = audit.Verify(ctx, k.st.FS(), &o)
		require.NoError(t, err)
		_, err = audit.Verify(ctx, emptied, &o)
		assert.ErrorIs(t, err, audit.ErrTampered)
	}
}
