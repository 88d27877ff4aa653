package credential

import (
	"bytes"
	"slices"
	"strings"
)

// A via says which escaping was undone before a secret came to light.
type via uint8

const (
	direct via = iota
	viaJSON
	viaNested // JSON in a JSON string
	viaPercent
	viaJSONPercent
	viaNestedPercent
	twice // added to the three above: percent-encoded twice, as a URL in a URL is
)

// The suffixes of [Sight.Encoding].
var vias = [...]string{"", "/json", "/json/json", "/percent", "/percent/json", "/percent/json/json",
	viaPercent + twice: "/percent/percent", viaJSONPercent + twice: "/percent/percent/json", viaNestedPercent + twice: "/percent/percent/json/json"}

// A filter scrubs a text that comes in pieces. Its result does not depend on
// how the text was cut.
type filter struct {
	scrubber  *Scrubber
	countOnly bool
	held      []byte // text not given out yet; begins with a token of every view
	base      int    // position of held in the whole text
	covered   int    // so many bytes of held belong to a secret that was replaced
	found     Found
	until     map[string]int // where the last counted secret of a name ended
	json      view           // of the text
	nested    view           // JSON inside the strings of json
	leaf      view           // scratch for percent-encoding
	leafTwice view
	spans     []span
}

// reset makes a filter ready for another text, and keeps nothing of this one
// that held a secret.
func (f *filter) reset() {
	if f.found != nil {
		*f = filter{}
		return
	}
	clear(f.spans[:cap(f.spans)])
	*f = filter{
		held: f.held[:0], spans: f.spans[:0],
		json: f.json, nested: f.nested, leaf: f.leaf, leafTwice: f.leafTwice,
	}
}

// push adds text and appends to out what is certain. Final says that nothing
// follows.
func (f *filter) push(out, text []byte, final bool) []byte {
	f.scrubber.mu.RLock()
	defer f.scrubber.mu.RUnlock()
	x := f.scrubber.index
	if len(f.held) > 0 {
		f.held = append(f.held, text...)
		text = f.held
	}
	if x == nil && len(f.held) == 0 {
		if f.base += len(text); f.countOnly {
			return out
		}
		return append(out, text...)
	}
	if x == nil {
		x = newIndex()
	}
	cut := f.search(x, text, final)

	slices.SortFunc(f.spans, func(a, b span) int {
		if a.start != b.start {
			return a.start - b.start
		}
		if a.end != b.end {
			return b.end - a.end // the longest names the replacement
		}
		if c := strings.Compare(a.pattern.ref.Name, b.pattern.ref.Name); c != 0 {
			return c
		}
		return int(a.via) - int(b.via)
	})
	done := f.covered
	for _, s := range f.spans {
		if s.start >= cut {
			break
		}
		f.count(s)
		if s.start >= done && !f.countOnly {
			out = append(out, text[done:s.start]...)
			out = appendMark(out, s.pattern.ref)
		}
		done = max(done, s.end)
	}
	if done < cut {
		if !f.countOnly {
			out = append(out, text[done:cut]...)
		}
		done = cut
	}
	f.covered = done - cut
	f.base += cut
	f.held = append(f.held[:0], text[cut:]...)
	return out
}

// count counts s unless it overlaps one of the same name: two forms of a
// secret in one place are one sight of it.
func (f *filter) count(s span) {
	p := s.pattern
	if f.found == nil {
		f.found, f.until = make(Found), make(map[string]int)
	}
	if f.base+s.start >= f.until[p.ref.Name] {
		f.found[Sight{Ref: p.ref, Encoding: p.form + vias[s.via]}]++
	}
	f.until[p.ref.Name] = max(f.until[p.ref.Name], f.base+s.end)
}

// search finds the secrets in text and in its views, and returns how much of
// text is certain: no secret that starts before can still come to light.
func (f *filter) search(x *index, text []byte, final bool) (cut int) {
	f.spans = x.find(text, direct, f.spans[:0])
	hold := x.partial
	if final {
		hold = func(text []byte) int { return len(text) }
	}
	cut = hold(text)
	escaped := bytes.IndexByte(text, '\\') >= 0
	doubly := false
	if escaped {
		f.json.fill(text, '\\', backslash, final)
		from := len(f.spans)
		f.spans = x.find(f.json.bytes, viaJSON, f.spans)
		certain := hold(f.json.bytes)
		if doubly = bytes.IndexByte(f.json.bytes, '\\') >= 0; doubly {
			f.nested.fill(f.json.bytes, '\\', backslash, final)
			from := len(f.spans)
			f.spans = x.find(f.nested.bytes, viaNested, f.spans)
			sure := min(hold(f.nested.bytes), f.percent(x, f.nested.bytes, viaNestedPercent, hold, final))
			f.toSource(&f.nested, from)
			certain = min(certain, f.nested.start(sure))
		}
		certain = min(certain, f.percent(x, f.json.bytes, viaJSONPercent, hold, final))
		f.toSource(&f.json, from)
		cut = min(cut, f.json.start(certain))
	}
	cut = min(cut, f.percent(x, text, viaPercent, hold, final))
	if final {
		cut = len(text)
	}
	if escaped {
		// Never cut or replace a part of an escape sequence.
		cut = f.tokenStart(cut, doubly)
		f.covered = f.json.ceil(f.covered, len(text))
		for i, s := range f.spans {
			f.spans[i].start = f.json.start(f.json.index(s.start))
			f.spans[i].end = f.json.ceil(s.end, len(text))
		}
	}
	return cut
}

// percent searches the percent-decoded view of text, and returns how much of
// text is certain.
func (f *filter) percent(x *index, text []byte, v via, hold func([]byte) int, final bool) int {
	if bytes.IndexByte(text, '%') < 0 {
		return len(text)
	}
	f.leaf.fill(text, '%', percent, final)
	from := len(f.spans)
	f.spans = x.find(f.leaf.bytes, v, f.spans)
	certain := hold(f.leaf.bytes)
	if bytes.IndexByte(f.leaf.bytes, '%') >= 0 {
		f.leafTwice.fill(f.leaf.bytes, '%', percent, final)
		from := len(f.spans)
		f.spans = x.find(f.leafTwice.bytes, v+twice, f.spans)
		f.toSource(&f.leafTwice, from)
		certain = min(certain, f.leafTwice.start(hold(f.leafTwice.bytes)))
	}
	f.toSource(&f.leaf, from)
	return f.leaf.start(certain)
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
	i := f.json.index(cut)
	if doubly {
		i = f.nested.start(f.nested.index(i))
	}
	return f.json.start(i)
}

// appendMark appends what stands in the place of a secret. It does not say that
// a canary is one.
func appendMark(out []byte, ref Ref) []byte {
	out = append(out, "[redacted:"...)
	name := strings.TrimPrefix(ref.Name, CanaryPrefix)
	for _, c := range []byte(name[:min(len(name), 64)]) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			c = '_'
		}
		out = append(out, c)
	}
	return append(out, ']')
}
