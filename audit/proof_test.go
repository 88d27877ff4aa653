package audit_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twinward-dev/twinward/audit"
	"golang.org/x/mod/sumdb/tlog"
)

// longLog writes n records to a folder, in segments, and returns its key.
func longLog(t testing.TB, dir string, n int, segment int64) string {
	t.Helper()
	log := openLog(t, dir, &audit.Options{SegmentSize: segment})
	for i := range n {
		require.NoError(t, log.Append(ctx, denial("standup", fmt.Sprint("act", i))))
	}
	require.NoError(t, log.Close())
	return log.VerifierKey()
}

// httpTiles is the client of a transparency log, as far as x/mod leaves it to us:
// it fetches files.
type httpTiles struct {
	t   *testing.T
	url string
}

func (c httpTiles) get(path string) ([]byte, error) {
	res, err := http.Get(c.url + "/" + path)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", path, res.Status)
	}
	return io.ReadAll(res.Body)
}

func (c httpTiles) Height() int                     { return 8 }
func (c httpTiles) SaveTiles([]tlog.Tile, [][]byte) {}
func (c httpTiles) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		data, err := c.get(strings.Replace(tile.Path(), "tile/8/", "tile/", 1))
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

// The client of x/mod/sumdb/tlog reads the log over HTTP, and finds each entry
// where the tree says.
func TestTilesWithTheTlogClient(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	const n = 700
	key := longLog(t, dir, n, 20_000)
	for _, hashFiles := range []bool{true, false} {
		if !hashFiles {
			for _, f := range must(filepath.Glob(filepath.Join(dir, "tree.*"))) {
				require.NoError(t, os.Remove(f))
			}
		}
		srv := httptest.NewServer(http.FileServerFS(audit.Tiles(os.DirFS(dir))))
		defer srv.Close()
		c := httpTiles{t, srv.URL}
		text, err := c.get("checkpoint")
		require.NoError(t, err)
		cp, err := audit.ParseCheckpoint(text, key)
		require.NoError(t, err)
		require.Equal(t, uint64(n), cp.Size)
		r := tlog.TileHashReader(tlog.Tree{N: n, Hash: cp.Root}, c)
		index := int64(0)
		for bundle := range 3 {
			name := fmt.Sprintf("tile/entries/%03d", bundle)
			if bundle == 2 {
				name += ".p/188"
			}
			data, err := c.get(name)
			require.NoError(t, err)
			for len(data) > 0 {
				size := int(binary.BigEndian.Uint16(data))
				entry := data[2 : 2+size]
				data = data[2+size:]
				assert.Contains(t, string(entry), fmt.Sprintf(`"act%d"`, index))
				if index%97 == 0 || index == n-1 {
					proof, err := tlog.ProveRecord(n, index, r)
					require.NoError(t, err)
					require.NoError(t, tlog.CheckRecord(proof, n, cp.Root, index, tlog.RecordHash(entry)))
				}
				index++
			}
		}
		assert.Equal(t, int64(n), index)
		old, err := tlog.TreeHash(300, r)
		require.NoError(t, err)
		tree, err := tlog.ProveTree(n, 300, r)
		require.NoError(t, err)
		require.NoError(t, tlog.CheckTree(tree, n, cp.Root, 300, old))
		for _, absent := range []string{"", "tile", "tile/0", "tile/0/003", "tile/0/002", "tile/0/002.p/189", "tile/0/002.p/256", "tile/1/000", "tile/1/000.p/3",
			"tile/2/000.p/1", "tile/data/000", "tile/8/0/000", "tile/entries/002", "tile/entries/x000/000", "tile/0/0", "tile/-1/000", "tile/0/999999999", "tree.0"} {
			_, err := c.get(absent)
			assert.Error(t, err, absent)
		}
		for _, present := range []string{"tile/0/000", "tile/0/002.p/1", "tile/1/000.p/2"} {
			_, err := c.get(present)
			assert.NoError(t, err, present)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestProofOfEachRecord(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	key := longLog(t, dir, 600, 20_000)
	for seq := uint64(1); seq <= 600; seq += 37 {
		p, err := audit.Prove(ctx, os.DirFS(dir), seq)
		require.NoError(t, err)
		assert.Equal(t, seq, p.Seq)
		got, err := audit.VerifyProof(p.Text(), nil, key)
		require.NoError(t, err)
		assert.Equal(t, p.Record, got.Record)
		assert.Contains(t, string(got.Record), fmt.Sprintf(`"act%d"`, seq-1))
		_, err = audit.VerifyProof(p.Text(), p.Record, "", key)
		require.NoError(t, err)
		assert.Equal(t, string(p.Text()), string(got.Text()))
		_, err = audit.VerifyProof(p.Text(), bytes.Replace(p.Record, []byte("act"), []byte("axt"), 1), key)
		assert.ErrorIs(t, err, audit.ErrProof)
	}
	for _, seq := range []uint64{0, 601} {
		_, err := audit.Prove(ctx, os.DirFS(dir), seq)
		assert.ErrorIs(t, err, fs.ErrNotExist)
	}
	stranger := must(audit.NewKey("audit.test/stranger"))
	p := must(audit.Prove(ctx, os.DirFS(dir), 1))
	_, err := audit.VerifyProof(p.Text(), nil, stranger.VerifierKey())
	assert.ErrorIs(t, err, audit.ErrProof)
	_, err = audit.VerifyProof(p.Text(), nil)
	assert.ErrorIs(t, err, audit.ErrNoKey)
	for i := range p.Text() {
		text := p.Text()
		text[i] ^= 1
		got, err := audit.VerifyProof(text, nil, key)
		if err == nil { // but for bits of base64 that say nothing
			require.Equal(t, p.Record, got.Record)
			require.Equal(t, p.Seq, got.Seq)
		}
	}
}

// Hash files are believed by nobody.
func TestDamagedHashFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	key := longLog(t, dir, 600, 20_000)
	file := filepath.Join(dir, "tree.0")
	good := must(os.ReadFile(file))
	require.Len(t, good, 600*tlog.HashSize)
	for what, bad := range map[string][]byte{
		"a bit":   append([]byte{good[0] ^ 1}, good[1:]...),
		"short":   good[:1000],
		"long":    append(bytes.Clone(good), good...),
		"empty":   nil,
		"all new": bytes.Repeat([]byte{7}, len(good)),
	} {
		require.NoError(t, os.WriteFile(file, bad, 0o600))
		for _, seq := range []uint64{1, 300, 600} {
			p, err := audit.Prove(ctx, os.DirFS(dir), seq)
			require.NoError(t, err, what)
			_, err = audit.VerifyProof(p.Text(), nil, key)
			require.NoError(t, err, what)
		}
	}
	// Opening goes on with what is good, and makes anew what is missing.
	for _, bad := range [][]byte{good[:1000], nil, append(bytes.Clone(good), good...)} {
		require.NoError(t, os.WriteFile(file, bad, 0o600))
		require.NoError(t, openLog(t, dir, nil).Close())
		assert.Equal(t, good, must(os.ReadFile(file)))
	}
	require.NoError(t, os.Remove(filepath.Join(dir, "tree.1")))
	require.NoError(t, openLog(t, dir, nil).Close())
	require.NoError(t, openLog(t, dir, nil).Close())
	assert.Len(t, must(os.ReadFile(filepath.Join(dir, "tree.1"))), 2*tlog.HashSize)
	rep := must(audit.Verify(ctx, os.DirFS(dir), &audit.VerifyOptions{Key: key}))
	assert.NotContains(t, strings.Join(rep.Caveats, "\n"), "tree.")
}

// With the hash files, neither a proof nor opening reads all segments.
func TestProofReadsFewSegments(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	longLog(t, dir, 600, 4_000)
	log := openLog(t, dir, nil)
	require.NoError(t, log.Append(ctx, denial("a", "b")))
	require.NoError(t, log.Close())
	counted := &countingFS{FS: os.DirFS(dir), opened: map[string]int{}}
	_, err := audit.Prove(ctx, counted, 5)
	require.NoError(t, err)
	all := len(must(filepath.Glob(filepath.Join(dir, "*.jsonl"))))
	require.Greater(t, all, 10)
	assert.Less(t, counted.read, all*4_000/2)
}

type countingFS struct {
	fs.FS
	opened map[string]int
	read   int
}

func (c *countingFS) Open(name string) (fs.File, error) {
	f, err := c.FS.Open(name)
	if err != nil || !strings.HasSuffix(name, ".jsonl") {
		return f, err
	}
	return &countedFile{f.(*os.File), c}, nil
}

type countedFile struct {
	*os.File
	c *countingFS
}

func (f *countedFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	f.c.read += n
	return n, err
}

func TestProveMissingPart(t *testing.T) {
	dir, _, _ := segmented(t, 30)
	delete(dir, audit.SegmentName(2))
	_, err := audit.Prove(ctx, dir, 1)
	assert.ErrorIs(t, err, audit.ErrTampered)
	dir, _, _ = segmented(t, 30)
	changed := maps.Clone(dir)
	changed[audit.SegmentName(2)] = &fstest.MapFile{Data: bytes.Replace(dir[audit.SegmentName(2)].Data, []byte("act"), []byte("axt"), 1)}
	_, err = audit.Prove(ctx, changed, 1)
	assert.ErrorIs(t, err, audit.ErrTampered)
}

// Whatever a proof says, it proves only what the key signed.
func FuzzProof(f *testing.F) {
	dir, key, _ := segmented(f, 5)
	var lines [][]byte
	for seq := uint64(1); seq <= 5; seq++ {
		p := must(audit.Prove(ctx, dir, seq))
		lines = append(lines, p.Record)
		f.Add(p.Text())
	}
	f.Add([]byte("c2sp.org/tlog-proof@v1\nindex 0\n\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := audit.VerifyProof(text, nil, key.VerifierKey())
		if err != nil {
			return
		}
		require.LessOrEqual(t, p.Seq, uint64(5))
		require.Equal(t, string(lines[p.Seq-1]), string(p.Record))
	})
}

// A link in the place of a hash file is not written through.
func TestHashFileIsNoLink(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	log := openLog(t, dir, nil)
	require.NoError(t, log.Append(ctx, probe("s", "x")))
	require.NoError(t, log.Close())
	key := must(os.ReadFile(dir + ".key"))
	require.NoError(t, os.Remove(filepath.Join(dir, "tree.0")))
	if err := os.Symlink("../log.key", filepath.Join(dir, "tree.0")); err != nil {
		t.Skip(err)
	}
	log = openLog(t, dir, nil)
	require.NoError(t, log.Append(ctx, probe("s", "x")))
	require.NoError(t, log.Close())
	assert.Equal(t, key, must(os.ReadFile(dir+".key")))
	require.NoError(t, openLog(t, dir, nil).Close())
}
