package audit

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// neverSynced is a folder whose files are not synced, so that a large log is
// written quickly.
type neverSynced struct{ Storage }

func (s neverSynced) Open(name string) (StorageFile, error) {
	f, err := s.Storage.Open(name)
	return neverSyncedFile{f}, err
}

type neverSyncedFile struct{ StorageFile }

func (neverSyncedFile) Sync() error { return nil }

// A log of ten million records (in the soak) is verified in the memory of a
// small one, telling how far it is; a proof of any of its records takes a moment.
func TestBigLog(t *testing.T) {
	n := uint64(300_000)
	if os.Getenv("TWINWARD_SOAK") == "1" {
		n = 10_000_000
	} else if os.Getenv("TWINWARD_FULL") != "1" {
		n = 20_000
	}
	dir := filepath.Join(t.TempDir(), "log")
	log, err := Open(dir, &Options{
		Mode: BestEffort, SegmentSize: 4 << 20,
		layer: func(st Storage) Storage { return neverSynced{st} },
	})
	require.NoError(t, err)
	for i := uint64(1); i < n; i++ { // one is there already
		ev := Event{Kind: KindProbe, Door: DoorCompute, Action: "open", Resource: fmt.Sprint("File::", i), Actor: Actor{Agent: "standup"}}
		require.NoError(t, log.Append(t.Context(), ev))
	}
	require.NoError(t, log.Close())

	var told []uint64
	var most uint64
	rep, err := Verify(t.Context(), os.DirFS(dir), &VerifyOptions{Key: log.VerifierKey(), Progress: func(records uint64) {
		told = append(told, records)
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		most = max(most, m.HeapInuse)
	}})
	require.NoError(t, err)
	assert.Equal(t, n, rep.Records)
	assert.Equal(t, n, rep.Signed)
	require.Len(t, told, int(n/progressEvery))
	for i, records := range told {
		assert.Equal(t, uint64(i+1)*progressEvery, records)
	}
	assert.Less(t, most, uint64(256<<20))
	t.Logf("%d records in %d segments, %d checkpoints, heap of at most %d MiB", n, rep.Segments, rep.Checkpoints, most>>20)
	for _, seq := range []uint64{1, n / 3, n} {
		p, err := Prove(t.Context(), os.DirFS(dir), seq)
		require.NoError(t, err)
		_, err = VerifyProof(p.Text(), nil, log.VerifierKey())
		require.NoError(t, err)
	}
	log, err = Open(dir, nil) // it reads one segment
	require.NoError(t, err)
	require.NoError(t, log.Close())
}
