package cedarx

import (
	"encoding/json"

	"github.com/cedar-policy/cedar-go"
	publicast "github.com/cedar-policy/cedar-go/ast"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

type publicPolicy = publicast.Policy

// A Mention is a constant that a policy compares with something of the request.
type Mention struct {
	// Path is what it is compared with, as in [Term].
	Path []string
	// Op is how: "==", "!=", "<", "<=", ">", ">=", "in", "like", "has",
	// "contains" (the term holds Value), "one of" (Value, a set, holds the term),
	// "near" (the term is part of a calculation that is compared with Value),
	// "containsAll", "containsAny", or the name of an extension function.
	Op string
	// Value is the constant; nil for "has" and "like".
	Value types.Value
	// Parts are the texts before, between and after the wildcards of "like".
	Parts []string
}

// Mentions returns those of all conditions of p, in order.
func Mentions(p *cedar.Policy) []Mention {
	var out []Mention
	for _, c := range (*ast.Policy)(p.AST()).Conditions {
		out = append(out, mentions(c.Body)...)
	}
	return out
}

// Mentions returns those of one clause.
func (c Clause) Mentions() []Mention { return mentions(c.node) }

func mentions(n ast.IsNode) (out []Mention) {
	near := func(calculation ast.IsNode, v types.Value) {
		if _, ok := pathOf(calculation); ok || v == nil {
			return
		}
		for _, t := range (Clause{calculation}).Terms() {
			for _, v := range leaves(v) {
				out = append(out, Mention{Path: t.Path, Op: "near", Value: v})
			}
		}
	}
	pair := func(op, mirrored string, b ast.BinaryNode) {
		near(b.Left, constant(b.Right))
		near(b.Right, constant(b.Left))
		if path, ok := pathOf(b.Left); ok {
			if v := constant(b.Right); v != nil {
				out = append(out, Mention{Path: path, Op: op, Value: v})
			}
		}
		if path, ok := pathOf(b.Right); ok && mirrored != "" {
			if v := constant(b.Left); v != nil {
				out = append(out, Mention{Path: path, Op: mirrored, Value: v})
			}
		}
	}
	ast.Inspect(ast.NewNode(n), func(n ast.IsNode) bool {
		if c, ok := comparisonOf(n); ok {
			pair(c.op, c.mirrored, c.BinaryNode)
			return true
		}
		switch v := n.(type) {
		case ast.NodeTypeIsIn:
			if path, ok := pathOf(v.Left); ok {
				if c := constant(v.Entity); c != nil {
					out = append(out, Mention{Path: path, Op: "in", Value: c})
				}
			}
		case ast.NodeTypeLike:
			if path, ok := pathOf(v.Arg); ok {
				out = append(out, Mention{Path: path, Op: "like", Parts: parts(v.Value)})
			}
		case ast.NodeTypeHas:
			if path, ok := pathOf(v.Arg); ok {
				out = append(out, Mention{Path: append(path, string(v.Value)), Op: "has"})
			}
		case ast.NodeTypeHasTag:
			if path, ok := pathOf(v.Left); ok {
				if name, ok := constant(v.Right).(types.String); ok {
					out = append(out, Mention{Path: append(path, "tag:"+string(name)), Op: "has"})
				}
			}
		case ast.NodeTypeExtensionCall:
			if len(v.Args) == 2 {
				pair(string(v.Name), string(v.Name), ast.BinaryNode{Left: v.Args[0], Right: v.Args[1]})
			}
		}
		return true
	})
	return out
}

// parts reads a pattern, which shows its inside only as JSON.
func parts(p types.Pattern) []string {
	text, err := p.MarshalJSON()
	if err != nil {
		return nil
	}
	var list []any
	if json.Unmarshal(text, &list) != nil {
		return nil
	}
	out := []string{""}
	for _, c := range list {
		if m, ok := c.(map[string]any); ok {
			s, _ := m["Literal"].(string)
			out[len(out)-1] += s
			continue
		}
		out = append(out, "")
	}
	return out
}

// leaves are the values inside a record, or v itself.
func leaves(v types.Value) (out []types.Value) {
	r, ok := v.(types.Record)
	if !ok {
		return []types.Value{v}
	}
	for _, inner := range r.All() {
		out = append(out, leaves(inner)...)
	}
	return out
}
