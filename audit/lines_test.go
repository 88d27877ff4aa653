package audit

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"
)

var fixed = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// Checkpoints that the key did sign, but that are not about what is before them.
func TestSignedButWrongCheckpoints(t *testing.T) {
	key, err := NewKey("audit.test/lines")
	require.NoError(t, err)
	stranger, err := NewKey("audit.test/stranger")
	require.NoError(t, err)
	var one tree
	record := appendRecord(nil, 1, fixed, []byte(`{"event":{"kind":"probe","door":"","action":"","resource":""}}`))
	one.add(record)
	empty := new(tree).root()
	first := Checkpoint{Origin: key.Origin(), Root: empty, Batch: 1, Segment: 1}
	good := Checkpoint{Origin: key.Origin(), Size: 1, Root: one.root(), Batch: 2}
	change := func(f func(*Checkpoint)) Checkpoint { cp := good; f(&cp); return cp }
	for name, c := range map[string]struct {
		second Checkpoint
		key    *Key
		ok     bool
	}{
		"good":           {good, key, true},
		"size too large": {change(func(c *Checkpoint) { c.Size = 2 }), key, false},
		"size too small": {change(func(c *Checkpoint) { c.Size = 0 }), key, false},
		"root":           {change(func(c *Checkpoint) { c.Root = empty }), key, false},
		"batch":          {change(func(c *Checkpoint) { c.Batch = 3 }), key, false},
		"batch again":    {change(func(c *Checkpoint) { c.Batch = 1 }), key, false},
		"origin":         {change(func(c *Checkpoint) { c.Origin = stranger.Origin() }), stranger, false},
		"other key":      {change(func(c *Checkpoint) { c.Origin = stranger.Origin() }), key, false},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, first.sign(key.secret.signer))
			require.NoError(t, c.second.sign(c.key.secret.signer))
			data := append(first.appendLine(nil, &header{Key: key.VerifierKey(), Tree: []tlog.Hash{}}), '\n')
			data = append(append(data, record...), '\n')
			data = append(c.second.appendLine(data, nil), '\n')
			for _, verify := range []bool{false, true} {
				lr := newLineReader(oneSegment(data), 1)
				if verify {
					lr.signatures = newSignatureChecks()
				}
				var err error
				for err == nil {
					_, err = lr.next()
				}
				if verify {
					if bad := lr.signatures.wait(); bad != nil {
						err = bad
					}
				}
				if c.ok {
					assert.ErrorIs(t, err, io.EOF)
				} else {
					assert.NotErrorIs(t, err, io.EOF)
				}
			}
		})
	}
}

// oneSegment is a log of one segment.
type oneSegment []byte

func (s oneSegment) open(n int) (*section, error) {
	if n != 1 {
		return nil, fs.ErrNotExist
	}
	return &section{Reader: bytes.NewReader(s), close: func() error { return nil }, last: true}, nil
}

func TestTreeIsTlogs(t *testing.T) {
	var (
		hashes []tlog.Hash
		mine   tree
	)
	read := tlog.HashReaderFunc(func(idx []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(idx))
		for i, x := range idx {
			out[i] = hashes[x]
		}
		return out, nil
	})
	for n := range int64(300) {
		want, err := tlog.TreeHash(n, read)
		require.NoError(t, err)
		require.Equal(t, want, mine.root(), "size %d", n)
		rec := fmt.Append(nil, "record ", n)
		more, err := tlog.StoredHashes(n, rec, read)
		require.NoError(t, err)
		hashes = append(hashes, more...)
		mine.add(rec)
	}
}

func (s oneSegment) begin() int      { return 1 }
func (s oneSegment) after(n int) int { return n + 1 }
