package credential

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// A Scrubber finds known secrets in text and puts "[redacted:<name>]" in their
// place. The zero Scrubber knows none. It is safe for concurrent use, also
// while secrets are added.
//
// A secret is found as it is, in hexadecimal (all lower or all upper case), in
// both base64 alphabets, padded or not, at any alignment; and each of these
// also percent-encoded, JSON-escaped, JSON-escaped twice (a JSON text inside a
// JSON string), or percent-encoded inside a JSON string, whichever characters
// are escaped. Not found is what was encrypted, compressed, split or reordered
// by whoever wrote it, or base64 broken into lines.
//
// The replacement has no character that needs escaping, and takes the place of
// whole escape sequences, so that a JSON text which held a secret inside a
// string stays a JSON text.
//
// A Scrubber keeps the forms of its secrets in memory for as long as it lives,
// also when a [Secret] is destroyed meanwhile: it must recognise a token that
// was revoked and still comes back.
type Scrubber struct {
	mu  sync.Mutex // held by adders
	now atomic.Pointer[index]
}

// Add makes the scrubber know one more secret under a name; a name may have
// many, such as the versions of one credential. It returns [ErrLength] for a
// secret that is too short or too long to be searched for.
func (s *Scrubber) Add(name string, secret Secret) error {
	return s.addAll(map[string]Secret{name: secret})
}

// addAll adds those that can be added, and returns an error that names one of
// the others.
func (s *Scrubber) addAll(secrets map[string]Secret) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []pattern
	if old := s.now.Load(); old != nil {
		all = slices.Clone(old.patterns)
	}
	for name, secret := range secrets {
		e := secret.checkLength()
		if e == nil {
			e = secret.Use(func(b []byte) error {
				all = append(all, patternsOf(name, b)...)
				return nil
			})
		}
		if e != nil {
			err = fmt.Errorf("scrubber: %q: %w", name, e)
		}
	}
	if len(all) > 0 {
		s.now.Store(newIndex(all))
	}
	return err
}

// piece is how much text is searched at once, which bounds the memory that a
// large body takes.
const piece = 64 << 10

// Redact returns b with every known secret replaced, and how often each name
// was found. It returns b itself if nothing was, and never changes b.
func (s *Scrubber) Redact(b []byte) ([]byte, map[string]int) {
	if found := s.Count(b); len(found) == 0 {
		return b, nil
	}
	return s.all(b, make([]byte, 0, len(b)))
}

// Count returns how often the secrets of each name occur in b, without
// changing it. It is what a test searches captured bytes with.
func (s *Scrubber) Count(b []byte) map[string]int {
	x := s.now.Load()
	if x == nil || bytes.IndexByte(b, '\\') < 0 && bytes.IndexByte(b, '%') < 0 && len(x.find(b, nil)) == 0 {
		return nil // the usual case: no escapes, no secrets
	}
	_, found := s.all(b, nil)
	return found
}

// all scrubs b piece by piece, and appends the result to out unless that is
// nil.
func (s *Scrubber) all(b, out []byte) ([]byte, map[string]int) {
	f := filter{scrubber: s, countOnly: out == nil}
	for {
		n := min(len(b), piece)
		out = f.push(out, b[:n], n == len(b))
		if b = b[n:]; len(b) == 0 {
			return out, f.found
		}
	}
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
	chunk  []byte
	out    []byte // scrubbed, not yet read
	err    error  // of src, once it has ended
	mu     sync.Mutex
	found  map[string]int
}

// Read implements io.Reader.
func (s *ScrubReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if s.chunk == nil {
		s.chunk = make([]byte, 16<<10)
	}
	for len(s.out) == 0 {
		if s.err != nil {
			return 0, s.err
		}
		n, err := s.src.Read(s.chunk)
		s.err = err
		s.out = s.filter.push(s.out[:0], s.chunk[:n], err != nil)
		s.mu.Lock()
		s.found = maps.Clone(s.filter.found)
		s.mu.Unlock()
	}
	n := copy(p, s.out)
	s.out = s.out[n:]
	return n, nil
}

// Found returns how often each name was found in what has been read so far. It
// may be called while another goroutine reads.
func (s *ScrubReader) Found() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.found)
}

// A filter scrubs a text that comes in pieces. Its result does not depend on
// how the text was cut.
type filter struct {
	scrubber  *Scrubber
	countOnly bool
	buf       []byte // text not given out yet; begins with a token of every view
	base      int    // position of buf in the whole text
	covered   int    // so many bytes of buf belong to a secret that was replaced
	found     map[string]int
	until     map[string]int // where the last counted secret of a name ended
	json      view           // of buf
	nested    view           // JSON inside the strings of json
	leaf      view           // scratch for percent-encoding
	spans     []span
}

// push adds text and appends to out what is certain. Final says that nothing
// follows.
func (f *filter) push(out, text []byte, final bool) []byte {
	x := f.scrubber.now.Load()
	if x == nil && len(f.buf) == 0 {
		if f.countOnly {
			return out
		}
		return append(out, text...)
	}
	if x == nil {
		x = newIndex(nil)
	}
	f.buf = append(f.buf, text...)
	cut := f.search(x, final)

	slices.SortFunc(f.spans, func(a, b span) int {
		if a.start != b.start {
			return a.start - b.start
		}
		if a.end != b.end {
			return b.end - a.end // the longest names the replacement
		}
		return strings.Compare(a.name, b.name)
	})
	done := f.covered
	for _, s := range f.spans {
		if s.start >= cut {
			break
		}
		f.count(s)
		if s.start >= done && !f.countOnly {
			out = append(out, f.buf[done:s.start]...)
			out = appendMark(out, s.name)
		}
		done = max(done, s.end)
	}
	if done < cut {
		if !f.countOnly {
			out = append(out, f.buf[done:cut]...)
		}
		done = cut
	}
	f.covered = done - cut
	f.base += cut
	f.buf = append(f.buf[:0], f.buf[cut:]...)
	return out
}

// count counts s unless it overlaps one of the same name: two forms of a
// secret in one place are one sight of it.
func (f *filter) count(s span) {
	if f.found == nil {
		f.found, f.until = make(map[string]int), make(map[string]int)
	}
	if f.base+s.start >= f.until[s.name] {
		f.found[s.name]++
	}
	f.until[s.name] = max(f.until[s.name], f.base+s.end)
}

// search finds the secrets in buf and in its views, and returns how much of buf
// is certain: no secret that starts before can still come to light.
func (f *filter) search(x *index, final bool) (cut int) {
	f.spans = x.find(f.buf, f.spans[:0])
	cut = x.partial(f.buf)
	escaped := bytes.IndexByte(f.buf, '\\') >= 0
	doubly := false
	if escaped {
		f.json.fill(f.buf, '\\', backslash, final)
		from := len(f.spans)
		f.spans = x.find(f.json.bytes, f.spans)
		hold := x.partial(f.json.bytes)
		if doubly = bytes.IndexByte(f.json.bytes, '\\') >= 0; doubly {
			f.nested.fill(f.json.bytes, '\\', backslash, final)
			from := len(f.spans)
			f.spans = x.find(f.nested.bytes, f.spans)
			f.toSource(&f.nested, from)
			hold = min(hold, int(f.nested.at[x.partial(f.nested.bytes)]))
		}
		hold = min(hold, f.percent(x, f.json.bytes, final))
		f.toSource(&f.json, from)
		cut = min(cut, int(f.json.at[hold]))
	}
	cut = min(cut, f.percent(x, f.buf, final))
	if final {
		cut = len(f.buf)
	}
	if escaped {
		// Never cut or replace a part of an escape sequence.
		cut = f.tokenStart(cut, doubly)
		f.covered = f.json.ceil(f.covered, len(f.buf))
		for i, s := range f.spans {
			f.spans[i].start = int(f.json.at[f.json.floor(s.start)])
			f.spans[i].end = f.json.ceil(s.end, len(f.buf))
		}
	}
	return cut
}

// percent searches the percent-decoded view of text, and returns how much of
// text is certain.
func (f *filter) percent(x *index, text []byte, final bool) int {
	if bytes.IndexByte(text, '%') < 0 {
		return len(text)
	}
	f.leaf.fill(text, '%', percent, final)
	from := len(f.spans)
	f.spans = x.find(f.leaf.bytes, f.spans)
	f.toSource(&f.leaf, from)
	return int(f.leaf.at[x.partial(f.leaf.bytes)])
}

// toSource maps the spans from one on from a view to its text.
func (f *filter) toSource(v *view, from int) {
	for i, s := range f.spans[from:] {
		f.spans[from+i] = v.source(s)
	}
}

// tokenStart returns the last position up to cut at which a token begins, in
// the JSON view and in the one nested in it.
func (f *filter) tokenStart(cut int, doubly bool) int {
	i := f.json.floor(cut)
	if doubly {
		i = int(f.nested.at[f.nested.floor(i)])
	}
	return int(f.json.at[i])
}

// appendMark appends what stands in the place of a secret.
func appendMark(out []byte, name string) []byte {
	out = append(out, "[redacted:"...)
	for _, c := range []byte(name[:min(len(name), 64)]) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			c = '_'
		}
		out = append(out, c)
	}
	return append(out, ']')
}
