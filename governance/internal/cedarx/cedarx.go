// Package cedarx is the only place that imports the experimental half of
// cedar-go (x/exp), whose API may change in any release. It offers three
// things the stable half lacks: validation against a schema, walking a
// policy's scope, and partial evaluation with an unknown context.
//
// It never imports x/exp/batch: that evaluator allows requests which
// cedar.Authorize denies when an unknown is nested in a larger value. For the
// same reason partial evaluation here leaves the whole context unknown or
// nothing.
package cedarx

import (
	"fmt"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"
)

// A Validator checks policies and entities against one schema, strictly.
type Validator struct {
	v *validate.Validator // of the whole schema
	s *slicer
}

// NewValidator parses a schema in Cedar's own syntax.
func NewValidator(name, text string) (*Validator, error) {
	var s schema.Schema
	s.SetFilename(name)
	if err := s.UnmarshalCedar([]byte(text)); err != nil {
		return nil, fmt.Errorf("parse schema: %w", err)
	}
	var r *resolved.Schema
	r, err := s.Resolve()
	if err != nil {
		return nil, fmt.Errorf("resolve schema: %w", err)
	}
	return &Validator{v: validate.New(r, validate.WithStrict()), s: newSlicer(r)}, nil
}

// Policy returns what is wrong with p, one error each. Its cost depends on how
// many kinds of actions p is about, and not on how many there are.
//
// The validator types every when and unless clause on its own, so that a "has"
// test in one clause does not help the next. The clauses are one conjunction in
// Cedar, therefore they are folded into one before they are checked.
func (v *Validator) Policy(p *cedar.Policy) []error {
	folded := fold((*ast.Policy)(p.AST()))
	errs := flatten(v.s.For(folded).Policy("", folded))
	if paired, ok := pairs(p); ok && len(errs) == 0 {
		folded = fold(paired)
		errs = flatten(v.s.For(folded).Policy("", folded))
	}
	return errs
}

// Impossible reports whether the types alone say that the conditions of p never
// hold: for every action, principal and resource that its scope matches, they
// are false or fail. It means something only for a policy without errors.
func (v *Validator) Impossible(p *cedar.Policy) bool {
	folded := fold((*ast.Policy)(p.AST()))
	if len(folded.Conditions) == 0 {
		return false
	}
	// The type checker does not tell what it found, but leaves out what follows a
	// condition that is false: an obvious mistake there stays unseen.
	cond := ast.NewNode(clause(folded.Conditions[0]))
	folded.Conditions = []ast.ConditionType{{
		Condition: ast.ConditionWhen,
		Body:      ast.IfThenElse(cond, ast.Not(ast.Long(1)), ast.True()).AsIsNode(),
	}}
	return v.s.For(folded).Policy("", folded) == nil
}

func fold(p *ast.Policy) *ast.Policy {
	folded := *p
	if len(folded.Conditions) > 1 {
		body := clause(folded.Conditions[0])
		for _, c := range folded.Conditions[1:] {
			body = ast.NodeTypeAnd{BinaryNode: ast.BinaryNode{Left: body, Right: clause(c)}}
		}
		folded.Conditions = []ast.ConditionType{{Condition: ast.ConditionWhen, Body: body}}
	}
	return &folded
}

// Entity returns what is wrong with e, or nil.
func (v *Validator) Entity(e types.Entity) error { return v.v.Entity(e) }

func clause(c ast.ConditionType) ast.IsNode {
	if c.Condition == ast.ConditionUnless {
		return ast.NodeTypeNot{UnaryNode: ast.UnaryNode{Arg: c.Body}}
	}
	return c.Body
}

func flatten(err error) []error {
	if err == nil {
		return nil
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		var out []error
		for _, e := range many.Unwrap() {
			out = append(out, flatten(e)...)
		}
		return out
	}
	return []error{err}
}
