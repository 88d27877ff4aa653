package audit

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// What is left of pruned records is one file, "section 0" to its readers, in
// place of the segments that were removed. It reads like a segment in which most
// records are only their hashes and most checkpoints are left out:
//
//	the first line of segment 1, which names the log's first key
//	{"leaves":"…"}  hashes of up to 256 records, 32 bytes each, in base64
//	{"seq":…}       an administrative act, whole
//	{"checkpoint":…} after each change of the log's key: it vouches for the next
//
// So the tree is that of before: proofs, anchors from before the pruning and the
// chain of keys are checked as ever. An event of [KindPrune] holds the SHA-256 of
// the file; without it, nobody believes that anything was pruned.

const (
	prunedPrefix = "pruned.v1."
	prunedTemp   = prunedPrefix + "new" // not complete yet: of no meaning to readers
	leavesPrefix = `{"leaves":`
	maxLeaves    = 256
)

// prunedName names what is left of the segments before the one numbered next.
func prunedName(next int) string {
	return fmt.Sprintf("%s%0*d%s", prunedPrefix, segmentDigits, next, segmentSuffix)
}

// prunedNumber is the inverse of prunedName, 0 for other names.
func prunedNumber(name string) int {
	digits, ok := strings.CutPrefix(name, prunedPrefix)
	n, err := strconv.Atoi(strings.TrimSuffix(digits, segmentSuffix))
	if !ok || err != nil || n < 2 || prunedName(n) != name {
		return 0
	}
	return n
}

// prunedBefore returns the number of the segment before which the log was pruned,
// if segments first to last are there: the lowest, so that as much as possible is
// read whole. It is 0 if there is none.
func prunedBefore(names []string, first, last int) int {
	best := 0
	for _, name := range names {
		if n := prunedNumber(name); n >= first && n <= last && (best == 0 || n < best) {
			best = n
		}
	}
	return best
}

// appendLeaves appends what parseLeaves reads, with a newline.
func appendLeaves(dst []byte, leaves []tlog.Hash) []byte {
	raw := make([]byte, 0, len(leaves)*tlog.HashSize)
	for _, h := range leaves {
		raw = append(raw, h[:]...)
	}
	dst = append(dst, leavesPrefix+`"`...)
	dst = base64.StdEncoding.AppendEncode(dst, raw)
	return append(dst, "\"}\n"...)
}

// parseLeaves reads a line without its newline. There is one spelling of each.
func parseLeaves(line []byte) ([]tlog.Hash, error) {
	text := bytes.TrimSuffix(bytes.TrimPrefix(line, []byte(leavesPrefix+`"`)), []byte(`"}`))
	if len(text) > base64.StdEncoding.EncodedLen(maxLeaves*tlog.HashSize) {
		return nil, errors.New("more hashes than a line holds")
	}
	raw, err := base64.StdEncoding.AppendDecode(nil, text)
	if err != nil || len(raw) == 0 || len(raw)%tlog.HashSize != 0 {
		return nil, errors.New("not hashes of records")
	}
	leaves := splitHashes(raw)
	if !bytes.Equal(appendLeaves(nil, leaves), append(bytes.Clone(line), '\n')) {
		return nil, errors.New("hashes of records in an unusual spelling")
	}
	return leaves, nil
}

// takeLeaves makes the next items the hashes of a line.
func (lr *lineReader) takeLeaves(line []byte) (err error) {
	lr.leaves, err = parseLeaves(line)
	return err
}

func (lr *lineReader) takeLeaf() {
	h := lr.leaves[0]
	lr.leaves = lr.leaves[1:]
	lr.tree.addLeaf(h)
	if lr.leaf != nil {
		lr.leaf(nil, h)
	}
}

// amongPruned reports whether checkpoints were left out before the one that is
// read, with its header if it has one: in section 0, and where the first segment
// follows.
func (lr *lineReader) amongPruned(h *header) bool {
	return lr.seg == 0 || h != nil && lr.pruned != nil && lr.seg == lr.pruned.next
}

// A prunedPart is what section 0 said.
type prunedPart struct {
	next   int // segment that follows
	size   uint64
	root   tlog.Hash
	sha256 string
}

// prunedPart is called at the end of section 0.
func (lr *lineReader) prunedPart(next int) *prunedPart {
	return &prunedPart{next, lr.tree.size, lr.tree.root(), hex.EncodeToString(lr.digest.Sum(nil))}
}

// detail is the part on record.
func (p prunedPart) detail() map[string]string {
	return map[string]string{
		"next_segment": strconv.Itoa(p.next), "records": strconv.FormatUint(p.size, 10),
		"root": p.root.String(), "sha256": p.sha256,
	}
}

// onRecord reports whether an event is the record of this part's pruning.
func (p prunedPart) onRecord(ev *Event) bool {
	for key, want := range p.detail() {
		if ev.Detail[key] != want {
			return false
		}
	}
	return ev.Kind == KindPrune && ev.Change != nil && ev.Change.Validate() == nil
}

// A Pruned says which records of a log were removed on record, as [Verify] found.
type Pruned struct {
	// Records is how many records are before the first that is there, Root the
	// Merkle root over them, which was compared with their hashes.
	Records uint64    `json:"records"`
	Root    tlog.Hash `json:"root"`
	// Kept of them are still there, whole: administrative acts.
	Kept uint64 `json:"kept"`
	// Segments is how many files were removed.
	Segments int `json:"segments"`
	// Record is the number of the event of [KindPrune] that says so, Time and
	// Change are when, who and why.
	Record uint64    `json:"record"`
	Time   time.Time `json:"time"`
	Change Change    `json:"change"`
}

// pruning finds the record of a pruning among those that a checkpoint covers, and
// that were signed when they were written.
func (s *seenRecords) pruning(p *prunedPart, signed uint64) (*Pruned, error) {
	if p == nil {
		return nil, nil
	}
	forged := s.unsigned.real()
	for _, r := range s.prunes {
		if r.Seq > signed || r.Seq <= p.size || forged.has(r.Seq) || !p.onRecord(r.Event) {
			continue
		}
		kept, _ := strconv.ParseUint(r.Event.Detail["kept"], 10, 64)
		return &Pruned{
			Records: p.size, Root: p.root, Kept: kept, Segments: p.next - 1,
			Record: r.Seq, Time: r.Time, Change: *r.Event.Change,
		}, nil
	}
	return nil, tamperedf("records 1 to %d are not there, and no record says that they were pruned: they were deleted, or what is left of them was changed", p.size)
}
