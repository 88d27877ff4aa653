package cedarx

import (
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/eval"
)

// An Env is what a clause is evaluated in: one request and its entities.
type Env = eval.Env

// A Clause is one of the conditions that a policy needs, all together and in
// order, to apply.
type Clause struct{ node ast.IsNode }

// Clauses splits the conditions of p where they are conjunctions. An unless is
// turned around, so that every clause of the result must be true; evaluating
// them in order until one is false or fails comes to the same as evaluating the
// policy's conditions.
func Clauses(p *cedar.Policy) []Clause {
	var out []Clause
	for _, c := range (*ast.Policy)(p.AST()).Conditions {
		out = split(out, c.Body, c.Condition == ast.ConditionUnless)
	}
	return out
}

func split(out []Clause, n ast.IsNode, negate bool) []Clause {
	switch v := n.(type) {
	case ast.NodeTypeNot:
		return split(out, v.Arg, !negate)
	case ast.NodeTypeAnd:
		if !negate {
			return split(split(out, v.Left, false), v.Right, false)
		}
	case ast.NodeTypeOr:
		if negate {
			return split(split(out, v.Left, true), v.Right, true)
		}
	}
	if negate {
		n = negated(n)
	}
	return append(out, Clause{n})
}

// negated writes the contrary of a comparison as a comparison.
func negated(n ast.IsNode) ast.IsNode {
	switch v := n.(type) {
	case ast.NodeTypeEquals:
		return ast.NodeTypeNotEquals(v)
	case ast.NodeTypeNotEquals:
		return ast.NodeTypeEquals(v)
	case ast.NodeTypeLessThan:
		return ast.NodeTypeGreaterThanOrEqual(v)
	case ast.NodeTypeLessThanOrEqual:
		return ast.NodeTypeGreaterThan(v)
	case ast.NodeTypeGreaterThan:
		return ast.NodeTypeLessThanOrEqual(v)
	case ast.NodeTypeGreaterThanOrEqual:
		return ast.NodeTypeLessThan(v)
	}
	return ast.NodeTypeNot{UnaryNode: ast.UnaryNode{Arg: n}}
}

// Holds evaluates the clause. What is neither true nor false is an error.
func (c Clause) Holds(env Env) (bool, error) {
	v, err := eval.Eval(c.node, env)
	if err != nil {
		return false, err
	}
	b, ok := v.(types.Boolean)
	if !ok {
		return false, errNotBool
	}
	return bool(b), nil
}

type notBool struct{}

func (notBool) Error() string { return "the condition is neither true nor false" }

var errNotBool = notBool{}

// String is the clause in Cedar's syntax, on one line.
func (c Clause) String() string {
	return nodeText(c.node)
}

// nodeText prints an expression: cedar-go prints only whole policies.
func nodeText(n ast.IsNode) string {
	p := ast.Permit().When(ast.NewNode(n))
	text := string(cedar.NewPolicyFromAST((*publicPolicy)(p)).MarshalCedar())
	_, text, _ = strings.Cut(text, "when { ")
	return strings.TrimSuffix(text, " };")
}

// Value evaluates a term of the clause, see Terms.
func (t Term) Value(env Env) (types.Value, error) { return eval.Eval(t.node, env) }

// A Term is a part of a clause whose value depends on the request, such as
// context.args.channel.
type Term struct {
	// Path is its parts: "context", "args", "channel", or for a tag "principal",
	// "tag:<name>".
	Path []string
	node ast.IsNode
}

// String is the term in Cedar's syntax.
func (t Term) String() string { return nodeText(t.node) }

// Terms returns what the clause reads of the request, each once, in order.
func (c Clause) Terms() []Term {
	var out []Term
	ast.Inspect(ast.NewNode(c.node), func(n ast.IsNode) bool {
		if has, ok := n.(ast.NodeTypeHas); ok {
			if path, ok := pathOf(has.Arg); ok {
				out = addTerm(out, Term{append(path, string(has.Value)), ast.NodeTypeAccess(has)})
				return false
			}
		}
		if has, ok := n.(ast.NodeTypeHasTag); ok {
			n = ast.NodeTypeGetTag(has)
		}
		path, ok := pathOf(n)
		if ok {
			out = addTerm(out, Term{path, n})
		}
		return !ok
	})
	// Of a test and a use of the same thing, and of a whole and its part, keep
	// the more telling one.
	return slices.DeleteFunc(out, func(t Term) bool {
		return slices.ContainsFunc(out, func(u Term) bool {
			return len(u.Path) > len(t.Path) && slices.Equal(u.Path[:len(t.Path)], t.Path)
		})
	})
}

func addTerm(out []Term, t Term) []Term {
	if slices.ContainsFunc(out, func(u Term) bool { return slices.Equal(u.Path, t.Path) }) {
		return out
	}
	return append(out, t)
}

// pathOf reads variable.a.b and variable.getTag("t").
func pathOf(n ast.IsNode) ([]string, bool) {
	switch v := n.(type) {
	case ast.NodeTypeVariable:
		return []string{string(v.Name)}, true
	case ast.NodeTypeAccess:
		path, ok := pathOf(v.Arg)
		return append(path, string(v.Value)), ok
	case ast.NodeTypeGetTag:
		path, ok := pathOf(v.Left)
		name, isText := constant(v.Right).(types.String)
		return append(path, "tag:"+string(name)), ok && isText
	}
	return nil, false
}

// constant evaluates an expression that reads nothing of the request; nil when
// it does, or fails.
func constant(n ast.IsNode) types.Value {
	fixed := true
	ast.Inspect(ast.NewNode(n), func(n ast.IsNode) bool {
		if _, ok := n.(ast.NodeTypeVariable); ok {
			fixed = false
		}
		return fixed
	})
	if !fixed {
		return nil
	}
	v, err := eval.Eval(n, Env{Entities: types.EntityMap{}})
	if err != nil {
		return nil
	}
	return v
}
