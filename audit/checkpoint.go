package audit

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// A Checkpoint is the log's signed word for its first Size records.
//
// Its text is a C2SP checkpoint (https://c2sp.org/tlog-checkpoint) in a signed
// note (https://c2sp.org/signed-note): origin, size and root, and as extension
// lines the number of the batch, and "segment" with its number at the start of a
// segment or "closed" after a clean Close.
type Checkpoint struct {
	Origin string    `json:"origin"` // name of the log, and of its key
	Size   uint64    `json:"size"`   // number of records
	Root   tlog.Hash `json:"root"`   // RFC 6962 root of these records
	// Batch numbers the checkpoints of a log from 1, so that none can be taken
	// out or repeated.
	Batch uint64 `json:"batch"`
	// Segment is the number of the segment that starts with this checkpoint, 0
	// for others.
	Segment int `json:"segment,omitempty"`
	// Closed says that the writer closed the log here.
	Closed bool `json:"closed,omitempty"`
	// Text is the signed note.
	Text []byte `json:"-"`
}

const (
	checkpointPrefix = `{"checkpoint":`
	batchPrefix      = "batch "
	segmentLine      = "segment "
	closedLine       = "closed"
	maxCheckpoint    = 64 << 10 // witnesses add signatures
)

var errCheckpointForm = errors.New("not a checkpoint")

// ParseCheckpoint verifies the signature of a checkpoint under a verifier key
// ([Log.VerifierKey]) and decodes it. Signatures by others, such as witnesses,
// are allowed and not checked.
func ParseCheckpoint(text []byte, key string) (Checkpoint, error) {
	v, err := note.NewVerifier(key)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: verifier key: %w", ErrKey, err)
	}
	c, err := parseCheckpoint(text)
	if err != nil {
		return Checkpoint{}, err
	}
	if err := c.verify(v); err != nil {
		return Checkpoint{}, err
	}
	return c, nil
}

// verify checks that v signed the checkpoint and that it is about v's log.
func (c Checkpoint) verify(v note.Verifier) error {
	if c.Origin != v.Name() {
		return fmt.Errorf("%w: it is about the log %q, the key is of %q", errCheckpointForm, c.Origin, v.Name())
	}
	if _, err := note.Open(c.Text, note.VerifierList(v)); err != nil {
		return fmt.Errorf("%w: %w", errCheckpointForm, err)
	}
	return nil
}

// body returns the text that is signed.
func (c Checkpoint) body() string {
	var b strings.Builder
	b.WriteString(c.Origin)
	b.WriteByte('\n')
	b.WriteString(strconv.FormatUint(c.Size, 10))
	b.WriteByte('\n')
	b.WriteString(c.Root.String())
	b.WriteString("\n" + batchPrefix)
	b.WriteString(strconv.FormatUint(c.Batch, 10))
	b.WriteByte('\n')
	if c.Segment != 0 {
		b.WriteString(segmentLine + strconv.Itoa(c.Segment) + "\n")
	}
	if c.Closed {
		b.WriteString(closedLine + "\n")
	}
	return b.String()
}

// sign sets Text.
func (c *Checkpoint) sign(s note.Signer) (err error) {
	c.Text, err = note.Sign(&note.Note{Text: c.body()}, s)
	return err
}

// parseCheckpoint decodes a checkpoint without checking signatures. Only the
// one spelling of each value is accepted.
func parseCheckpoint(text []byte) (Checkpoint, error) {
	if len(text) > maxCheckpoint {
		return Checkpoint{}, fmt.Errorf("%w: longer than %d bytes", errCheckpointForm, maxCheckpoint)
	}
	head, _, ok := bytes.Cut(text, []byte("\n\n"))
	if !ok {
		return Checkpoint{}, fmt.Errorf("%w: no signature", errCheckpointForm)
	}
	lines := strings.Split(string(head), "\n")
	if len(lines) < 4 || len(lines) > 5 {
		return Checkpoint{}, fmt.Errorf("%w: %d lines", errCheckpointForm, len(lines))
	}
	c := Checkpoint{Origin: lines[0], Text: text}
	var err error
	if len(lines) == 5 {
		if c.Closed = lines[4] == closedLine; !c.Closed {
			c.Segment, err = strconv.Atoi(strings.TrimPrefix(lines[4], segmentLine))
			if err != nil || c.Segment < 1 || c.Segment > maxSegments {
				return Checkpoint{}, fmt.Errorf("%w: segment", errCheckpointForm)
			}
		}
	}
	if c.Size, err = strconv.ParseUint(lines[1], 10, 64); err != nil || c.Size > math.MaxInt64 {
		return Checkpoint{}, fmt.Errorf("%w: size", errCheckpointForm)
	}
	if c.Root, err = tlog.ParseHash(lines[2]); err != nil {
		return Checkpoint{}, fmt.Errorf("%w: root", errCheckpointForm)
	}
	if c.Batch, err = strconv.ParseUint(strings.TrimPrefix(lines[3], batchPrefix), 10, 64); err != nil {
		return Checkpoint{}, fmt.Errorf("%w: batch", errCheckpointForm)
	}
	if c.body() != string(head)+"\n" {
		return Checkpoint{}, fmt.Errorf("%w: unusual spelling", errCheckpointForm)
	}
	return c, nil
}

// A header is the checkpoint that starts a segment, with what a reader needs to
// go on from there: it can verify a log from the start of any segment.
type header struct {
	// Key is the verifier key of this checkpoint and of those after it.
	Key string `json:"key"`
	// Tree are the roots of the perfect subtrees over the records before the
	// segment, largest first. Their hash is the checkpoint's root.
	Tree []tlog.Hash `json:"tree"`
}

// appendLine appends the checkpoint as a line of the log, without its newline.
// The first of a segment comes with its header.
func (c Checkpoint) appendLine(dst []byte, h *header) []byte {
	dst = append(dst, checkpointPrefix...)
	enc, _ := json.Marshal(string(c.Text)) // a string always marshals
	dst = append(dst, enc...)
	if h != nil {
		enc, _ = json.Marshal(h)
		dst = append(dst, ',')
		return append(dst, enc[1:]...)
	}
	return append(dst, '}')
}

// parseCheckpointLine decodes a line of the log that holds a checkpoint. The
// log's own signature is the only one there, so that every byte is accounted
// for: no second spelling of the same bytes is accepted.
func parseCheckpointLine(line []byte) (Checkpoint, *header, error) {
	var v struct {
		Checkpoint string `json:"checkpoint"`
		header
	}
	if err := json.Unmarshal(line, &v); err != nil {
		return Checkpoint{}, nil, fmt.Errorf("%w: %w", errCheckpointForm, err)
	}
	c, err := parseCheckpoint([]byte(v.Checkpoint))
	if err != nil {
		return Checkpoint{}, nil, err
	}
	_, sig, _ := strings.Cut(v.Checkpoint, "\n\n")
	name, b64, ok := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(sig, "— "), "\n"), " ")
	raw, err := base64.StdEncoding.DecodeString(b64)
	if !ok || err != nil || "— "+name+" "+base64.StdEncoding.EncodeToString(raw)+"\n" != sig || name != c.Origin {
		return Checkpoint{}, nil, fmt.Errorf("%w: it must carry exactly the log's own signature", errCheckpointForm)
	}
	var h *header
	if c.Segment != 0 {
		h = &v.header
		if h.Tree == nil {
			return Checkpoint{}, nil, fmt.Errorf("%w: no tree", errCheckpointForm)
		}
		if err := checkVerifierKey(h.Key); err != nil {
			return Checkpoint{}, nil, fmt.Errorf("%w: key: %w", errCheckpointForm, err)
		}
	}
	if !bytes.Equal(c.appendLine(nil, h), line) {
		return Checkpoint{}, nil, fmt.Errorf("%w: unusual spelling", errCheckpointForm)
	}
	return c, h, nil
}

// Checkpoint publishes the newest checkpoint to the anchors and returns it. It
// covers every record that was acknowledged before the call: those that gather in
// line, as in [BestEffort], are made durable first. Only denials of a flood that are
// still being counted come later, with their count. If the records cannot be made
// durable, or ctx ends before they are, the checkpoint that there is comes with the
// error.
func (l *Log) Checkpoint(ctx context.Context) (Checkpoint, error) {
	if l == nil {
		return Checkpoint{}, ErrNoLog
	}
	err := l.catchUp(ctx)
	l.mu.Lock()
	cp := l.last
	l.mu.Unlock()
	return cp, errors.Join(err, l.publish(ctx))
}

// catchUp returns when all is durable that is in line or on its way.
func (l *Log) catchUp(ctx context.Context) error {
	l.mu.Lock()
	b, err := l.open, l.failed
	if len(b.ends) == 0 {
		b = l.committing // or nil
	}
	l.mu.Unlock()
	if err != nil || b == nil {
		return err
	}
	return l.wait(ctx, b)
}
