package strictyaml

import "github.com/goccy/go-yaml/ast"

// Locate returns what is wrong with a value that was read from text, with the
// line and column of the value. Path leads to it by keys, which are strings, and
// by places in lists, which are ints from 0; where it leads to nothing, the
// error is about the last value on the way.
func Locate(file string, text []byte, limit int, message string, path ...any) *Error {
	body, err := Parse(file, text, limit)
	if err != nil {
		return &Error{File: file, Message: message}
	}
	n := body
	for _, step := range path {
		next := child(n, step)
		if next == nil {
			break
		}
		n = next
	}
	return at(file, n, message, "")
}

func child(n ast.Node, step any) ast.Node {
	switch key := step.(type) {
	case string:
		var pairs []*ast.MappingValueNode
		switch m := n.(type) {
		case *ast.MappingNode:
			pairs = m.Values
		case *ast.MappingValueNode:
			pairs = []*ast.MappingValueNode{m}
		}
		for _, p := range pairs {
			if t := p.Key.GetToken(); t != nil && t.Value == key {
				return p.Value
			}
		}
	case int:
		if s, ok := n.(*ast.SequenceNode); ok && key >= 0 && key < len(s.Values) {
			return s.Values[key]
		}
	}
	return nil
}
