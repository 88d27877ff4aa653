package cedarx

import (
	"cmp"
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/eval"
)

// ErrsAtRandom reports whether p could fail with one error or another on the
// same request: cedar-go evaluates the attributes of a record that is written
// out in no fixed order. What p comes to, a failure, is the same each time.
func ErrsAtRandom(p *cedar.Policy) bool {
	return slices.ContainsFunc((*ast.Policy)(p.AST()).Conditions, func(c ast.ConditionType) bool { return random(c.Body) })
}

func random(n ast.IsNode) (found bool) {
	ast.Inspect(ast.NewNode(n), func(n ast.IsNode) bool {
		if r, ok := n.(ast.NodeTypeRecord); ok && len(r.Elements) > 1 {
			found = true
		}
		return !found
	})
	return found
}

// Failure returns an error that the conditions of p fail with, the same each
// time: of a record's attributes, the first by name that fails. It is nil if it
// finds none. It is for saying why p failed, not for finding out whether.
func Failure(p *cedar.Policy, env Env) error {
	for _, c := range (*ast.Policy)(p.AST()).Conditions {
		if err := failure(c.Body, env); err != nil {
			return err
		}
	}
	return nil
}

// failure follows the order of evaluation down to the record that fails.
func failure(n ast.IsNode, env Env) error {
	_, err := eval.Eval(n, env)
	if err == nil || !random(n) {
		return err
	}
	for _, part := range reached(n, env) {
		if err := failure(part, env); err != nil {
			return err
		}
	}
	return err
}

// reached returns the parts of n that its evaluation can reach, in order.
func reached(n ast.IsNode, env Env) (parts []ast.IsNode) {
	switch v := n.(type) {
	case ast.NodeTypeIfThenElse:
		switch cond, err := eval.Eval(v.If, env); {
		case err != nil:
			return []ast.IsNode{v.If}
		case cond == types.Value(types.True):
			return []ast.IsNode{v.Then}
		default:
			return []ast.IsNode{v.Else}
		}
	case ast.NodeTypeRecord:
		byName := slices.Clone(v.Elements)
		slices.SortStableFunc(byName, func(a, b ast.RecordElementNode) int { return cmp.Compare(a.Key, b.Key) })
		for _, e := range byName {
			parts = append(parts, e.Value)
		}
		return parts
	}
	self := true
	ast.Inspect(ast.NewNode(n), func(part ast.IsNode) bool {
		if self {
			self = false
			return true
		}
		parts = append(parts, part)
		return false // not the parts of parts
	})
	return parts
}
