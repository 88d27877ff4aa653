package cedarx

import (
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// A Comparison is an argument of a tool that a policy compares with a text: as a
// whole, or each of its values if it is a set.
type Comparison struct {
	Path []string // below context.args
	Text string
}

// Comparisons returns those that p makes with ==, !=, contains, containsAny
// and containsAll.
func Comparisons(p *cedar.Policy) []Comparison {
	var out []Comparison
	compare := func(arg, with ast.IsNode) {
		if path, ok := argument(arg); ok {
			for _, text := range texts(with) {
				out = append(out, Comparison{path, text})
			}
		}
	}
	for _, c := range (*ast.Policy)(p.AST()).Conditions {
		ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
			if c, ok := comparisonOf(n); ok && (c.op == "==" || c.op == "!=" || c.contains()) {
				compare(c.Left, c.Right)
				compare(c.Right, c.Left)
			}
			return true
		})
	}
	return out
}

// A comparison is an operator between two sides, of which either may be a
// constant.
type comparison struct {
	op       string
	mirrored string // the operator with the sides exchanged, "" if there is none
	ast.BinaryNode
}

func (c comparison) contains() bool { return strings.HasPrefix(c.op, "contains") }

func comparisonOf(n ast.IsNode) (c comparison, ok bool) {
	switch v := n.(type) {
	case ast.NodeTypeEquals:
		return comparison{"==", "==", v.BinaryNode}, true
	case ast.NodeTypeNotEquals:
		return comparison{"!=", "!=", v.BinaryNode}, true
	case ast.NodeTypeLessThan:
		return comparison{"<", ">", v.BinaryNode}, true
	case ast.NodeTypeLessThanOrEqual:
		return comparison{"<=", ">=", v.BinaryNode}, true
	case ast.NodeTypeGreaterThan:
		return comparison{">", "<", v.BinaryNode}, true
	case ast.NodeTypeGreaterThanOrEqual:
		return comparison{">=", "<=", v.BinaryNode}, true
	case ast.NodeTypeIn:
		return comparison{"in", "", v.BinaryNode}, true
	case ast.NodeTypeContains:
		return comparison{"contains", "one of", v.BinaryNode}, true
	case ast.NodeTypeContainsAll:
		return comparison{"containsAll", "containsAll", v.BinaryNode}, true
	case ast.NodeTypeContainsAny:
		return comparison{"containsAny", "containsAny", v.BinaryNode}, true
	}
	return comparison{}, false
}

// argument reads context.args.a.b.
func argument(n ast.IsNode) (path []string, ok bool) {
	for {
		access, ok := n.(ast.NodeTypeAccess)
		if !ok {
			break
		}
		path = append(path, string(access.Value))
		n = access.Arg
	}
	v, ok := n.(ast.NodeTypeVariable)
	slices.Reverse(path)
	if !ok || v.Name != "context" || len(path) < 2 || path[0] != "args" {
		return nil, false
	}
	return path[1:], true
}

// texts reads a string, or the strings of a set that is written out.
func texts(n ast.IsNode) (out []string) {
	switch n := n.(type) {
	case ast.NodeTypeSet:
		for _, e := range n.Elements {
			out = append(out, texts(e)...)
		}
	case ast.NodeValue:
		switch v := n.Value.(type) {
		case types.String:
			return []string{string(v)}
		case types.Set:
			for e := range v.All() {
				if s, ok := e.(types.String); ok {
					out = append(out, string(s))
				}
			}
		}
	}
	return out
}
