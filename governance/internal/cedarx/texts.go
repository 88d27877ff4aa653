package cedarx

import (
	"time"

	"github.com/cedar-policy/cedar-go"
	publicast "github.com/cedar-policy/cedar-go/ast"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// A TextTest is an argument of a tool that a policy compares with texts, or
// matches with a pattern.
type TextTest struct {
	Path []string // below context.args
	// Texts are those it is compared with; none when it is matched by like.
	Texts []string
	// Positive: the policy applies when the test holds. Else it applies when the
	// test does not hold.
	Positive bool
}

// TextTests returns the tests of p that decide for themselves, and not whether
// another condition is looked at.
func TextTests(p *cedar.Policy) []TextTest {
	var out []TextTest
	var walk func(n ast.IsNode, positive bool)
	test := func(arg ast.IsNode, texts []string, positive bool) {
		if path, ok := argument(arg); ok {
			out = append(out, TextTest{path, texts, positive})
		}
	}
	walk = func(n ast.IsNode, positive bool) {
		switch n := n.(type) {
		case ast.NodeTypeNot:
			walk(n.Arg, !positive)
		case ast.NodeTypeAnd:
			walk(n.Left, positive)
			walk(n.Right, positive)
		case ast.NodeTypeOr:
			walk(n.Left, positive)
			walk(n.Right, positive)
		case ast.NodeTypeIfThenElse:
			walk(n.Then, positive)
			walk(n.Else, positive)
		case ast.NodeTypeEquals, ast.NodeTypeNotEquals:
			var left, right ast.IsNode
			if eq, ok := n.(ast.NodeTypeEquals); ok {
				left, right = eq.Left, eq.Right
			} else {
				ne := n.(ast.NodeTypeNotEquals)
				left, right, positive = ne.Left, ne.Right, !positive
			}
			if list := texts(right); len(list) > 0 {
				test(left, list, positive)
			}
			if list := texts(left); len(list) > 0 {
				test(right, list, positive)
			}
		case ast.NodeTypeContains:
			if list := texts(n.Left); len(list) > 0 {
				test(n.Right, list, positive)
			}
			if list := texts(n.Right); len(list) > 0 {
				test(n.Left, list, positive)
			}
		case ast.NodeTypeContainsAny:
			if list := texts(n.Right); len(list) > 0 {
				test(n.Left, list, positive)
			}
		case ast.NodeTypeContainsAll:
			if list := texts(n.Left); len(list) > 0 { // all of it is in a list
				test(n.Right, list, positive)
			}
			if list := texts(n.Right); len(list) > 0 {
				test(n.Left, list, positive)
			}
		case ast.NodeTypeLike:
			test(n.Arg, nil, positive)
		}
	}
	for _, c := range (*ast.Policy)(p.AST()).Conditions {
		walk(c.Body, c.Condition == ast.ConditionWhen)
	}
	return out
}

// MayBeImpossible reports whether p holds anything of which types could say that
// it is false. It is quick, and never wrong in saying no.
func MayBeImpossible(p *cedar.Policy) bool {
	found := false
	for _, c := range (*ast.Policy)(p.AST()).Conditions {
		ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
			switch n := n.(type) {
			case ast.NodeTypeHas, ast.NodeTypeHasTag, ast.NodeTypeIs, ast.NodeTypeIsIn, ast.NodeTypeIn:
				found = true
			case ast.NodeValue:
				switch n.Value.(type) {
				case types.Boolean, types.EntityUID:
					found = true
				}
			case ast.NodeTypeEquals:
				found = found || bothFixed(n.Left, n.Right)
			case ast.NodeTypeNotEquals:
				found = found || bothFixed(n.Left, n.Right)
			}
			return !found
		})
	}
	return found
}

// bothFixed: two literals, or nothing that is known to be a text or number.
func bothFixed(left, right ast.IsNode) bool {
	_, l := left.(ast.NodeValue)
	_, r := right.(ast.NodeValue)
	return l == r
}

// Unconditional reports whether p has no conditions.
func Unconditional(p *cedar.Policy) bool { return len((*ast.Policy)(p.AST()).Conditions) == 0 }

// Until returns p with one condition more, before its own: that context.now is
// before t.
func Until(p *cedar.Policy, t time.Time) *cedar.Policy {
	until := *(*ast.Policy)(p.AST())
	now := ast.Context().Access("now").LessThan(ast.ExtensionCall("datetime", ast.String(types.String(t.UTC().Format("2006-01-02T15:04:05.000Z")))))
	until.Conditions = append([]ast.ConditionType{{Condition: ast.ConditionWhen, Body: now.AsIsNode()}}, until.Conditions...)
	return cedar.NewPolicyFromAST((*publicast.Policy)(&until))
}
