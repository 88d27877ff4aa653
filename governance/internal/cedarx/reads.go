package cedarx

import (
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// ContextReads returns the names that p reads below context.<attr>, sorted. all
// is true when p may read more than these: the attribute as a whole, or the
// context as a whole.
func ContextReads(p *cedar.Policy, attr string) (names []string, all bool) {
	whole := 0 // occurrences that no narrower one has explained
	for _, c := range (*ast.Policy)(p.AST()).Conditions {
		ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
			var arg ast.IsNode
			var name types.String
			switch n := n.(type) {
			case ast.NodeTypeAccess:
				arg, name = n.Arg, n.Value
				if isContext(arg) && string(name) == attr {
					whole++
				}
			case ast.NodeTypeHas:
				arg, name = n.Arg, n.Value
				if isContext(arg) && string(name) == attr {
					all = true
				}
			case ast.NodeTypeVariable:
				if n.Name == "context" {
					whole++
				}
				return true
			default:
				return true
			}
			if isContext(arg) {
				whole--
			} else if a, ok := arg.(ast.NodeTypeAccess); ok && isContext(a.Arg) && string(a.Value) == attr {
				names = append(names, string(name))
				whole--
			}
			return true
		})
	}
	slices.Sort(names)
	return slices.Compact(names), all || whole > 0
}

func isContext(n ast.IsNode) bool {
	v, ok := n.(ast.NodeTypeVariable)
	return ok && v.Name == "context"
}

// Contained returns the texts that p looks for in the set context.<attr>, with
// contains, containsAny and containsAll, as far as they are written out.
func Contained(p *cedar.Policy, attr string) (out []string) {
	of := func(set, what ast.IsNode) {
		if a, ok := set.(ast.NodeTypeAccess); ok && isContext(a.Arg) && string(a.Value) == attr {
			out = append(out, texts(what)...)
		}
	}
	for _, c := range (*ast.Policy)(p.AST()).Conditions {
		ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
			switch n := n.(type) {
			case ast.NodeTypeContains:
				of(n.Left, n.Right)
			case ast.NodeTypeContainsAny:
				of(n.Left, n.Right)
			case ast.NodeTypeContainsAll:
				of(n.Left, n.Right)
			}
			return true
		})
	}
	return out
}
