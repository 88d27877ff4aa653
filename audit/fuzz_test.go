package audit_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/audit/audittest"
)

// A record that can be read can be written, and is then read as the same.
func FuzzRecord(f *testing.F) {
	s := newSample(f, nil, 2, "standup")
	for line := range bytes.Lines(s.data) {
		f.Add(bytes.TrimSuffix(line, []byte("\n")))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := audit.ParseRecord(line)
		if err != nil {
			return
		}
		once, err := json.Marshal(r)
		if err != nil {
			return // too large, or a year that the format does not have
		}
		r, err = audit.ParseRecord(once)
		require.NoError(t, err)
		twice, err := json.Marshal(r)
		require.NoError(t, err)
		require.Equal(t, string(once), string(twice))
	})
}

// The only input that verifies with its anchor is the log itself: bytes may
// follow only if the log was not closed. Whatever Verify accepts, Open accepts.
func FuzzVerify(f *testing.F) {
	s := newSample(f, nil, 2, "standup")
	f.Add(s.data, s.anchor)
	f.Add(s.data[:len(s.data)-1], s.anchor)
	f.Add(s.data[:len(s.data)/2], "")
	f.Add([]byte{}, s.anchor[:20])
	f.Fuzz(func(t *testing.T, data []byte, anchor string) {
		var anchors []string
		if anchor != "" {
			anchors = append(anchors, anchor)
		}
		rep, err := s.verify(data, anchors...)
		if err != nil {
			return
		}
		if rep.Anchored == 2 {
			require.Equal(t, string(s.data), string(data))
		}
		require.True(t, bytes.HasPrefix(s.data, data[:len(data)-int(rep.TornBytes)]) || rep.Records > rep.Signed)
		log, err := audit.New(audittest.NewMemory(data), &audit.Options{Key: s.key})
		require.NoError(t, err)
		require.NoError(t, log.Close())
	})
}

func FuzzCheckpoint(f *testing.F) {
	s := newSample(f, nil, 2, "standup")
	f.Add(s.anchor)
	f.Fuzz(func(t *testing.T, text string) {
		cp, err := audit.ParseCheckpoint([]byte(text), s.key.VerifierKey())
		if err != nil {
			return
		}
		require.Equal(t, s.key.Origin(), cp.Origin)
		require.LessOrEqual(t, cp.Size, uint64(2), "signed by nobody")
	})
}

// What is left of pruned records is one file for one record of it: no other bytes
// verify, and none drive a reader astray.
func FuzzPruned(f *testing.F) {
	a := newAged(f, audit.Options{}, 20)
	week := 7 * 24 * time.Hour
	p, err := a.PruneRecords(ctx, audit.Retention{Write: week, Other: week, ShorterThanSixMonths: true}, officer)
	require.NoError(f, err)
	require.Positive(f, p.Segments)
	require.NoError(f, a.Close())
	dir, name := a.st.FS(), ""
	for n := range dir {
		if strings.HasPrefix(n, "pruned.") {
			name = n
		}
	}
	good := dir[name].Data
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(bytes.Replace(good, []byte(`{"leaves":"`), []byte(`{"leaves":""}`), 1))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := maps.Clone(dir)
		dir[name] = &fstest.MapFile{Data: data}
		_, err := a.pinned(dir, 4, 19)
		require.Equal(t, bytes.Equal(data, good), err == nil, "%v", err)
		for _, err := range audit.Scan(ctx, dir, audit.Filter{}) {
			if err != nil {
				require.ErrorIs(t, err, audit.ErrTampered)
			}
		}
	})
}
