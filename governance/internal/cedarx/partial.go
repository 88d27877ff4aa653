package cedarx

import (
	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/eval"
)

// Outcomes is the set of results that a policy can have: a bit set.
type Outcomes uint8

// What evaluating a policy can come to.
const (
	Matches Outcomes = 1 << iota // the policy applies
	Fails                        // it does not
	Errs                         // its evaluation ends in an error
)

const anything = Matches | Fails | Errs

// WithUnknownContext returns every result that p can have for this principal,
// action and resource, over all contexts. It may name results that no context
// produces, and never omits one that some context does.
func WithUnknownContext(p *cedar.Policy, entities types.EntityGetter, principal, action, resource types.EntityUID) Outcomes {
	env := eval.Env{
		Entities:  entities,
		Principal: principal,
		Action:    action,
		Resource:  resource,
		Context:   eval.Variable("context"),
	}
	// One condition at a time, in order: PartialPolicy drops a policy when any of
	// its conditions is false, but one that fails with an error before is an error.
	one := *(*ast.Policy)(p.AST())
	conditions := one.Conditions
	one.Conditions = nil
	if _, kept := eval.PartialPolicy(env, &one); !kept {
		return Fails // its scope
	}
	all := Matches
	for _, c := range conditions {
		one.Conditions = []ast.ConditionType{c}
		all = and(all, condition(eval.PartialPolicy(env, &one)))
	}
	return all
}

// condition returns what the only condition of a policy can come to.
func condition(residual *ast.Policy, kept bool) Outcomes {
	switch {
	case !kept:
		return Fails
	case len(residual.Conditions) == 0:
		return Matches
	}
	c := residual.Conditions[0]
	o := possible(c.Body)
	if c.Condition == ast.ConditionUnless {
		o = not(o)
	}
	return o
}

// possible evaluates a residual with the three values match, fail and error,
// following Cedar's short circuits. Whatever it does not understand can be
// anything.
func possible(n ast.IsNode) Outcomes {
	switch v := n.(type) {
	case ast.NodeValue:
		switch v.Value {
		case types.True:
			return Matches
		case types.False:
			return Fails
		}
		return anything
	case ast.NodeTypeNot:
		return not(possible(v.Arg))
	case ast.NodeTypeAnd:
		return and(possible(v.Left), possible(v.Right))
	case ast.NodeTypeOr:
		return not(and(not(possible(v.Left)), not(possible(v.Right))))
	case ast.NodeTypeIfThenElse:
		cond := possible(v.If)
		out := cond & Errs
		if cond&Matches != 0 {
			out |= possible(v.Then)
		}
		if cond&Fails != 0 {
			out |= possible(v.Else)
		}
		return out
	}
	if _, ok := eval.ToPartialError(n); ok {
		return Errs
	}
	return anything
}

func not(o Outcomes) Outcomes {
	out := o & Errs
	if o&Matches != 0 {
		out |= Fails
	}
	if o&Fails != 0 {
		out |= Matches
	}
	return out
}

// and: the right side is reached only when the left side matches.
func and(left, right Outcomes) Outcomes {
	out := left & (Fails | Errs)
	if left&Matches != 0 {
		out |= right
	}
	return out
}

// IgnoringConditions is WithUnknownContext for a policy about whose conditions
// nothing is known: only its scope can rule it out.
func IgnoringConditions(p *cedar.Policy, entities types.EntityGetter, principal, action, resource types.EntityUID) Outcomes {
	bare := *(*ast.Policy)(p.AST())
	bare.Conditions = nil
	env := eval.Env{Entities: entities, Principal: principal, Action: action, Resource: resource}
	if _, kept := eval.PartialPolicy(env, &bare); !kept {
		return Fails
	}
	return anything
}
