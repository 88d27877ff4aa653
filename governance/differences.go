package governance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/go-json-experiment/json/jsontext"
)

// A Difference is one place in which a tool's definition is not the approved
// one, for a person to look at.
type Difference struct {
	// At is the JSON Pointer (RFC 6901) of a leaf, such as "/description" or
	// "/inputSchema/properties/to/type".
	At string `json:"at"`
	// Old and New are the leaf's JSON in both definitions, empty where it is
	// absent. Characters that cannot be seen are escape sequences in them, and
	// what is long is cut.
	Old string `json:"old,omitempty"`
	New string `json:"new,omitempty"`
}

const (
	maxDifferences = 256
	maxLeaf        = 2048 // bytes
)

// Differences compares an approved definition with another one, leaf by leaf,
// sorted by place. More than 256 of them are cut off. It is empty exactly for
// definitions with the same [ToolDefinition.Pin]; text that is not strict JSON
// differs as a whole.
func (d ToolDefinition) Differences(other ToolDefinition) []Difference {
	was, now := d.leaves(), other.leaves()
	at := maps.Clone(was)
	maps.Copy(at, now)
	var out []Difference
	for _, p := range slices.Sorted(maps.Keys(at)) {
		if was[p] == now[p] {
			continue
		}
		if out = append(out, Difference{At: p, Old: shown(was[p]), New: shown(now[p])}); len(out) == maxDifferences {
			break
		}
	}
	return out
}

// Hidden says where a definition holds characters that cannot be seen or that
// change what is seen around them, such as tag characters, zero-width and
// bidirectional ones: in any string of it, names of members among them. They may
// be words for a model that no reviewer sees. Each is a JSON Pointer and the
// first such character, such as "/description: U+200B".
func (d ToolDefinition) Hidden() []string {
	var out []string
	leaves := d.leaves()
	for _, p := range slices.Sorted(maps.Keys(leaves)) {
		text := leaves[p]
		if s, err := jsontext.AppendUnquote(nil, text); err == nil {
			text = string(s)
		}
		for _, t := range []string{p, text} {
			if at, r := hiddenIn(t); at >= 0 {
				out = append(out, fmt.Sprintf("%s: %U", EscapeHidden(p), r))
				break
			}
		}
	}
	return out
}

// leaves are the strings, numbers and literals of a definition in canonical form,
// and its empty objects and lists, by place.
func (d ToolDefinition) leaves() map[string]string {
	out := map[string]string{}
	for name, text := range map[string]string{"/name": d.Name, "/title": d.Title, "/description": d.Description} {
		v, err := jsontext.AppendQuote(nil, text)
		if err != nil {
			v = fmt.Appendf(nil, "%q", text)
		}
		if text != "" || name == "/name" {
			out[name] = string(v)
		}
	}
	for name, text := range map[string]json.RawMessage{"/inputSchema": d.InputSchema, "/outputSchema": d.OutputSchema, "/annotations": d.Annotations} {
		v := jsontext.Value(bytes.Clone(text))
		if len(text) == 0 {
			continue
		}
		if v.Canonicalize() != nil {
			out[name] = string(text)
			continue
		}
		dec := jsontext.NewDecoder(bytes.NewReader(v))
		for {
			tok, err := dec.ReadToken()
			if err != nil {
				break
			}
			kind := tok.Kind()
			place := name + string(dec.StackPointer())
			switch kind {
			case '}', ']':
				continue
			case '{', '[':
				if next := dec.PeekKind(); next != '}' && next != ']' {
					continue
				}
				out[name+string(dec.StackPointer())] = map[jsontext.Kind]string{'{': "{}", '[': "[]"}[kind]
				continue
			}
			if in, n := dec.StackIndex(dec.StackDepth()); in == '{' && n%2 == 1 {
				continue // a member's name, which is in the place of its value
			}
			out[place] = leafText(tok)
		}
	}
	return out
}

func leafText(tok jsontext.Token) string {
	if tok.Kind() != '"' {
		return tok.String()
	}
	v, err := jsontext.AppendQuote(nil, tok.String())
	if err != nil {
		return fmt.Sprintf("%q", tok.String())
	}
	return string(v)
}

// shown is a leaf for a person.
func shown(leaf string) string {
	s := EscapeHidden(leaf)
	if len(s) > maxLeaf {
		s = strings.ToValidUTF8(s[:maxLeaf], "") + "…"
	}
	return s
}

// EscapeHidden puts escape sequences of JSON in the place of characters that
// cannot be seen or that change what is seen around them, in a text of JSON or in
// one that a person reads. Of JSON strings it does not change the value.
func EscapeHidden(text string) string {
	if at, _ := hiddenIn(text); at < 0 {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		switch {
		case !hidden(r):
			b.WriteRune(r)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, hi, lo)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
