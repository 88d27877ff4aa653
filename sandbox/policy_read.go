package sandbox

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// object reads a mapping whose keys are known.
func (r *policyReader) object(n ast.Node, field string, keys map[string]setter) {
	r.entries(n, field, func(key string, n ast.Node, f string) {
		if set, ok := keys[key]; ok {
			set(n, f)
			return
		}
		problem, fix := "an unknown key", "the keys here are "+strings.Join(slices.Sorted(maps.Keys(keys)), ", ")
		switch f { // forms that are written about elsewhere
		case "network.egress":
			problem, fix = "an unknown key; what is allowed is a list of hosts with ports, and the rest is denied", "write\n"+allowForm(n)
		case "network_policies", "filesystem_policy", "landlock", "network_middlewares": // a policy of ours has none of them
			problem, fix = "a key of OpenShell's policy format", "read this file with ImportOpenShell, or write this format; "+fix
		}
		r.bad(r.key, f, problem, fix)
	})
}

// entries reads a mapping with any keys.
func (r *policyReader) entries(n ast.Node, field string, each func(key string, n ast.Node, field string)) {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
	default:
		r.wrong(n, field, "a mapping", "keys with values")
		return
	}
	seen := make(map[string]bool)
	for _, v := range pairs(n) {
		k, ok := v.Key.(*ast.StringNode)
		if !ok {
			r.bad(v.Key.GetToken().Position, field, fmt.Sprintf("%q is not a plain key", v.Key.GetToken().Value), "write a word")
			continue
		}
		f := k.Value
		if field != "" {
			f = field + "." + k.Value
		}
		if seen[k.Value] {
			r.bad(k.Token.Position, f, "the key is there twice", "keep one of them")
			continue
		}
		seen[k.Value] = true
		r.key, r.places[f] = k.Token.Position, position(v.Value)
		each(k.Value, v.Value, f)
	}
}

func pairs(n ast.Node) []*ast.MappingValueNode {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}
	}
	return nil
}

func (r *policyReader) list(n ast.Node, field string, each setter) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		r.wrong(n, field, "a list", "a list, such as [a, b]")
		return
	}
	for i, v := range seq.Values {
		f := fmt.Sprintf("%s[%d]", field, i)
		r.places[f] = position(v)
		each(v, f)
	}
}

func (r *policyReader) texts(to *[]string) setter {
	return func(n ast.Node, field string) {
		*to = []string{} // an empty list is not an absent one
		r.list(n, field, func(n ast.Node, f string) {
			var s string
			r.text(&s)(n, f)
			*to = append(*to, s)
		})
	}
}

func (r *policyReader) ports(to *[]uint16) setter {
	return func(n ast.Node, field string) {
		r.list(n, field, func(n ast.Node, f string) {
			var p int64
			r.integer(&p)(n, f)
			if p > 65535 {
				r.bad(position(n), f, fmt.Sprintf("%d is not a port", p), "write 1 to 65535")
				return
			}
			*to = append(*to, uint16(p))
		})
		if seq, ok := n.(*ast.SequenceNode); ok && len(seq.Values) == 0 {
			r.bad(position(n), field, "no port is listed", "list some, or leave ports out for 443")
		}
	}
}

func (r *policyReader) text(to *string) setter {
	return func(n ast.Node, field string) {
		switch n := n.(type) {
		case *ast.StringNode:
			*to = n.Value
		case *ast.LiteralNode:
			*to = n.Value.Value
		default:
			r.wrong(n, field, "text", "text, in quotes")
		}
	}
}

// word reads text that is one of a few words; which, is checked later.
func word[T ~string](r *policyReader, to *T) setter {
	return func(n ast.Node, field string) {
		var s string
		if r.text(&s)(n, field); s == "" && n.Type() == ast.StringType {
			r.wrong(n, field, "a word", "one, or leave it out")
		}
		*to = T(s)
	}
}

func (r *policyReader) truth(to *bool) setter {
	return func(n ast.Node, field string) {
		b, ok := n.(*ast.BoolNode)
		if !ok {
			r.wrong(n, field, "true or false", "true, or leave it out")
			return
		}
		*to = b.Value
	}
}

// integer reads a number above zero; zero means "default" in Go and nothing in
// a file.
func (r *policyReader) integer(to *int64) setter {
	return func(n ast.Node, field string) {
		v, err := strconv.ParseInt(n.GetToken().Value, 10, 64)
		if _, ok := n.(*ast.IntegerNode); !ok || err != nil || v <= 0 {
			r.wrong(n, field, "a number above zero", "it in decimal digits")
			return
		}
		*to = v
	}
}

// thousandths reads a number above zero with at most three decimals.
func (r *policyReader) thousandths(to *int64) setter {
	return func(n ast.Node, field string) {
		whole, part, _ := strings.Cut(n.GetToken().Value, ".")
		for len(part) < 3 {
			part += "0"
		}
		v, err := strconv.ParseInt(whole+part, 10, 64)
		switch n.(type) {
		case *ast.IntegerNode, *ast.FloatNode:
		default:
			err = errors.New("not a number")
		}
		if err != nil || v <= 0 || len(part) > 3 {
			r.wrong(n, field, "a number above zero", "one such as 1.5, with at most three decimals")
			return
		}
		*to = v
	}
}

// size reads a number of bytes, with or without a binary unit.
func (r *policyReader) size(to *int64) setter {
	return func(n ast.Node, field string) {
		text := n.GetToken().Value
		shift := 0
		for i, unit := range []string{"KiB", "MiB", "GiB", "TiB"} {
			if t, ok := strings.CutSuffix(text, unit); ok {
				text, shift = strings.TrimSpace(t), 10*(i+1)
			}
		}
		v, err := strconv.ParseInt(text, 10, 64)
		switch n.(type) {
		case *ast.IntegerNode, *ast.StringNode:
		default:
			err = errors.New("not a scalar")
		}
		if err != nil || v <= 0 || v > (1<<60)>>shift {
			r.wrong(n, field, "a size", "one such as 256MiB (the units are KiB, MiB, GiB, TiB)")
			return
		}
		*to = v << shift
	}
}

// wrong reports a value of another type than the field has.
func (r *policyReader) wrong(n ast.Node, field, want, form string) {
	problem, fix := "the value is not "+want, "write "+form
	switch n := n.(type) {
	case *ast.NullNode:
		problem, fix = "the value is empty", "leave the key out, or write "+form
	case *ast.AliasNode:
		problem, fix = "YAML reads a leading * as a reference", fmt.Sprintf("put it in quotes: %q", "*"+n.Value.GetToken().Value)
	case *ast.AnchorNode, *ast.TagNode, *ast.MergeKeyNode:
		problem, fix = "anchors, tags and merges are not part of this format", "write the value out"
	}
	r.bad(position(n), field, problem, fix)
}

// position is where a value begins.
func position(n ast.Node) *token.Position {
	if p := pairs(n); len(p) > 0 {
		if m, ok := n.(*ast.MappingNode); !ok || !m.IsFlowStyle {
			return p[0].Key.GetToken().Position
		}
	}
	if l, ok := n.(*ast.LiteralNode); ok {
		return l.Start.Position
	}
	return n.GetToken().Position
}
