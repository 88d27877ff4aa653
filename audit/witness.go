package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// WitnessOptions configure a [Witness].
type WitnessOptions struct {
	// File keeps the newest checkpoint with the witness's cosignature, for the
	// auditor: [VerifyOptions.Anchors] together with [VerifyOptions.Witnesses]. It
	// may lie anywhere outside the log's folder, since nobody but the witness can
	// make one. Required.
	File string
	// Client makes the requests. Nil means one that waits 10 seconds and follows no
	// redirects.
	Client *http.Client
}

// Witness is an [Anchor] that is a C2SP witness
// (https://c2sp.org/tlog-witness): a service of somebody else's that remembers
// the newest checkpoint of the log, takes a next one only with the proof that the
// log did nothing but grow, and signs what it took. So a witness finds that the
// log was rewritten or rolled back when it is told the next checkpoint, and the
// cosigned checkpoint shows it to whoever verifies the log later.
//
// The address is the witness's submission prefix, vkey its verifier key, of type
// 4 (Ed25519 cosignature). The witness must know the log's verifier key.
func Witness(address, vkey string, opts WitnessOptions) (ProofAnchor, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%w: the witness's address %q is no http(s) URL", ErrAnchor, address)
	}
	c, err := newCosigner(vkey)
	if err != nil {
		return nil, err
	}
	if opts.File == "" {
		return nil, fmt.Errorf("%w: a witness needs a file for what it has signed", ErrAnchor)
	}
	if opts.Client == nil {
		opts.Client = &http.Client{
			Timeout:       10 * time.Second,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return &witness{url: u.JoinPath("add-checkpoint").String(), key: c, file: fileAnchor(opts.File), client: opts.Client}, nil
}

type witness struct {
	url    string
	key    *cosigner
	file   fileAnchor
	client *http.Client

	mu   sync.Mutex
	size uint64 // records in the newest checkpoint that it is known to have signed
	read bool   // the file, which says so after a restart
}

// Paths implements [PathAnchor].
func (w *witness) Paths() []string { return w.file.Paths() }

// Latest implements [AnchorReader]. It is the newest that the file keeps.
func (w *witness) Latest(ctx context.Context) ([]byte, error) { return w.file.Latest(ctx) }

// Publish implements [Anchor]. A witness takes only the first checkpoint so.
func (w *witness) Publish(ctx context.Context, checkpoint []byte) error {
	return w.PublishProof(ctx, checkpoint, func(old uint64) ([]tlog.Hash, error) {
		if old == 0 {
			return nil, nil
		}
		return nil, errors.New("a witness asks for proofs")
	})
}

// PublishProof implements [ProofAnchor].
func (w *witness) PublishProof(ctx context.Context, checkpoint []byte, grown func(uint64) ([]tlog.Hash, error)) error {
	cp, err := parseCheckpoint(checkpoint)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	old := w.known(ctx, cp)
	for range 3 { // others may submit the log's checkpoints, too
		proof, err := grown(old)
		if err != nil {
			return err
		}
		line, its, err := w.submit(ctx, checkpoint, old, proof)
		switch {
		case err != nil:
			return err
		case line != "":
			if err := w.file.Publish(ctx, append(bytes.Clone(checkpoint), line...)); err != nil {
				return fmt.Errorf("keeping what the witness signed: %w", err)
			}
			w.size = cp.Size
			return nil
		case its > maxWitnessed:
			return fmt.Errorf("the witness %s says that it has signed %d records, which no log has", w.key.name, its)
		case its > cp.Size:
			return tamperedf("the witness %s has signed %d records of it, there are %d: it was cut off or rolled back", w.key.name, its, cp.Size)
		case its == old && cp.Size == old:
			return tamperedf("the witness %s has signed other records than its first %d: it was rewritten", w.key.name, its)
		}
		old = its
	}
	return fmt.Errorf("the witness %s changes its mind about the size of the log", w.key.name)
}

// known is the size that the witness is expected to have signed.
func (w *witness) known(ctx context.Context, cp Checkpoint) uint64 {
	if !w.read {
		w.read = true
		text, err := w.file.Latest(ctx)
		if kept, perr := parseCheckpoint(text); err == nil && perr == nil && kept.Origin == cp.Origin {
			w.size = kept.Size
		}
	}
	if w.size > cp.Size {
		return 0 // the witness will say what it knows
	}
	return w.size
}

// maxWitnessed is more records than a log ever has. A number is no proof: one above
// it says something about the witness and nothing about the log.
const maxWitnessed = 1 << 40

// maxWitnessBody bounds what is read of an answer.
const maxWitnessBody = 16 << 10

// submit makes one request. It returns the witness's signature line, or the size
// that the witness knows instead of old.
func (w *witness) submit(ctx context.Context, checkpoint []byte, old uint64, proof []tlog.Hash) (line string, its uint64, err error) {
	var body bytes.Buffer
	fmt.Fprintf(&body, "old %d\n", old)
	for _, h := range proof {
		body.WriteString(h.String() + "\n")
	}
	body.WriteByte('\n')
	body.Write(checkpoint)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, &body)
	if err != nil {
		return "", 0, err
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return "", 0, fmt.Errorf("the witness %s: %w", w.key.name, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxWitnessBody))
	if err != nil {
		return "", 0, fmt.Errorf("the witness %s: %w", w.key.name, err)
	}
	switch resp.StatusCode {
	case http.StatusOK:
		// What other keys signed is not kept: nobody here can tell what it is.
		if _, line, err = w.key.open(append(bytes.Clone(checkpoint), answer...)); err != nil {
			return "", 0, err
		}
		// An answer with an empty line in it would be a signature of another text.
		if _, _, err = w.key.open(append(bytes.Clone(checkpoint), line...)); err != nil {
			return "", 0, err
		}
		return line, 0, nil
	case http.StatusConflict:
		digits, ok := strings.CutSuffix(string(answer), "\n")
		its, err = strconv.ParseUint(digits, 10, 63)
		if ok && err == nil && strconv.FormatUint(its, 10) == digits {
			return "", its, nil
		}
		// At equal sizes a conflict is about the root, and says no size.
		if cp, perr := parseCheckpoint(checkpoint); perr == nil && cp.Size == old {
			return "", old, nil
		}
		return "", 0, fmt.Errorf("the witness %s has a conflict and does not say what size it knows", w.key.name)
	case http.StatusForbidden:
		return "", 0, fmt.Errorf("the witness %s does not trust the log's key: give it the log's verifier key", w.key.name)
	case http.StatusNotFound:
		return "", 0, fmt.Errorf("the witness %s does not know the log, or the address is not its submission prefix", w.key.name)
	case http.StatusUnprocessableEntity:
		return "", 0, tamperedf("the witness %s has signed other records than its first %d: it was rewritten", w.key.name, old)
	}
	return "", 0, fmt.Errorf("the witness %s answered with status %d", w.key.name, resp.StatusCode)
}
