package cedarx

import (
	"reflect"
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// pairs returns p with every a < b, and its like, written as [a, b].isEmpty(),
// and false if p compares nothing.
//
// The validator checks that both sides of a comparison can be compared with
// something, and not that it is with each other: it accepts a datetime that is
// less than a number, which fails on every request. The elements of a set it
// does hold against each other.
func pairs(p *cedar.Policy) (*ast.Policy, bool) {
	if !compares(p) {
		return nil, false
	}
	out := *(*ast.Policy)(p.AST())
	out.Conditions = slices.Clone(out.Conditions)
	for i, c := range out.Conditions {
		out.Conditions[i].Body = pairUp(c.Body)
	}
	return &out, true
}

func compares(p *cedar.Policy) bool {
	found := false
	for _, c := range (*ast.Policy)(p.AST()).Conditions {
		ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
			switch n.(type) {
			case ast.NodeTypeLessThan, ast.NodeTypeLessThanOrEqual, ast.NodeTypeGreaterThan, ast.NodeTypeGreaterThanOrEqual:
				found = true
			}
			return !found
		})
	}
	return found
}

// pairUp returns n with the comparisons in it rewritten.
func pairUp(n ast.IsNode) ast.IsNode {
	c := copied(n)
	eachChild(c, func(slot reflect.Value) {
		slot.Set(reflect.ValueOf(pairUp(slot.Interface().(ast.IsNode))))
	})
	pair := func(b ast.BinaryNode) ast.IsNode {
		return ast.NodeTypeIsEmpty{UnaryNode: ast.UnaryNode{Arg: ast.NodeTypeSet{Elements: []ast.IsNode{b.Left, b.Right}}}}
	}
	switch n := c.Interface().(type) {
	case ast.NodeTypeLessThan:
		return pair(n.BinaryNode)
	case ast.NodeTypeLessThanOrEqual:
		return pair(n.BinaryNode)
	case ast.NodeTypeGreaterThan:
		return pair(n.BinaryNode)
	case ast.NodeTypeGreaterThanOrEqual:
		return pair(n.BinaryNode)
	case ast.IsNode:
		return n
	}
	return n
}
