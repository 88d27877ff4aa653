package audit_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// lastSegment is the name of the file that a log is written to.
func lastSegment(dir fstest.MapFS) (last string) {
	for name := range dir {
		if strings.HasPrefix(name, "audit.v1.") {
			last = max(last, name)
		}
	}
	return last
}

// plant puts a line behind what a log that was killed has in its last segment.
func plant(dir fstest.MapFS, line []byte) {
	name := lastSegment(dir)
	data := bytes.TrimRight(dir[name].Data, "\x00")
	dir[name] = &fstest.MapFile{Data: append(append(bytes.Clone(data), line...), '\n')}
}

// Who can write to the folder of a log that was killed can remove its first files,
// leave their hashes, and write that they were pruned. The next opening signs that
// record with the others that a crash leaves, and it counts for nothing all the same.
func TestForgedPruning(t *testing.T) {
	t.Parallel()
	a := newAged(t, audit.Options{}, 300)
	killed := a.st.FS()
	p := must(a.PruneRecords(ctx, audit.Retention{}, officer))
	require.Positive(t, p.Segments)
	pruned := a.st.FS()
	_, err := a.pinned(pruned)
	require.NoError(t, err, "what the log itself pruned")
	said := must(a.record(a.Size()).Line())

	forged := fstest.MapFS{}
	for name, f := range pruned {
		if strings.HasPrefix(name, "pruned.") {
			forged[name] = f
		} else if killed[name] != nil { // what is in it is from before
			forged[name] = killed[name]
		}
	}
	plant(forged, said)
	st := audittest.NewMemoryFS(forged)
	_, err = a.pinned(st.FS())
	require.ErrorIs(t, err, audit.ErrTampered)
	log, err := audit.New(st, &audit.Options{Key: a.key, OldKeys: a.opts.OldKeys})
	require.NoError(t, err)
	require.NoError(t, log.Close())
	_, err = a.pinned(st.FS())
	require.ErrorIs(t, err, audit.ErrTampered)
	assert.ErrorContains(t, err, "they were deleted")
}

// Nor does the release of a hold that was planted, or a repair that would have it
// that others were.
func TestForgedRelease(t *testing.T) {
	t.Parallel()
	k := newKeeper(t, audit.Options{})
	k.begin(act("a", "u", audit.ClassWrite))
	require.NoError(t, k.Hold(ctx, "m", audit.Subject{User: "u"}, officer))
	require.NoError(t, k.Hold(ctx, "ended", audit.Subject{User: "u"}, officer))
	require.NoError(t, k.Release(ctx, "ended", officer)) // record 4
	killed := k.st.FS()
	for i, detail := range []string{
		`"kind":"hold","door":"admin","action":"release","resource":"m","change":{"by":"x","reason":"y"}`,
		`"kind":"gap","door":"admin","action":"open","resource":"log","detail":{"unsigned_first":"4","unsigned_last":"5"}`,
	} {
		plant(killed, fmt.Appendf(nil, `{"seq":%d,"time":"2026-01-01T00:00:00.000000000Z","event":{%s}}`, 5+i, detail))
	}
	log := must(audit.New(audittest.NewMemoryFS(killed), &audit.Options{Key: k.key, KEK: k.kek, Values: audittest.NewMemoryFS(k.vs.FS())}))
	holds := must(log.Holds(ctx))
	require.Len(t, holds, 1)
	assert.Equal(t, "m", holds[0].Matter)
	_, err := log.Erase(ctx, audit.Subject{User: "u"}, officer)
	assert.ErrorIs(t, err, audit.ErrHeld)
	require.NoError(t, log.Release(ctx, "m", officer))
	assert.Empty(t, must(log.Holds(ctx)), "it is released anew")
	require.NoError(t, log.Close())
}
