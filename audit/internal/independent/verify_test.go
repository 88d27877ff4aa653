package independent

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	formats "github.com/transparency-dev/formats/log"
	cosign "github.com/transparency-dev/formats/note"
	tlogproof "github.com/transparency-dev/formats/proof"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/twinward-dev/twinward/audit"
)

var ctx = context.Background()

// A writtenLog is one with its root at each of its checkpoints.
type writtenLog struct {
	dir, key string
	cps      []audit.Checkpoint
}

func writeLog(t *testing.T, sizes ...uint64) writtenLog {
	t.Helper()
	w := writtenLog{dir: filepath.Join(t.TempDir(), "log")}
	log, err := audit.Open(w.dir, &audit.Options{Origin: "independent.test/log", SegmentSize: 100_000})
	require.NoError(t, err)
	w.key = log.VerifierKey()
	for _, size := range sizes {
		for log.Size() < size {
			require.NoError(t, log.Append(ctx, audit.Event{Kind: audit.KindProbe, Resource: fmt.Sprint(log.Size())}))
		}
		cp, err := log.Checkpoint(ctx)
		require.NoError(t, err)
		w.cps = append(w.cps, cp)
	}
	require.NoError(t, log.Close())
	return w
}

// A tileClient reads tiles over HTTP, at the paths of c2sp.org/tlog-tiles.
type tileClient struct {
	t    *testing.T
	base string
}

func (c tileClient) get(path string) []byte {
	c.t.Helper()
	resp, err := http.Get(c.base + "/" + path)
	require.NoError(c.t, err)
	defer resp.Body.Close()
	require.Equal(c.t, http.StatusOK, resp.StatusCode, path)
	body, err := io.ReadAll(resp.Body)
	require.NoError(c.t, err)
	return body
}

func (c tileClient) Height() int                     { return 8 }
func (c tileClient) SaveTiles([]tlog.Tile, [][]byte) {}
func (c tileClient) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, t := range tiles {
		// The paths of x/mod name the height, those of C2SP do not.
		all = append(all, c.get("tile/"+strings.TrimPrefix(t.Path(), "tile/8/")))
	}
	return all, nil
}

func bytesOf(hashes []tlog.Hash) [][]byte {
	var all [][]byte
	for _, h := range hashes {
		all = append(all, h[:])
	}
	return all
}

// Checkpoint, tiles and entries are read over HTTP by x/mod's client, and the
// proofs that it makes of them are verified by transparency-dev's code.
func TestTilesAndProofs(t *testing.T) {
	w := writeLog(t, 1, 2, 5, 8, 255, 256, 257, 600)
	server := httptest.NewServer(http.FileServerFS(audit.Tiles(os.DirFS(w.dir))))
	defer server.Close()
	client := tileClient{t, server.URL}

	verifier, err := note.NewVerifier(w.key)
	require.NoError(t, err)
	cp, extra, signed, err := formats.ParseCheckpoint(client.get("checkpoint"), "independent.test/log", verifier)
	require.NoError(t, err)
	require.EqualValues(t, 600, cp.Size)
	assert.True(t, bytes.HasPrefix(extra, []byte("batch ")))
	assert.Len(t, signed.Sigs, 1)

	tree := tlog.Tree{N: int64(cp.Size), Hash: tlog.Hash(cp.Hash)}
	reader := tlog.TileHashReader(tree, client)
	hasher := rfc6962.DefaultHasher
	entries := readEntries(t, client, cp.Size)
	for i, line := range entries {
		p, err := tlog.ProveRecord(tree.N, int64(i), reader)
		require.NoError(t, err)
		require.NoError(t, proof.VerifyInclusion(hasher, uint64(i), cp.Size, hasher.HashLeaf(line), bytesOf(p), cp.Hash))
		require.Error(t, proof.VerifyInclusion(hasher, uint64(i), cp.Size, hasher.HashLeaf(append(line, ' ')), bytesOf(p), cp.Hash))
	}
	for i, old := range w.cps {
		for _, later := range w.cps[i+1:] {
			p, err := tlog.ProveTree(int64(later.Size), int64(old.Size), reader)
			require.NoError(t, err)
			require.NoError(t, proof.VerifyConsistency(hasher, old.Size, later.Size, bytesOf(p), old.Root[:], later.Root[:]))
		}
	}
}

// readEntries reads the bundles of entries.
func readEntries(t *testing.T, client tileClient, size uint64) [][]byte {
	var all [][]byte
	for n := uint64(0); n*256 < size; n++ {
		path := fmt.Sprintf("tile/entries/%03d", n)
		if rest := size - n*256; rest < 256 {
			path += fmt.Sprintf(".p/%d", rest)
		}
		for data := client.get(path); len(data) > 0; {
			length := binary.BigEndian.Uint16(data)
			all = append(all, data[2:2+length])
			data = data[2+length:]
		}
	}
	require.Len(t, all, int(size))
	return all
}

// The text of a proof (c2sp.org/tlog-proof) holds what other verifiers need.
func TestProofText(t *testing.T) {
	w := writeLog(t, 300)
	verifier, err := note.NewVerifier(w.key)
	require.NoError(t, err)
	for _, seq := range []uint64{1, 2, 128, 256, 257, 300} {
		p, err := audit.Prove(ctx, os.DirFS(w.dir), seq)
		require.NoError(t, err)
		var theirs tlogproof.TLogProof
		require.NoError(t, theirs.Unmarshal(p.Text()))
		cp, _, _, err := formats.ParseCheckpoint(theirs.Checkpoint, "independent.test/log", verifier)
		require.NoError(t, err)
		require.Equal(t, seq-1, theirs.Index)
		var hashes [][]byte
		for _, h := range theirs.Hashes {
			hashes = append(hashes, h[:])
		}
		hasher := rfc6962.DefaultHasher
		require.NoError(t, proof.VerifyInclusion(hasher, theirs.Index, cp.Size, hasher.HashLeaf(theirs.ExtraData), hashes, cp.Hash))
		// And what their code writes, ours reads.
		ours, err := audit.VerifyProof(theirs.Marshal(), nil, w.key)
		require.NoError(t, err)
		require.Equal(t, seq, ours.Seq)
	}
}

// A witness made of other people's code takes what the witness client sends, and
// the verifier takes what that code signs.
func TestWitness(t *testing.T) {
	skey, vkey, err := note.GenerateKey(rand.Reader, "independent.test/witness")
	require.NoError(t, err)
	signer, err := cosign.NewSignerForCosignatureV1(skey)
	require.NoError(t, err)
	vkey, err = cosign.VKeyToCosignatureV1(vkey)
	require.NoError(t, err)
	key, err := audit.NewKey("independent.test/log")
	require.NoError(t, err)
	logVerifier, err := note.NewVerifier(key.VerifierKey())
	require.NoError(t, err)
	var last formats.Checkpoint
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		head, text, _ := strings.Cut(string(body), "\n\n")
		cp, _, n, err := formats.ParseCheckpoint([]byte(text), "independent.test/log", logVerifier)
		if !assert.NoError(t, err) {
			rw.WriteHeader(403)
			return
		}
		lines := strings.Split(head, "\n")
		if !assert.Equal(t, fmt.Sprint("old ", last.Size), lines[0]) {
			rw.WriteHeader(409)
			return
		}
		var hashes [][]byte
		for _, line := range lines[1:] {
			hash, err := base64.StdEncoding.DecodeString(line)
			assert.NoError(t, err)
			hashes = append(hashes, hash)
		}
		if last.Size > 0 && last.Size < cp.Size {
			err = proof.VerifyConsistency(rfc6962.DefaultHasher, last.Size, cp.Size, hashes, last.Hash, cp.Hash)
		}
		if !assert.NoError(t, err) {
			rw.WriteHeader(422)
			return
		}
		last = *cp
		both, err := note.Sign(&note.Note{Text: n.Text}, signer)
		assert.NoError(t, err)
		_, line, _ := strings.Cut(string(both), "\n\n")
		_, _ = io.WriteString(rw, line)
	}))
	defer server.Close()

	file := filepath.Join(t.TempDir(), "cosigned")
	anchor, err := audit.Witness(server.URL, vkey, audit.WitnessOptions{File: file})
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "log")
	log, err := audit.Open(dir, &audit.Options{Key: key, Anchors: []audit.Anchor{anchor}, AnchorEvery: -1, AnchorRecords: -1})
	require.NoError(t, err)
	for i := range 40 {
		for range i % 7 {
			require.NoError(t, log.Append(ctx, audit.Event{Kind: audit.KindProbe}))
		}
		_, err := log.Checkpoint(ctx)
		require.NoError(t, err)
	}
	require.NoError(t, log.Close())
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	rep, err := audit.Verify(ctx, os.DirFS(dir), &audit.VerifyOptions{Key: key.VerifierKey(), Anchors: []string{string(text)}, Witnesses: []string{vkey}})
	require.NoError(t, err)
	assert.Equal(t, rep.Records, rep.Cosigned)

	// What the file holds, their code opens too.
	cosigner, err := cosign.NewVerifierForCosignatureV1(vkey)
	require.NoError(t, err)
	_, _, n, err := formats.ParseCheckpoint(text, "independent.test/log", logVerifier, cosigner)
	require.NoError(t, err)
	require.Len(t, n.Sigs, 2)
	at, err := cosign.CoSigV1Timestamp(n.Sigs[1])
	require.NoError(t, err)
	assert.Equal(t, at.UTC(), rep.Cosignatures[0].Time)
}
