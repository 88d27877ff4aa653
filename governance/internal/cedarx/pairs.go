package cedarx

import (
	"bytes"
	"encoding/json"

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
func pairs(p *cedar.Policy) (*cedar.Policy, bool) {
	if !compares(p) {
		return nil, false
	}
	text, err := p.MarshalJSON()
	if err != nil {
		return nil, false
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var tree any
	if err := dec.Decode(&tree); err != nil {
		return nil, false
	}
	if text, err = json.Marshal(pairUp(tree)); err != nil {
		return nil, false
	}
	out := new(cedar.Policy)
	if err := out.UnmarshalJSON(text); err != nil {
		return nil, false
	}
	return out, true
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

// pairUp rewrites Cedar's JSON form of a policy in place. The name of an operator
// can also be that of a record's attribute, but the value of that is an
// expression, which has one key.
func pairUp(tree any) any {
	switch n := tree.(type) {
	case []any:
		for i := range n {
			n[i] = pairUp(n[i])
		}
	case map[string]any:
		for k, v := range n {
			if k == "Value" {
				continue
			}
			n[k] = pairUp(v)
		}
		for _, op := range []string{"<", "<=", ">", ">="} {
			if sides, ok := n[op].(map[string]any); ok && len(sides) == 2 && sides["left"] != nil && sides["right"] != nil {
				return map[string]any{"isEmpty": map[string]any{"arg": map[string]any{"Set": []any{sides["left"], sides["right"]}}}}
			}
		}
	}
	return tree
}
