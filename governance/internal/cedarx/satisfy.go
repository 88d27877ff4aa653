package cedarx

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// maxBranches bounds the alternatives that Contradiction looks at.
const maxBranches = 256

// Contradiction looks for demands of p on one value that exclude each other,
// such as a == "x" and a == "y". It returns the name of the value, or "" when it
// found none, which proves nothing: it understands comparisons of an attribute
// with literals, and follows !, &&, || and if. What it does not understand it
// takes for possible.
//
// A condition that is true has every one of its conjuncts true, and one that
// fails is not true either; so a contradiction means that the policy never
// applies.
func Contradiction(p *cedar.Policy) string {
	a := (*ast.Policy)(p.AST())
	var all []demand
	for name, n := range map[string]ast.IsScopeNode{"principal": a.Principal, "action": a.Action, "resource": a.Resource} {
		if eq, ok := n.(ast.ScopeTypeEq); ok {
			all = append(all, demand{ast.NewNode(ast.NodeTypeVariable{Name: types.String(name)}).Equal(ast.Value(eq.Entity)).AsIsNode(), true})
		}
	}
	for _, c := range a.Conditions {
		all = append(all, demand{c.Body, c.Condition == ast.ConditionWhen})
	}
	s := search{branches: maxBranches}
	if s.possible(all) {
		return ""
	}
	return s.word
}

// A demand is that a node is true, or false.
type demand struct {
	node ast.IsNode
	want bool
}

type search struct {
	branches int
	word     string // of the last contradiction
}

// possible reports whether all demands may hold together.
func (s *search) possible(all []demand) bool {
	if s.branches--; s.branches < 0 {
		return true
	}
	f := facts{}
	for len(all) > 0 {
		d := all[0]
		all = all[1:]
		switch n := d.node.(type) {
		case ast.NodeTypeNot:
			all = append(all, demand{n.Arg, !d.want})
			continue
		case ast.NodeTypeAnd:
			if d.want {
				all = append(all, demand{n.Left, true}, demand{n.Right, true})
				continue
			}
			f.later = append(f.later, [2][]demand{{{n.Left, false}}, {{n.Left, true}, {n.Right, false}}})
			continue
		case ast.NodeTypeOr:
			if !d.want {
				all = append(all, demand{n.Left, false}, demand{n.Right, false})
				continue
			}
			f.later = append(f.later, [2][]demand{{{n.Left, true}}, {{n.Left, false}, {n.Right, true}}})
			continue
		case ast.NodeTypeIfThenElse:
			f.later = append(f.later, [2][]demand{{{n.If, true}, {n.Then, d.want}}, {{n.If, false}, {n.Else, d.want}}})
			continue
		}
		f.simple = append(f.simple, d)
		if word, ok := f.note(d); !ok {
			s.word = word
			return false
		}
	}
	if len(f.later) == 0 {
		return true
	}
	for _, alternative := range f.later[0] {
		next := slices.Concat(f.simple, alternative)
		for _, other := range f.later[1:] {
			next = append(next, either(other))
		}
		if s.possible(next) {
			return true
		}
	}
	return false
}

// either makes one demand of two alternatives.
func either(alternatives [2][]demand) demand {
	one := func(ds []demand) ast.Node {
		var out ast.Node
		for i, d := range ds {
			n := ast.NewNode(d.node)
			if !d.want {
				n = ast.Not(n)
			}
			if i == 0 {
				out = n
			} else {
				out = out.And(n)
			}
		}
		return out
	}
	return demand{one(alternatives[0]).Or(one(alternatives[1])).AsIsNode(), true}
}

// facts is what the simple demands say about each value.
type facts struct {
	simple []demand
	later  [][2][]demand
	of     map[string]*fact
}

type fact struct {
	name     string
	is       []types.Value // one of these, when known
	known    bool
	not      []types.Value
	like     []types.Pattern
	unlike   []types.Pattern
	low, top int64 // of a Long
	bool     [2]bool
}

// note takes in one demand. It is false, with the name of the value, when that
// contradicts what was noted before.
func (f *facts) note(d demand) (string, bool) {
	switch n := d.node.(type) {
	case ast.NodeValue:
		b, ok := n.Value.(types.Boolean)
		return fmt.Sprint(n.Value), !ok || bool(b) == d.want
	case ast.NodeTypeEquals:
		return f.equal(n.Left, n.Right, d.want)
	case ast.NodeTypeNotEquals:
		return f.equal(n.Left, n.Right, !d.want)
	case ast.NodeTypeContains:
		list, ok := literals(n.Left)
		if !ok {
			break
		}
		return f.about(n.Right, func(x *fact) {
			if d.want {
				x.oneOf(list)
			} else {
				x.not = append(x.not, list...)
			}
		})
	case ast.NodeTypeLike:
		return f.about(n.Arg, func(x *fact) {
			if d.want {
				x.like = append(x.like, n.Value)
			} else {
				x.unlike = append(x.unlike, n.Value)
			}
		})
	case ast.NodeTypeLessThan:
		return f.order(n.Left, n.Right, d.want, true)
	case ast.NodeTypeLessThanOrEqual:
		return f.order(n.Left, n.Right, d.want, false)
	case ast.NodeTypeGreaterThan:
		return f.order(n.Right, n.Left, d.want, true)
	case ast.NodeTypeGreaterThanOrEqual:
		return f.order(n.Right, n.Left, d.want, false)
	case ast.NodeTypeHas:
		if key, _, ok := place(n.Arg); ok {
			return f.truth(key+" has "+string(n.Value), string(n.Value), d.want)
		}
	case ast.NodeTypeAccess:
		return f.about(n, func(x *fact) { x.oneOf([]types.Value{types.Boolean(d.want)}) })
	}
	return "", true
}

func (f *facts) get(key, name string) *fact {
	if f.of == nil {
		f.of = map[string]*fact{}
	}
	if f.of[key] == nil {
		f.of[key] = &fact{name: name, low: math.MinInt64, top: math.MaxInt64}
	}
	return f.of[key]
}

// about notes something on the value at n, if n is a place.
func (f *facts) about(n ast.IsNode, put func(*fact)) (string, bool) {
	key, name, ok := place(n)
	if !ok {
		return "", true
	}
	x := f.get(key, name)
	put(x)
	return name, x.possible()
}

func (f *facts) truth(key, name string, want bool) (string, bool) {
	x := f.get(key, name)
	i := 0
	if want {
		i = 1
	}
	x.bool[i] = true
	return name, !(x.bool[0] && x.bool[1])
}

func (f *facts) equal(left, right ast.IsNode, want bool) (string, bool) {
	if _, _, ok := place(left); !ok {
		left, right = right, left
	}
	v, ok := right.(ast.NodeValue)
	if !ok {
		return "", true
	}
	if l, ok := left.(ast.NodeValue); ok {
		return fmt.Sprint(v.Value), l.Value.Equal(v.Value) == want
	}
	return f.about(left, func(x *fact) {
		if want {
			x.oneOf([]types.Value{v.Value})
		} else {
			x.not = append(x.not, v.Value)
		}
	})
}

// order notes low < high, or low <= high when not strict.
func (f *facts) order(low, high ast.IsNode, want, strict bool) (string, bool) {
	if !want {
		low, high, strict = high, low, !strict
	}
	long := func(n ast.IsNode) (int64, bool) {
		v, ok := n.(ast.NodeValue)
		if !ok {
			return 0, false
		}
		l, ok := v.Value.(types.Long)
		return int64(l), ok
	}
	if n, ok := long(high); ok {
		if strict {
			if n == math.MinInt64 {
				_, name, _ := place(low)
				return name, false
			}
			n--
		}
		return f.about(low, func(x *fact) { x.top = min(x.top, n) })
	}
	if n, ok := long(low); ok {
		if strict {
			if n == math.MaxInt64 {
				_, name, _ := place(high)
				return name, false
			}
			n++
		}
		return f.about(high, func(x *fact) { x.low = max(x.low, n) })
	}
	return "", true
}

func (x *fact) oneOf(list []types.Value) {
	if x.known {
		list = slices.DeleteFunc(slices.Clone(list), func(v types.Value) bool { return !x.hasValue(x.is, v) })
	}
	x.is, x.known = list, true
}

func (x *fact) hasValue(list []types.Value, v types.Value) bool {
	return slices.ContainsFunc(list, func(w types.Value) bool { return w.Equal(v) })
}

// possible reports whether some value fits all that is noted.
func (x *fact) possible() bool {
	if x.low > x.top {
		return false
	}
	if !x.known {
		return true
	}
	for _, v := range x.is {
		if x.fits(v) {
			return true
		}
	}
	return false
}

func (x *fact) fits(v types.Value) bool {
	if x.hasValue(x.not, v) {
		return false
	}
	switch v := v.(type) {
	case types.Long:
		return int64(v) >= x.low && int64(v) <= x.top
	case types.String:
		for _, p := range x.like {
			if !p.Match(v) {
				return false
			}
		}
		for _, p := range x.unlike {
			if p.Match(v) {
				return false
			}
		}
	}
	return true
}

// place reads a variable or an attribute of one: a key for it, and its last name.
func place(n ast.IsNode) (key, name string, ok bool) {
	var path []string
	for {
		access, ok := n.(ast.NodeTypeAccess)
		if !ok {
			break
		}
		path = append(path, fmt.Sprintf("%q", string(access.Value)))
		if name == "" {
			name = string(access.Value)
		}
		n = access.Arg
	}
	v, ok := n.(ast.NodeTypeVariable)
	if !ok {
		return "", "", false
	}
	if name == "" {
		name = string(v.Name)
	}
	slices.Reverse(path)
	return string(v.Name) + "." + strings.Join(path, "."), name, true
}

// literals reads a set that is written out.
func literals(n ast.IsNode) (out []types.Value, ok bool) {
	switch n := n.(type) {
	case ast.NodeTypeSet:
		for _, e := range n.Elements {
			v, ok := e.(ast.NodeValue)
			if !ok {
				return nil, false
			}
			out = append(out, v.Value)
		}
		return out, true
	case ast.NodeValue:
		s, ok := n.Value.(types.Set)
		if !ok {
			return nil, false
		}
		return slices.Collect(s.All()), true
	}
	return nil, false
}
