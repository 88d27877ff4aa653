package sandbox

import (
	"errors"
	"fmt"
	"slices"
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
//	  protect: [.git/hooks, .mcp.json]        # of the writable ones
//	  tmp_size: 256MiB
//	process:
//	  max_processes: 512
//	  max_open_files: 4096
//	  max_file_size: 4GiB
//	  max_memory: 8GiB                        # of one process; absent: no limit
//	  max_total_memory: 16GiB                 # of the session; absent: no limit
//	  max_cpu: 1.5                            # processors; absent: no limit
//	  exec: strict                            # absent: anything that can be read
//	  programs: [/usr/bin/git]                # absent: any
//	environment:
//	  LANG: C.UTF-8
//	network:
//	  allow:
//	    - {host: inference.local, ports: [443, 80]}
//	    - host: "*.example.com"               # ports: [443]
//	    - {host: db.corp.example, ports: [5432], private: true}
//	    - {host: github.example.com, served: true}
//	    - host: api.github.com
//	      protocol: https                     # or http, tcp
//	      access: read-only                   # or read-write, full, or rules:
//	      deny: [{methods: [GET], path: /user/**}]
//	      programs: [{path: /usr/bin/git, sha256: 64 digits}]
//	devices: [gpu]
//	inference: {host: inference.local}        # as a served rule
//	services: [tools.local]                   # each as a served rule
//
// All but version can be left out; what each means is at the fields of
// [Policy]. The reading is strict: an unknown or repeated key, an empty value, a
// value of another type, an alias, a tag or a second document is an error. All
// errors are [*PolicyError] with line and column, joined.
func LoadPolicy(name string, text []byte) (*Policy, error) {
	r := &policyReader{file: name, places: make(map[string]*token.Position)}
	p := r.read(text)
	if p != nil {
		unread := slices.Clone(r.errs)
		p.check(func(field, problem, fix string) {
			// What could not be read is not judged as well, nor what lies around it.
			if !slices.ContainsFunc(unread, func(e *PolicyError) bool { return inside(e.Field, field) || inside(field, e.Field) }) {
				r.bad(r.place(field), field, problem, fix)
			}
		}, func(field string) string {
			at := r.place(field)
			if at == nil {
				return field
			}
			return fmt.Sprintf("%s (line %d)", field, at.Line)
		})
	}
	if len(r.errs) == 0 {
		return p, nil
	}
	return nil, r.sorted()
}

// inside reports whether field is outer or a part of it.
func inside(field, outer string) bool {
	rest, ok := strings.CutPrefix(field, outer)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
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
	body := r.parse(text)
	if body == nil {
		return nil
	}
	var p Policy
	r.policy(body, &p)
	return &p
}

// parse returns the syntax tree of a file, or nil with the error noted.
func (r *policyReader) parse(text []byte) ast.Node {
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
	return body
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
				"protect":    r.texts(&p.Filesystem.Protect),
				"tmp_size":   r.size(&p.Filesystem.TmpSize),
			})
		},
		"process": func(n ast.Node, f string) {
			r.object(n, f, map[string]setter{
				"max_processes":    r.integer(&p.Process.MaxProcesses),
				"max_open_files":   r.integer(&p.Process.MaxOpenFiles),
				"max_file_size":    r.size(&p.Process.MaxFileSize),
				"max_memory":       r.size(&p.Process.MaxMemory),
				"max_total_memory": r.size(&p.Process.MaxTotalMemory),
				"max_cpu":          r.thousandths(&p.Process.MaxCPU),
				"exec":             word(r, &p.Process.Exec),
				"programs":         r.programs(&p.Process.Programs),
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
		"devices": r.texts(&p.Devices),
		"inference": func(n ast.Node, f string) {
			p.Inference = &Inference{}
			r.object(n, f, map[string]setter{
				"host":     r.text(&p.Inference.Host),
				"programs": r.programs(&p.Inference.Programs),
			})
		},
		"services": r.texts(&p.Services),
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
					"host":     r.text(&rule.Host),
					"ports":    r.ports(&rule.Ports),
					"private":  r.truth(&rule.Private),
					"served":   r.truth(&rule.Served),
					"protocol": word(r, &rule.Protocol),
					"access":   word(r, &rule.Access),
					"rules":    r.requests(&rule.Rules),
					"deny":     r.requests(&rule.Deny),
					"programs": r.programs(&rule.Programs),
				})
				net.Allow = append(net.Allow, rule)
			})
		},
	})
}

// requests reads a list of rules about requests.
func (r *policyReader) requests(to *[]HTTPRule) setter {
	return func(n ast.Node, field string) {
		*to = []HTTPRule{}
		r.list(n, field, func(n ast.Node, f string) {
			var h HTTPRule
			r.object(n, f, map[string]setter{"methods": r.texts(&h.Methods), "path": r.text(&h.Path)})
			*to = append(*to, h)
		})
	}
}

// programs reads a list of programs, each a mapping or its path alone.
func (r *policyReader) programs(to *[]Program) setter {
	return func(n ast.Node, field string) {
		*to = []Program{}
		r.list(n, field, func(n ast.Node, f string) {
			var p Program
			if pairs(n) == nil {
				r.text(&p.Path)(n, f)
			} else {
				r.object(n, f, map[string]setter{"path": r.text(&p.Path), "sha256": r.text(&p.SHA256)})
			}
			*to = append(*to, p)
		})
	}
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
