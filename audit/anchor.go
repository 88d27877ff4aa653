package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/mod/sumdb/tlog"
)

// An Anchor keeps checkpoints where the writer of the log cannot change them: a
// file on another machine's disk, a witness, a colleague's mailbox. It is what
// turns "this log is consistent" into "this log is the one that was written".
type Anchor interface {
	// Publish returns once the checkpoint, a signed note, is kept. It bounds its
	// own time when ctx has no deadline.
	Publish(ctx context.Context, checkpoint []byte) error
}

// An AnchorReader is an Anchor that can be asked for the newest checkpoint it
// keeps, nil if none. Opening a log compares the two: a log that is older than
// its anchor was rolled back.
type AnchorReader interface {
	Anchor
	Latest(ctx context.Context) ([]byte, error)
}

// A ProofAnchor is an Anchor that takes a checkpoint only with the proof that the
// log did nothing but grow since the one it took before. [Witness] is one.
type ProofAnchor interface {
	Anchor
	// PublishProof is Publish for such an anchor. grown returns the RFC 6962
	// consistency proof from the log's first old records to the checkpoint.
	PublishProof(ctx context.Context, checkpoint []byte, grown func(old uint64) ([]tlog.Hash, error)) error
}

// A PathAnchor is an Anchor that keeps things in files or folders of this machine.
// [Open] refuses one that has any in the log's folder.
type PathAnchor interface {
	Anchor
	Paths() []string
}

// FileAnchor keeps the newest checkpoint in a file, replaced as a whole. The
// file must lie outside the log's folder, or [Open] refuses.
//
// Whatever the log's writer can replace is no protection from that writer, or
// from who has taken the host over: the file counts only if the disk it is on
// keeps what was there before (another machine's, with snapshots). Without such a
// disk let another uid or host fetch the checkpoints, with "twinward-audit
// anchor": see [CheckAnchorFile].
func FileAnchor(path string) AnchorReader { return fileAnchor(path) }

type fileAnchor string

func (a fileAnchor) Publish(_ context.Context, checkpoint []byte) error {
	return writeFileAtomic(string(a), checkpoint)
}

func (a fileAnchor) Latest(context.Context) ([]byte, error) {
	f, err := os.Open(string(a))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxCheckpoint+1))
}

// Paths implements [PathAnchor].
func (a fileAnchor) Paths() []string { return []string{string(a)} }

// outside returns an error if something of the anchor lies in the log's folder.
func outside(dir string, a Anchor) error {
	pa, ok := a.(PathAnchor)
	if !ok {
		return nil
	}
	for _, path := range pa.Paths() {
		in, err := inside(dir, path)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrAnchor, err)
		}
		if in {
			return fmt.Errorf("%w: %s lies inside the log's folder %s, where it proves nothing: choose a place that the log's writer cannot replace", ErrAnchor, path, dir)
		}
	}
	return nil
}
