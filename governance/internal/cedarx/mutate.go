package cedarx

import (
	"reflect"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// A Mutant is a policy that says something slightly different.
type Mutant struct {
	// Change says what is different.
	Change string
	Policy *cedar.Policy
}

// Mutants returns the policies that differ from p in one small thing, such as
// people get wrong: a condition left out or turned around, a comparison off by
// one, another constant, a wider scope. The order is fixed.
func Mutants(p *cedar.Policy) []Mutant {
	original := (*ast.Policy)(p.AST())
	var out []Mutant
	add := func(change string, edit func(*ast.Policy)) {
		m := *original
		edit(&m)
		out = append(out, Mutant{change, cedar.NewPolicyFromAST((*publicPolicy)(&m))})
	}
	if _, all := original.Principal.(ast.ScopeTypeAll); !all {
		add("any principal", func(m *ast.Policy) { m.Principal = ast.Scope{}.All() })
	}
	if _, all := original.Resource.(ast.ScopeTypeAll); !all {
		add("any resource", func(m *ast.Policy) { m.Resource = ast.Scope{}.All() })
	}
	clauses := Clauses(p)
	set := func(list []Clause) func(*ast.Policy) {
		return func(m *ast.Policy) {
			m.Conditions = nil
			for _, c := range list {
				m.Conditions = append(m.Conditions, ast.ConditionType{Condition: ast.ConditionWhen, Body: c.node})
			}
		}
	}
	for i, c := range clauses {
		replaced := func(n ast.IsNode) []Clause {
			list := append([]Clause(nil), clauses...)
			list[i] = Clause{n}
			return list
		}
		add("without: "+c.String(), set(append(append([]Clause(nil), clauses[:i]...), clauses[i+1:]...)))
		add("not: "+c.String(), set(replaced(negated(c.node))))
		for _, n := range variants(c.node) {
			add(c.String()+" -> "+nodeText(n), set(replaced(n)))
		}
	}
	return out
}

// variants returns n with one thing inside it changed, each way in turn.
func variants(n ast.IsNode) []ast.IsNode {
	out := changed(n)
	for i, child := range children(n) {
		for _, v := range variants(child) {
			out = append(out, withChild(n, i, v))
		}
	}
	return out
}

// changed returns n itself changed.
func changed(n ast.IsNode) []ast.IsNode {
	switch v := n.(type) {
	case ast.NodeTypeAnd:
		return []ast.IsNode{ast.NodeTypeOr(v)}
	case ast.NodeTypeOr:
		return []ast.IsNode{ast.NodeTypeAnd(v)}
	case ast.NodeTypeLessThan:
		return []ast.IsNode{ast.NodeTypeLessThanOrEqual(v)}
	case ast.NodeTypeLessThanOrEqual:
		return []ast.IsNode{ast.NodeTypeLessThan(v)}
	case ast.NodeTypeGreaterThan:
		return []ast.IsNode{ast.NodeTypeGreaterThanOrEqual(v)}
	case ast.NodeTypeGreaterThanOrEqual:
		return []ast.IsNode{ast.NodeTypeGreaterThan(v)}
	case ast.NodeTypeContainsAll:
		return []ast.IsNode{ast.NodeTypeContainsAny(v)}
	case ast.NodeTypeContainsAny:
		return []ast.IsNode{ast.NodeTypeContainsAll(v)}
	case ast.NodeTypeLike:
		text := parts(v.Value)
		if len(text) < 2 || text[len(text)-1] != "" {
			return []ast.IsNode{ast.NodeTypeLike{Arg: v.Arg, Value: pattern(append(text, ""))}}
		}
		return []ast.IsNode{ast.NodeTypeLike{Arg: v.Arg, Value: pattern(text[:len(text)-1])}}
	case ast.NodeTypeSet:
		var out []ast.IsNode
		for i := range v.Elements {
			out = append(out, ast.NodeTypeSet{Elements: append(append([]ast.IsNode(nil), v.Elements[:i]...), v.Elements[i+1:]...)})
		}
		return out
	case ast.NodeTypeExtensionCall:
		other := map[types.Path]types.Path{
			"lessThan": "lessThanOrEqual", "lessThanOrEqual": "lessThan",
			"greaterThan": "greaterThanOrEqual", "greaterThanOrEqual": "greaterThan",
		}[v.Name]
		if other != "" {
			return []ast.IsNode{ast.NodeTypeExtensionCall{Name: other, Args: v.Args}}
		}
	case ast.NodeValue:
		switch c := v.Value.(type) {
		case types.String:
			return []ast.IsNode{ast.NodeValue{Value: c + "~"}}
		case types.Long:
			return []ast.IsNode{ast.NodeValue{Value: c + 1}, ast.NodeValue{Value: c - 1}}
		case types.Boolean:
			return []ast.IsNode{ast.NodeValue{Value: !c}}
		}
	}
	return nil
}

func pattern(parts []string) types.Pattern {
	var of []any
	for i, text := range parts {
		if i > 0 {
			of = append(of, types.Wildcard{})
		}
		of = append(of, text)
	}
	return types.NewPattern(of...)
}

// What holds children in the nodes of an AST. cedar-go offers no way to change
// a node inside a tree, and there are some thirty types of nodes.
var (
	single = []string{"Left", "Right", "Arg", "If", "Then", "Else", "Entity"}
	many   = []string{"Elements", "Args"}
)

// children returns the children of n. The text of an extension value, such as
// decimal("1.0"), is no child: few changes of it would be a value.
func children(n ast.IsNode) []ast.IsNode {
	if call, ok := n.(ast.NodeTypeExtensionCall); ok && len(call.Args) == 1 {
		if _, ok := call.Args[0].(ast.NodeValue); ok {
			return nil
		}
	}
	var out []ast.IsNode
	eachChild(reflect.ValueOf(n), func(child reflect.Value) {
		out = append(out, child.Interface().(ast.IsNode))
	})
	return out
}

// withChild returns n with its i-th child replaced.
func withChild(n ast.IsNode, i int, child ast.IsNode) ast.IsNode {
	c := copied(n)
	at := 0
	eachChild(c, func(slot reflect.Value) {
		if at == i {
			slot.Set(reflect.ValueOf(child))
		}
		at++
	})
	return c.Interface().(ast.IsNode)
}

// copied returns a copy of n whose children can be set.
func copied(n ast.IsNode) reflect.Value {
	c := reflect.New(reflect.TypeOf(n)).Elem()
	c.Set(reflect.ValueOf(n))
	for _, name := range many {
		if f := c.FieldByName(name); f.IsValid() {
			own := reflect.MakeSlice(f.Type(), f.Len(), f.Len())
			reflect.Copy(own, f)
			f.Set(own)
		}
	}
	return c
}

func eachChild(n reflect.Value, f func(reflect.Value)) {
	node := reflect.TypeFor[ast.IsNode]()
	for _, name := range single {
		if c := n.FieldByName(name); c.IsValid() && c.Type() == node && !c.IsNil() {
			f(c)
		}
	}
	for _, name := range many {
		list := n.FieldByName(name)
		if !list.IsValid() {
			continue
		}
		for i := range list.Len() {
			c := list.Index(i)
			if c.Kind() == reflect.Struct { // an element of a record
				c = c.FieldByName("Value")
			}
			f(c)
		}
	}
}
