package credential

import (
	"fmt"
	"io"
	"maps"
	"sync"
)

// A Scrubber finds known secrets in text and puts "[redacted:<name>]" in their
// place. The zero Scrubber knows none. It is safe for concurrent use, also
// while secrets are added.
//
// A secret is found as it is, in hexadecimal (all lower or all upper case), in
// both base64 alphabets, padded or not, at any alignment; and each of these
// also percent-encoded once or twice (as a URL in a URL's query is),
// JSON-escaped, JSON-escaped twice (a JSON text inside a JSON string), or
// percent-encoded inside either, whichever characters are escaped. Not found is
// what was encrypted, compressed, split or reordered by whoever wrote it, base64
// broken into lines, characters written as HTML's entities, and UTF-16.
//
// The replacement has no character that needs escaping, and takes the place of
// whole escape sequences, so that a JSON text which held a secret inside a
// string stays a JSON text.
//
// A Scrubber keeps the forms of its secrets in memory until they are removed,
// also when a [Secret] is destroyed meanwhile: it must recognise a token that
// was revoked and still comes back.
//
// Searching costs little, whether one secret is known or a thousand, and so do
// adding and removing one. Secrets of 8 to 11 bytes, and what of them fits into
// so few in base64, take a second pass of the same speed.
type Scrubber struct {
	mu      sync.RWMutex
	index   *index    // nil while nothing is known
	filters sync.Pool // of *filter
}

// Add makes the scrubber know one more secret under a name; a name may have
// many. It returns [ErrLength] for a secret that is too short or too long to be
// searched for.
func (s *Scrubber) Add(name string, secret Secret) error {
	return s.AddVersion(Ref{Name: name}, secret)
}

// AddVersion is Add for one version of a credential, and for the tokens that
// were had for it.
func (s *Scrubber) AddVersion(ref Ref, secret Secret) error {
	return s.each(ref, secret, func(p *pattern) {
		if s.index == nil {
			s.index = newIndex()
		}
		s.index.add(p)
	})
}

// Remove forgets a secret that was added under ref, when it can do no harm any
// more: a token that expired an hour ago. What was added twice must be removed
// twice. It takes the bytes to find what to forget, so remove a secret before
// you destroy it. To remove what is not known is no error.
func (s *Scrubber) Remove(ref Ref, secret Secret) error {
	return s.each(ref, secret, func(p *pattern) {
		if s.index != nil {
			s.index.remove(p)
		}
		clear(p.bytes)
	})
}

// each calls f with every form of secret, and nobody searches meanwhile.
func (s *Scrubber) each(ref Ref, secret Secret, f func(*pattern)) error {
	err := secret.checkLength()
	if err == nil {
		var forms []*pattern
		err = secret.Use(func(b []byte) error {
			patternsOf(b, func(form string, b []byte) {
				forms = append(forms, &pattern{bytes: b, ref: ref, form: form})
			})
			return nil
		})
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, p := range forms {
			f(p)
		}
	}
	if err != nil {
		return fmt.Errorf("scrubber: %q: %w", ref.Name, err)
	}
	return nil
}

// piece is how much text is searched at once, which bounds the memory that a
// large body takes.
const piece = 64 << 10

// Redact returns b with every known secret replaced, and what was found. It
// returns b itself if nothing was, and never changes b.
func (s *Scrubber) Redact(b []byte) ([]byte, Found) {
	if _, found := s.all(b, nil); len(found) == 0 {
		return b, nil
	}
	return s.all(b, make([]byte, 0, len(b)))
}

// Count returns how often the secrets of each name occur in b, without
// changing it. It is what a test searches captured bytes with.
func (s *Scrubber) Count(b []byte) map[string]int {
	_, found := s.all(b, nil)
	return found.Names()
}

// all scrubs b piece by piece, and appends the result to out unless that is
// nil.
func (s *Scrubber) all(b, out []byte) ([]byte, Found) {
	f, ok := s.filters.Get().(*filter)
	if !ok {
		f = new(filter)
	}
	f.scrubber, f.countOnly = s, out == nil
	for {
		n := min(len(b), piece)
		out = f.push(out, b[:n], n == len(b))
		if b = b[n:]; len(b) == 0 {
			break
		}
	}
	found := f.found
	f.reset()
	s.filters.Put(f)
	return out, found
}

// Reader returns a reader of r's text with every known secret replaced. Only
// what could be the beginning of a secret is held back until more is read, so
// that a stream without secrets flows as it comes.
func (s *Scrubber) Reader(r io.Reader) *ScrubReader {
	return &ScrubReader{src: r, filter: filter{scrubber: s}}
}

// A ScrubReader is made by [Scrubber.Reader]. It is for one reader at a time.
type ScrubReader struct {
	src    io.Reader
	filter filter
	chunk  []byte // for callers with little room
	out    []byte // scrubbed, not yet read
	err    error  // of src, once it has ended
	mu     sync.Mutex
	found  Found
}

// smallRead is the room below which a reader's own is used to read into.
const smallRead = 4 << 10

// Read implements io.Reader.
func (s *ScrubReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(s.out) == 0 {
		if s.err != nil {
			return 0, s.err
		}
		text := p
		if len(p) < smallRead {
			if s.chunk == nil {
				s.chunk = make([]byte, 4*smallRead)
			}
			text = s.chunk
		}
		n, err := s.src.Read(text)
		s.err = err
		s.out = s.filter.push(s.out[:0], text[:n], err != nil)
		clear(text[:n]) // a secret would stay in it
		s.mu.Lock()
		s.found = maps.Clone(s.filter.found)
		s.mu.Unlock()
	}
	n := copy(p, s.out)
	s.out = s.out[n:]
	return n, nil
}

// Found returns what was found in what has been read so far. It may be called
// while another goroutine reads.
func (s *ScrubReader) Found() Found {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.found)
}

// Writer returns a writer that passes on to w what is written to it, with every
// known secret replaced: for what a child process writes to its stderr, and
// under the handler of a log.
//
//	cmd.Stderr = vault.Scrubber().Writer(os.Stderr)
//	logger := slog.New(slog.NewJSONHandler(vault.Scrubber().Writer(os.Stderr), nil))
//
// Only what could be the beginning of a secret is held back, until more is
// written or the writer is closed.
func (s *Scrubber) Writer(w io.Writer) *ScrubWriter {
	return &ScrubWriter{dst: w, filter: filter{scrubber: s}}
}

// A ScrubWriter is made by [Scrubber.Writer]. It is safe for concurrent use.
type ScrubWriter struct {
	dst    io.Writer
	mu     sync.Mutex
	filter filter
	out    []byte
}

// Write implements io.Writer. The length is that of p, unless the writer below
// fails.
func (s *ScrubWriter) Write(p []byte) (int, error) {
	if err := s.push(p, false); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close passes on what was held back. It does not close the writer below.
func (s *ScrubWriter) Close() error { return s.push(nil, true) }

func (s *ScrubWriter) push(p []byte, final bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out = s.filter.push(s.out[:0], p, final)
	if len(s.out) == 0 {
		return nil
	}
	_, err := s.dst.Write(s.out)
	return err
}

// Found returns what was found in what has been written so far.
func (s *ScrubWriter) Found() Found {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.filter.found)
}
