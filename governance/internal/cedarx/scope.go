package cedarx

import (
	"encoding/binary"
	"reflect"
	"slices"
	"strconv"

	"github.com/cedar-policy/cedar-go"
	publicast "github.com/cedar-policy/cedar-go/ast"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// A Scope is one dimension of a policy's scope in a form that can be indexed.
// The zero Scope matches everything.
type Scope struct {
	// Type is set for "is T" and "is T in E".
	Type types.EntityType
	// Any holds the entities of "== E", "in E" and "in [E, …]".
	Any []types.EntityUID
	// Exact is true for "== E": members of E do not match.
	Exact bool
	// Bounded is true when Any restricts; "in []" is bounded and matches nothing.
	Bounded bool
}

// Matches reports whether the scope holds for an entity whose ancestors,
// itself not included, are given.
func (s Scope) Matches(uid types.EntityUID, ancestors []types.EntityUID) bool {
	if s.Type != "" && s.Type != uid.Type {
		return false
	}
	if !s.Bounded {
		return true
	}
	for _, e := range s.Any {
		if e == uid {
			return true
		}
		if s.Exact {
			continue
		}
		for _, a := range ancestors {
			if e == a {
				return true
			}
		}
	}
	return false
}

// AppendKey appends what is the same for equal scopes, and for these only.
func (s Scope) AppendKey(b []byte) []byte {
	b = strconv.AppendBool(strconv.AppendBool(appendText(b, string(s.Type)), s.Exact), s.Bounded)
	return appendUIDs(b, s.Any)
}

func appendUIDs(b []byte, ids []types.EntityUID) []byte {
	b = binary.AppendUvarint(b, uint64(len(ids)))
	for _, id := range ids {
		b = appendText(appendText(b, string(id.Type)), string(id.ID))
	}
	return b
}

// appendText appends a text so that it is plain where it ends.
func appendText(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// Scopes returns the three dimensions of a policy's scope.
func Scopes(p *cedar.Policy) (principal, action, resource Scope) {
	a := (*ast.Policy)(p.AST())
	return scope(a.Principal), scope(a.Action), scope(a.Resource)
}

func scope(n ast.IsScopeNode) Scope {
	switch s := n.(type) {
	case ast.ScopeTypeEq:
		return Scope{Any: []types.EntityUID{s.Entity}, Exact: true, Bounded: true}
	case ast.ScopeTypeIn:
		return Scope{Any: []types.EntityUID{s.Entity}, Bounded: true}
	case ast.ScopeTypeInSet:
		return Scope{Any: s.Entities, Bounded: true}
	case ast.ScopeTypeIs:
		return Scope{Type: s.Type}
	case ast.ScopeTypeIsIn:
		return Scope{Type: s.Type, Any: []types.EntityUID{s.Entity}, Bounded: true}
	default: // ast.ScopeTypeAll, and anything new is treated as matching: a superset is safe
		return Scope{}
	}
}

// WithoutScope returns p with a scope that matches everything, and without
// annotations, for requests that are known to match the scope of p.
func WithoutScope(p *cedar.Policy) *cedar.Policy {
	bare := *(*ast.Policy)(p.AST())
	bare.Annotations = nil
	bare.Principal, bare.Action, bare.Resource = ast.ScopeTypeAll{}, ast.ScopeTypeAll{}, ast.ScopeTypeAll{}
	return cedar.NewPolicyFromAST((*publicast.Policy)(&bare))
}

// SameConditions reports whether two policies have the same effect and the same
// conditions, part by part.
func SameConditions(a, b *cedar.Policy) bool {
	return a.Effect() == b.Effect() && slices.EqualFunc((*ast.Policy)(a.AST()).Conditions, (*ast.Policy)(b.AST()).Conditions,
		func(a, b ast.ConditionType) bool {
			return a.Condition == b.Condition && ast.Equal(ast.NewNode(a.Body), ast.NewNode(b.Body))
		})
}

// Gist is the same for policies of which SameConditions is true, and for hardly
// any others.
func Gist(p *cedar.Policy) string {
	a := (*ast.Policy)(p.AST())
	b := strconv.AppendBool(nil, bool(a.Effect))
	for _, c := range a.Conditions {
		b = strconv.AppendBool(b, bool(c.Condition))
		ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
			b = appendText(b, reflect.TypeOf(n).Name())
			switch n := n.(type) {
			case ast.NodeValue:
				b = appendText(b, n.Value.String())
			case ast.NodeTypeVariable:
				b = appendText(b, string(n.Name))
			case ast.NodeTypeAccess:
				b = appendText(b, string(n.Value))
			case ast.NodeTypeHas:
				b = appendText(b, string(n.Value))
			case ast.NodeTypeLike:
				b = append(b, n.Value.MarshalCedar()...)
			}
			return true
		})
	}
	return string(b)
}

// ReadsTags reports whether a condition of p asks for an entity's tags.
func ReadsTags(p *cedar.Policy) bool {
	found := false
	for _, c := range (*ast.Policy)(p.AST()).Conditions {
		ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
			switch n.(type) {
			case ast.NodeTypeHasTag, ast.NodeTypeGetTag:
				found = true
			}
			return !found
		})
	}
	return found
}

// Entities returns every entity that p names, in scope and conditions, in the
// order in which they stand there.
func Entities(p *cedar.Policy) []types.EntityUID {
	a := (*ast.Policy)(p.AST())
	var out []types.EntityUID
	for _, s := range []Scope{scope(a.Principal), scope(a.Action), scope(a.Resource)} {
		out = append(out, s.Any...)
	}
	for _, c := range a.Conditions {
		ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
			if v, ok := n.(ast.NodeValue); ok {
				if e, ok := v.Value.(types.EntityUID); ok {
					out = append(out, e)
				}
			}
			return true
		})
	}
	return out
}
