// Package strictyaml reads small configuration files from a part of YAML that
// a reviewer and a parser cannot read differently: one document of plain
// mappings, lists, text, numbers and booleans, bounded in size and depth before
// a recursive parser sees it, and no key that nobody asked for. Every error has
// a position and says what to write instead.
package strictyaml

import (
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Limits of a file. They are far above what a configuration needs.
const (
	// MaxDepth bounds brackets inside one another, the signs of nested lists on
	// one line, and indentation in steps of four.
	MaxDepth = 16
	// maxMarks bounds what could be nesting anywhere in one line.
	maxMarks = 64
)

// An Error is what is wrong with a file. Its text is
// "file:line:column: message (fix)".
type Error struct {
	File string
	// Line and Column count from 1; they are 0 when the error is about the file
	// as a whole.
	Line, Column int
	Message, Fix string
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	b.WriteString(": " + e.Message)
	if e.Fix != "" {
		b.WriteString(" (" + e.Fix + ")")
	}
	return b.String()
}

// Unmarshal reads the one document of text into v, a pointer to a struct with
// yaml tags. An unknown or repeated key, an empty value, an anchor, an alias, a
// merge, a tag, a second document or none, and more than limit bytes are an
// error, which is an [*Error]. file is what it calls the text.
func Unmarshal(file string, text []byte, limit int, v any) (err error) {
	body, err := Parse(file, text, limit)
	if err != nil {
		return err
	}
	if odd := oddity(file, body); odd != nil {
		return odd
	}
	defer func() {
		// The decoder is not ours, and the text may come from anywhere.
		if p := recover(); p != nil {
			err = &Error{File: file, Message: "it cannot be read as YAML"}
		}
	}()
	if err := yaml.UnmarshalWithOptions(text, v, yaml.Strict()); err != nil {
		return located(file, err)
	}
	return nil
}

// Parse returns the syntax tree of the one document of text, for a reader that
// walks it by itself. It bounds size and depth, and leaves it to the reader to
// refuse nodes that it does not know. The error is an [*Error].
func Parse(file string, text []byte, limit int) (body ast.Node, err error) {
	if len(text) > limit {
		return nil, &Error{File: file, Message: fmt.Sprintf("the file has %d bytes", len(text)), Fix: fmt.Sprintf("keep it under %d KiB", limit>>10)}
	}
	if line, deep := tooDeep(string(text)); deep {
		return nil, &Error{File: file, Line: line, Column: 1, Message: "it is nested too deeply", Fix: fmt.Sprintf("at most %d levels are read", MaxDepth)}
	}
	defer func() {
		if p := recover(); p != nil {
			body, err = nil, &Error{File: file, Message: "it is not YAML", Fix: "see https://yaml.org/spec/1.2.2"}
		}
	}()
	tree, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, located(file, err)
	}
	for _, d := range tree.Docs {
		switch {
		case d.Body == nil:
		case body != nil:
			return nil, at(file, d.Body, "a second document", "keep one document a file")
		default:
			body = d.Body
		}
	}
	if body == nil {
		return nil, &Error{File: file, Message: "the file is empty"}
	}
	return body, nil
}

// located turns an error of the YAML package into one of ours. Its own text
// would print the source, and long lines slowly.
func located(file string, err error) *Error {
	var y yaml.Error
	if !errors.As(err, &y) {
		return &Error{File: file, Message: err.Error()}
	}
	e := &Error{File: file, Message: y.GetMessage()}
	if strings.Contains(e.Message, "already defined") {
		e.Fix = "keep one of them"
	}
	if t := y.GetToken(); t != nil && t.Position != nil {
		e.Line, e.Column = max(1, t.Position.Line), max(1, t.Position.Column)
	}
	return e
}

func at(file string, n ast.Node, msg, fix string) *Error {
	e := &Error{File: file, Message: msg, Fix: fix}
	switch m := n.(type) { // whose own token is the first colon
	case *ast.MappingNode:
		if len(m.Values) > 0 && !m.IsFlowStyle {
			n = m.Values[0].Key
		}
	case *ast.MappingValueNode:
		n = m.Key
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		e.Line, e.Column = max(1, t.Position.Line), max(1, t.Position.Column)
	}
	return e
}

// oddity finds YAML that a reviewer may read differently from a parser. An
// empty value in particular must not be taken for one that was left out.
func oddity(file string, body ast.Node) *Error {
	o := odd{file: file}
	ast.Walk(&o, body)
	return o.found
}

type odd struct {
	file  string
	found *Error
}

func (o *odd) Visit(n ast.Node) ast.Visitor {
	if o.found != nil {
		return nil
	}
	switch n.(type) {
	case *ast.NullNode:
		o.found = at(o.file, n, "empty value", "write [] or {} for none, or leave the key out")
	case *ast.AliasNode:
		o.found = at(o.file, n, "anchors, aliases, merges and tags are not used here", "write the value out; text that begins with * goes in quotes")
	case *ast.AnchorNode, *ast.MergeKeyNode, *ast.TagNode:
		o.found = at(o.file, n, "anchors, aliases, merges and tags are not used here", "write the value out")
	default:
		return o
	}
	return nil
}

// tooDeep bounds flow nesting, block nesting by indentation and by the signs of
// lists and keys on one line, and tags, which may stand between those. Brackets
// inside quotes and comments count too, which only makes the bound stricter.
func tooDeep(text string) (line int, deep bool) {
	brackets := 0
	for l := range strings.SplitSeq(text, "\n") {
		line++
		body := strings.TrimLeft(l, " \t-?:")
		lead := len(l) - len(body)
		indent, signs, marks, tags := 0, 0, 0, 0
		for i := range len(l) {
			space := i+1 == len(l) || strings.IndexByte(" \t\r", l[i+1]) >= 0
			switch c := l[i]; c {
			case ' ', '\t':
				if i < lead {
					indent++
				}
			case '-', '?', ':':
				if space {
					marks++
					if i < lead {
						signs++
					}
				}
			case '!', '&':
				if i == 0 || strings.IndexByte(" \t\r", l[i-1]) >= 0 {
					tags++
				}
			case '[', '{':
				brackets++
			case ']', '}':
				brackets = max(0, brackets-1)
			}
			if brackets > MaxDepth || tags > MaxDepth || signs > MaxDepth || marks > maxMarks || indent > 4*MaxDepth {
				return line, true
			}
		}
	}
	return 0, false
}
