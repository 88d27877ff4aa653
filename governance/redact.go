package governance

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Redacted stands where a [Redaction] blanked a value.
const Redacted = "[redacted]"

// The limits of a [Redaction].
const (
	maxRedaction = 1 << 10 // bytes of text
	maxPaths     = 64
	maxSegments  = 16
)

// A Redaction names places in a JSON document. The zero Redaction names none.
// It is immutable.
type Redaction struct{ paths []jsonPath }

// A jsonPath is a list of steps down from the root.
type jsonPath struct {
	text  string
	steps []jsonStep
}

// A jsonStep leads to a member by name or to every child, at once below or at
// any depth.
type jsonStep struct {
	name        string
	every, deep bool
}

// ParseRedaction reads JSONPath expressions separated by commas, such as
//
//	$.customer.email, $.items[*].ssn, $..token, $['odd name']
//
// Of RFC 9535 it knows the root, members by name (in both notations), the
// wildcard, and descendants. Filters, slices, lists and indexes are errors: what
// is blanked must not depend on order or content.
func ParseRedaction(text string) (Redaction, error) {
	if len(text) > maxRedaction {
		return Redaction{}, fmt.Errorf("longer than %d bytes", maxRedaction)
	}
	var out Redaction
	for rest := text; ; {
		p, tail, err := parsePath(strings.TrimLeft(rest, " "))
		if err != nil {
			return Redaction{}, err
		}
		out = out.union(Redaction{paths: []jsonPath{p}})
		tail = strings.TrimLeft(tail, " ")
		if tail == "" {
			break
		}
		if tail[0] != ',' {
			return Redaction{}, fmt.Errorf("want a comma or the end before %q", clip(tail))
		}
		rest = tail[1:]
	}
	if len(out.paths) > maxPaths {
		return Redaction{}, fmt.Errorf("more than %d paths", maxPaths)
	}
	return out, nil
}

// union names the places of both. A decision has few permits, so its number of
// paths needs no limit.
func (r Redaction) union(o Redaction) Redaction {
	out := slices.Clone(r.paths)
	for _, p := range o.paths {
		if !slices.ContainsFunc(out, func(q jsonPath) bool { return q.text == p.text }) {
			out = append(out, p)
		}
	}
	return Redaction{out}
}

// Empty reports whether r names no places.
func (r Redaction) Empty() bool { return len(r.paths) == 0 }

// String is the redaction in the form that [ParseRedaction] reads.
func (r Redaction) String() string {
	texts := make([]string, len(r.paths))
	for i, p := range r.paths {
		texts[i] = p.text
	}
	return strings.Join(texts, ", ")
}

func parsePath(s string) (p jsonPath, rest string, err error) {
	rest, ok := strings.CutPrefix(s, "$")
	if !ok {
		return p, "", errors.New(`want a JSONPath, such as "$.customer.email"`)
	}
	for rest != "" && (rest[0] == '.' || rest[0] == '[') {
		var step jsonStep
		switch {
		case strings.HasPrefix(rest, "..["):
			step.deep, rest = true, rest[2:]
		case strings.HasPrefix(rest, ".."):
			step.deep, rest = true, rest[1:]
		}
		if rest[0] == '[' {
			step.name, step.every, rest, err = bracket(rest)
		} else {
			step.name, step.every, rest, err = dotted(rest[1:])
		}
		if err != nil {
			return p, "", err
		}
		p.steps = append(p.steps, step)
	}
	switch {
	case len(p.steps) == 0:
		return p, "", errors.New("a path must lead somewhere below $")
	case len(p.steps) > maxSegments:
		return p, "", fmt.Errorf("a path of more than %d steps", maxSegments)
	}
	p.text = s[:len(s)-len(rest)]
	return p, rest, nil
}

// dotted reads what follows a dot: a name or *.
func dotted(s string) (name string, every bool, rest string, err error) {
	if strings.HasPrefix(s, "*") {
		return "", true, s[1:], nil
	}
	n := 0
	for n < len(s) && (isWord(s[n]) || s[n] >= 0x80) {
		n++
	}
	if n == 0 || s[0] >= '0' && s[0] <= '9' {
		return "", false, "", fmt.Errorf("want a name or * before %q; write other names as ['…']", clip(s))
	}
	return s[:n], false, s[n:], nil
}

// bracket reads [*], ['name'] or ["name"].
func bracket(s string) (name string, every bool, rest string, err error) {
	if rest, ok := strings.CutPrefix(s, "[*]"); ok {
		return "", true, rest, nil
	}
	if len(s) < 2 || s[1] != '\'' && s[1] != '"' {
		return "", false, "", fmt.Errorf("want [*] or ['name'] at %q", clip(s))
	}
	quote := s[1]
	var b strings.Builder
	for i := 2; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s) && (s[i+1] == '\\' || s[i+1] == quote):
			i++
			b.WriteByte(s[i])
		case c == '\\' || c < ' ':
			return "", false, "", errors.New(`in a quoted name only the quote and \ may be escaped`)
		case c == quote:
			if rest, ok := strings.CutPrefix(s[i+1:], "]"); ok {
				return b.String(), false, rest, nil
			}
			return "", false, "", fmt.Errorf("want ] at %q", clip(s[i+1:]))
		default:
			b.WriteByte(c)
		}
	}
	return "", false, "", errors.New("a quoted name that does not end")
}

// Apply returns a JSON document with the named places blanked, and how many
// there were. Anything that is not one JSON document is an error: what cannot
// be read cannot be blanked, and has to be withheld as a whole. Every member of
// a repeated name is blanked.
func (r Redaction) Apply(doc []byte) (out []byte, blanked int, err error) {
	if r.Empty() {
		return doc, 0, nil
	}
	var buf bytes.Buffer
	w := redactor{
		Redaction: r,
		dec:       jsontext.NewDecoder(bytes.NewReader(doc), jsontext.AllowDuplicateNames(true)),
		enc:       jsontext.NewEncoder(&buf, jsontext.AllowDuplicateNames(true), jsontext.PreserveRawStrings(true)),
	}
	start := make([]uint32, len(r.paths))
	for i := range start {
		start[i] = 1
	}
	if err := w.value(start); err != nil {
		return nil, 0, fmt.Errorf("governance: redact: %w", err)
	}
	if _, err := w.dec.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, 0, errors.New("governance: redact: more than one JSON document")
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), w.blanked, nil
}

type redactor struct {
	Redaction
	dec     *jsontext.Decoder
	enc     *jsontext.Encoder
	blanked int
}

// value copies the next value. For each path, at has a bit for every step that
// may come next.
func (w *redactor) value(at []uint32) error {
	switch kind := w.dec.PeekKind(); kind {
	case '{', '[':
		if err := w.token(); err != nil {
			return err
		}
		for w.dec.PeekKind() != '}' && w.dec.PeekKind() != ']' {
			name, isMember := "", kind == '{'
			if isMember {
				t, err := w.dec.ReadToken()
				if err != nil {
					return err
				}
				name = t.String()
				if err := w.enc.WriteToken(t); err != nil {
					return err
				}
			}
			next, hit := w.down(at, name, isMember)
			if !hit {
				if err := w.value(next); err != nil {
					return err
				}
				continue
			}
			w.blanked++
			if err := w.dec.SkipValue(); err != nil {
				return err
			}
			if err := w.enc.WriteToken(jsontext.String(Redacted)); err != nil {
				return err
			}
		}
		return w.token()
	default:
		v, err := w.dec.ReadValue()
		if err != nil {
			return err
		}
		return w.enc.WriteValue(v)
	}
}

func (w *redactor) token() error {
	t, err := w.dec.ReadToken()
	if err != nil {
		return err
	}
	return w.enc.WriteToken(t)
}

// down takes all paths one step, to a member or an element, and reports whether
// one of them ends there.
func (w *redactor) down(at []uint32, name string, isMember bool) (next []uint32, hit bool) {
	next = make([]uint32, len(at))
	for i, p := range w.paths {
		for j, step := range p.steps {
			if at[i]&(1<<j) == 0 {
				continue
			}
			if step.deep {
				next[i] |= 1 << j
			}
			if step.every || isMember && step.name == name {
				next[i] |= 1 << (j + 1)
				hit = hit || j+1 == len(p.steps)
			}
		}
	}
	return next, hit
}
