package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"github.com/twinward-dev/twinward/governance/strictyaml"
)

// LoadPolicy reads a policy file of at most 64 KiB. name is what errors call it.
//
//	version: 1
//	filesystem:
//	  read_only: [/usr, /bin, /lib, /lib64]   # absent: the system's own; [] : none
//	  read_write: [/srv/cache]                # besides /sandbox and /tmp
//	  tmp_size: 256MiB
//	process:
//	  max_processes: 512
//	  max_open_files: 4096
//	  max_file_size: 4GiB
//	  max_memory: 8GiB                        # of one process; absent: no limit
//	environment:
//	  LANG: C.UTF-8
//	network:
//	  allow:
//	    - {host: inference.local, ports: [443, 80]}
//	    - host: "*.example.com"               # ports: [443]
//	    - {host: db.corp.example, ports: [5432], private: true}
//	    - {host: api.github.com, served: true}
//
// All but version can be left out; what each means is at the fields of
// [Policy]. The reading is strict: an unknown or repeated key, an empty value, a
// value of another type, an alias, a tag or a second document is an error. All
// errors are [*PolicyError] with line and column, joined.
func LoadPolicy(name string, text []byte) (*Policy, error) {
	r := &policyReader{file: name, places: make(map[string]*token.Position)}
	p := r.read(text)
	if p != nil {
		p.check(func(field, problem, fix string) {
			// A value that could not be read is not judged as well.
			if !slices.ContainsFunc(r.errs, func(e *PolicyError) bool { return e.Field == field }) {
				r.bad(r.place(field), field, problem, fix)
			}
		})
	}
	if len(r.errs) == 0 {
		return p, nil
	}
	slices.SortStableFunc(r.errs, func(a, b *PolicyError) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	errs := make([]error, len(r.errs))
	for i, e := range r.errs {
		errs[i] = e
	}
	return nil, errors.Join(errs...)
}

// A policyReader walks the syntax tree and remembers where each field stands.
type policyReader struct {
	file   string
	places map[string]*token.Position
	key    *token.Position // of the key whose value is being read
	errs   []*PolicyError
}

func (r *policyReader) bad(at *token.Position, field, problem, fix string) {
	e := &PolicyError{File: r.file, Field: field, Problem: problem, Fix: fix}
	if at != nil {
		e.Line, e.Column = at.Line, at.Column
	}
	r.errs = append(r.errs, e)
}

// place returns the position of a field, or of the nearest field around it.
func (r *policyReader) place(field string) *token.Position {
	for field != "" {
		if at := r.places[field]; at != nil {
			return at
		}
		field = field[:max(0, strings.LastIndexAny(field, ".["))]
	}
	return nil
}

func (r *policyReader) read(text []byte) *Policy {
	body, err := strictyaml.Parse(r.file, text, maxPolicyFile)
	if err != nil {
		e, ok := errors.AsType[*strictyaml.Error](err)
		if !ok {
			e = &strictyaml.Error{Message: err.Error()}
		}
		var at *token.Position
		if e.Line > 0 {
			at = &token.Position{Line: e.Line, Column: e.Column}
		}
		r.bad(at, "", e.Message, e.Fix)
		return nil
	}
	var p Policy
	r.policy(body, &p)
	return &p
}

// A setter reads the value of one key.
type setter func(n ast.Node, field string)

func (r *policyReader) policy(n ast.Node, p *Policy) {
	r.object(n, "", map[string]setter{
		"version": func(n ast.Node, f string) {
			v := int64(1)
			r.integer(&v)(n, f)
			p.Version = int(v)
		},
		"filesystem": func(n ast.Node, f string) {
			r.object(n, f, map[string]setter{
				"read_only":  r.texts(&p.Filesystem.ReadOnly),
				"read_write": r.texts(&p.Filesystem.ReadWrite),
				"tmp_size":   r.size(&p.Filesystem.TmpSize),
			})
		},
		"process": func(n ast.Node, f string) {
			r.object(n, f, map[string]setter{
				"max_processes":  r.integer(&p.Process.MaxProcesses),
				"max_open_files": r.integer(&p.Process.MaxOpenFiles),
				"max_file_size":  r.size(&p.Process.MaxFileSize),
				"max_memory":     r.size(&p.Process.MaxMemory),
			})
		},
		"environment": func(n ast.Node, f string) {
			p.Environment = make(Environment)
			r.entries(n, f, func(key string, n ast.Node, f string) {
				var v string
				r.text(&v)(n, f)
				p.Environment[key] = v
			})
		},
		"network": func(n ast.Node, f string) { r.network(n, f, &p.Network) },
	})
	if r.places["version"] == nil && pairs(n) != nil {
		r.bad(position(n), "version", "it is missing", "write version: 1")
	}
}

func (r *policyReader) network(n ast.Node, field string, net *Network) {
	r.object(n, field, map[string]setter{
		"allow": func(n ast.Node, f string) {
			r.list(n, f, func(n ast.Node, f string) {
				var rule Rule
				r.object(n, f, map[string]setter{
					"host":    r.text(&rule.Host),
					"ports":   r.ports(&rule.Ports),
					"private": r.truth(&rule.Private),
					"served":  r.truth(&rule.Served),
				})
				net.Allow = append(net.Allow, rule)
			})
		},
	})
}

// allowForm is what an "egress" list of another project means here.
func allowForm(n ast.Node) string {
	host, port := "api.example.com", "443"
	if seq, ok := n.(*ast.SequenceNode); ok && len(seq.Values) > 0 {
		for _, v := range pairs(seq.Values[0]) {
			if s, ok := v.Value.(*ast.StringNode); ok && v.Key.GetToken().Value == "destination" {
				if h, p, ok := strings.Cut(s.Value, ":"); ok {
					host, port = h, p
				} else {
					host = s.Value
				}
			}
		}
	}
	return fmt.Sprintf("network:\n  allow:\n    - host: %q\n      ports: [%s]", host, port)
}

// object reads a mapping whose keys are known.
func (r *policyReader) object(n ast.Node, field string, keys map[string]setter) {
	r.entries(n, field, func(key string, n ast.Node, f string) {
		if set, ok := keys[key]; ok {
			set(n, f)
			return
		}
		problem, fix := "an unknown key", "the keys here are "+strings.Join(slices.Sorted(maps.Keys(keys)), ", ")
		if f == "network.egress" { // a form that is written about elsewhere
			problem, fix = "an unknown key; what is allowed is a list of hosts with ports, and the rest is denied", "write\n"+allowForm(n)
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
