package cedarx

import (
	"cmp"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// A Read is a part of the context that a policy reads: context.<Attr>.<Below>,
// or all of context.<Attr> when Below is "".
type Read struct{ Attr, Below string }

// Reads returns what p reads of the context, sorted. all is true when it may read
// anything: it uses the context as a whole. Asking whether there is an attribute
// is reading it.
func Reads(p *cedar.Policy) (reads []Read, all bool) {
	// The widest expression comes first, and what it explains is not looked into.
	seen := func(arg ast.IsNode, name types.String) (explained bool) {
		if isContext(arg) {
			reads = append(reads, Read{Attr: string(name)})
			return true
		}
		if a, ok := arg.(ast.NodeTypeAccess); ok && isContext(a.Arg) {
			reads = append(reads, Read{string(a.Value), string(name)})
			return true
		}
		return false
	}
	for _, c := range (*ast.Policy)(p.AST()).Conditions {
		ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
			switch n := n.(type) {
			case ast.NodeTypeAccess:
				return !seen(n.Arg, n.Value)
			case ast.NodeTypeHas:
				return !seen(n.Arg, n.Value)
			case ast.NodeTypeVariable:
				all = all || isContext(n)
			}
			return true
		})
	}
	slices.SortFunc(reads, func(a, b Read) int {
		return cmp.Or(strings.Compare(a.Attr, b.Attr), strings.Compare(a.Below, b.Below))
	})
	return slices.Compact(reads), all
}

// ContextReads returns the names that p reads below context.<attr>, sorted. all
// is true when p may read more than these: the attribute as a whole, or the
// context as a whole.
func ContextReads(p *cedar.Policy, attr string) (names []string, all bool) {
	reads, all := Reads(p)
	for _, r := range reads {
		switch {
		case r.Attr != attr:
		case r.Below == "":
			all = true
		default:
			names = append(names, r.Below)
		}
	}
	return names, all
}

func isContext(n ast.IsNode) bool {
	v, ok := n.(ast.NodeTypeVariable)
	return ok && v.Name == "context"
}

// Contained returns the texts that p looks for in the set context.<attr>, with
// contains, containsAny and containsAll, as far as they are written out.
func Contained(p *cedar.Policy, attr string) (out []string) {
	for _, c := range (*ast.Policy)(p.AST()).Conditions {
		ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
			if c, ok := comparisonOf(n); ok && c.contains() {
				if a, ok := c.Left.(ast.NodeTypeAccess); ok && isContext(a.Arg) && string(a.Value) == attr {
					out = append(out, texts(c.Right)...)
				}
			}
			return true
		})
	}
	return out
}
