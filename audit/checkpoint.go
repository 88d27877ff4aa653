package audit

import (
	"bytes"
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
// lines the number of the batch and, after a clean Close, "closed".
type Checkpoint struct {
	Origin string    `json:"origin"` // name of the log, and of its key
	Size   uint64    `json:"size"`   // number of records
	Root   tlog.Hash `json:"root"`   // RFC 6962 root of these records
	// Batch numbers the checkpoints of a log from 1, so that none can be taken
	// out or repeated.
	Batch uint64 `json:"batch"`
	// Closed says that the writer closed the log here.
	Closed bool `json:"closed,omitempty"`
	// Text is the signed note.
	Text []byte `json:"-"`
}

const (
	checkpointPrefix = `{"checkpoint":`
	batchPrefix      = "batch "
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
	c := Checkpoint{Origin: lines[0], Closed: len(lines) == 5, Text: text}
	var err error
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

// appendLine appends the checkpoint as a line of the log, without its newline.
func (c Checkpoint) appendLine(dst []byte) []byte {
	dst = append(dst, checkpointPrefix...)
	enc, _ := json.Marshal(string(c.Text)) // a string always marshals
	dst = append(dst, enc...)
	return append(dst, '}')
}

// parseCheckpointLine decodes a line of the log that holds a checkpoint. The
// log's own signature is the only one there, so that every byte is accounted
// for: no second spelling of the same bytes is accepted.
func parseCheckpointLine(line []byte) (Checkpoint, error) {
	enc, ok := bytes.CutPrefix(line, []byte(checkpointPrefix))
	if !ok || !bytes.HasSuffix(enc, []byte("}")) {
		return Checkpoint{}, errCheckpointForm
	}
	var text string
	if err := json.Unmarshal(enc[:len(enc)-1], &text); err != nil {
		return Checkpoint{}, fmt.Errorf("%w: %w", errCheckpointForm, err)
	}
	c, err := parseCheckpoint([]byte(text))
	if err != nil {
		return Checkpoint{}, err
	}
	_, sig, _ := strings.Cut(text, "\n\n")
	name, b64, ok := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(sig, "— "), "\n"), " ")
	raw, err := base64.StdEncoding.DecodeString(b64)
	if !ok || err != nil || "— "+name+" "+base64.StdEncoding.EncodeToString(raw)+"\n" != sig || name != c.Origin {
		return Checkpoint{}, fmt.Errorf("%w: it must carry exactly the log's own signature", errCheckpointForm)
	}
	if !bytes.Equal(c.appendLine(nil), line) {
		return Checkpoint{}, fmt.Errorf("%w: unusual spelling", errCheckpointForm)
	}
	return c, nil
}
