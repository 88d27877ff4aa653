package sandbox

import (
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// What is read of an OpenShell policy. A field is its place in the file.
type (
	shellPolicy struct {
		readOnly, readWrite []string
		files               bool // it has a filesystem_policy
		workdir             bool
		compatibility       string
		blocks              []shellBlock
	}
	shellBlock struct {
		field     string
		endpoints []shellEndpoint
		binaries  []shellBinary
	}
	shellBinary struct {
		field, path string
	}
	shellEndpoint struct {
		field       string
		host, path  string
		port        []uint16
		ports       []uint16
		protocol    string
		tls         string
		enforcement string
		access      string
		allow, deny []shellRequest
	}
	shellRequest struct {
		field, method, path string
		query               bool
	}
)

func (i *importer) read(text []byte) *shellPolicy {
	body := i.parse(text)
	if body == nil {
		return nil
	}
	var o shellPolicy
	var version int64
	i.object(body, "", map[string]setter{
		"version": i.integer(&version),
		"filesystem_policy": func(n ast.Node, f string) {
			o.files = true
			i.object(n, f, map[string]setter{
				"include_workdir": i.truth(&o.workdir),
				"read_only":       i.texts(&o.readOnly),
				"read_write":      i.texts(&o.readWrite),
			})
		},
		"landlock": func(n ast.Node, f string) {
			i.object(n, f, map[string]setter{"compatibility": i.text(&o.compatibility)})
			switch o.compatibility {
			case "", "best_effort", "hard_requirement":
			default:
				i.refuse(f+".compatibility", fmt.Sprintf("%q is not a value of it", o.compatibility), "write best_effort or hard_requirement")
			}
		},
		"process": func(n ast.Node, f string) {
			var user, group string
			i.object(n, f, map[string]setter{"run_as_user": i.scalar(&user), "run_as_group": i.scalar(&group)})
			for _, who := range []string{user, group} {
				if who == "root" || who == "0" {
					i.refuse(f, "root is refused there, and there is no root here", "leave it out")
				}
			}
			i.dropped(f, "a session has a user of its own, who is nobody outside")
		},
		"network_policies": func(n ast.Node, f string) {
			i.entries(n, f, func(key string, n ast.Node, f string) { o.blocks = append(o.blocks, i.block(n, f)) })
		},
		"network_middlewares": func(n ast.Node, f string) {
			if len(pairs(n)) > 0 {
				i.refuse(f, "a middleware changes or refuses requests, and cannot be said here", "serve the hosts with Session.Handle and a handler that does the same")
			}
		},
	})
	switch {
	case i.places["version"] == nil && pairs(body) != nil:
		i.bad(position(body), "version", "it is missing", "only version 1 is known")
	case version > 1:
		i.refuse("version", fmt.Sprintf("%d is not a version that is known", version), "only version 1 is")
	}
	return &o
}

func (i *importer) block(n ast.Node, field string) shellBlock {
	b := shellBlock{field: field}
	i.object(n, field, map[string]setter{
		"name": i.text(new(string)),
		"endpoints": func(n ast.Node, f string) {
			i.list(n, f, func(n ast.Node, f string) { b.endpoints = append(b.endpoints, i.endpoint(n, f)) })
		},
		"binaries": func(n ast.Node, f string) {
			i.list(n, f, func(n ast.Node, f string) {
				bin := shellBinary{field: f}
				i.object(n, f, map[string]setter{"path": i.text(&bin.path), "harness": i.truth(new(bool))})
				b.binaries = append(b.binaries, bin)
			})
		},
	})
	return b
}

// credentialKeys are about credentials that the proxy puts into requests.
var credentialKeys = []string{
	"websocket_credential_rewrite", "request_body_credential_rewrite", "allow_uninspected_credentials",
	"credential_signing", "signing_service", "signing_region", "credential_binding",
}

func (i *importer) endpoint(n ast.Node, field string) shellEndpoint {
	e := shellEndpoint{field: field}
	keys := map[string]setter{
		"host": i.text(&e.host), "path": i.text(&e.path),
		"port": func(n ast.Node, f string) {
			var p int64
			if i.integer(&p)(n, f); p > 65535 {
				i.refuse(f, fmt.Sprintf("%d is not a port", p), "write 1 to 65535")
			} else if p > 0 {
				e.port = []uint16{uint16(p)}
			}
		},
		"ports": i.ports(&e.ports), "protocol": i.text(&e.protocol), "tls": i.text(&e.tls),
		"enforcement": i.text(&e.enforcement), "access": i.text(&e.access),
		"rules": func(n ast.Node, f string) {
			i.list(n, f, func(n ast.Node, f string) {
				i.object(n, f, map[string]setter{"allow": func(n ast.Node, f string) { e.allow = append(e.allow, i.request(n, f)) }})
			})
			if len(e.allow) == 0 {
				i.refuse(f, "nothing is allowed", "list rules, or write access")
			}
		},
		"deny_rules": func(n ast.Node, f string) {
			i.list(n, f, func(n ast.Node, f string) { e.deny = append(e.deny, i.request(n, f)) })
		},
		"allowed_ips": func(n ast.Node, f string) {
			i.refuse(f, "addresses cannot be listed; names are what is reachable", "leave it out, and write private: true for the host in this package's own form, if it is one of the host's network")
		},
		"allow_encoded_slash": func(n ast.Node, f string) {
			i.truth(new(bool))(n, f)
			i.dropped(f, "an escaped slash passes where both ways to read it are allowed")
		},
	}
	for _, k := range credentialKeys {
		keys[k] = func(_ ast.Node, f string) {
			i.dropped(f, "requests are sent as they are; a handler that adds the credential is given to Session.Handle")
		}
	}
	for _, k := range []string{"persisted_queries", "graphql_persisted_queries", "graphql_max_body_bytes", "json_rpc", "mcp"} {
		keys[k] = func(_ ast.Node, f string) {
			i.refuse(f, "only methods and paths are judged here, not bodies", "serve the name with Session.Handle and a handler that judges them, such as a gateway of package mcpx")
		}
	}
	i.object(n, field, keys)
	return e
}

func (i *importer) request(n ast.Node, field string) shellRequest {
	q := shellRequest{field: field}
	keys := map[string]setter{
		"method": i.text(&q.method), "path": i.text(&q.path),
		"query": func(n ast.Node, f string) { q.query = len(pairs(n)) > 0 },
	}
	for _, k := range []string{"command", "operation_type", "operation_name", "fields", "tool", "params"} {
		keys[k] = func(_ ast.Node, f string) {
			i.refuse(f, "only methods and paths are judged here, not bodies", "serve the name with Session.Handle and a handler that judges them")
		}
	}
	i.object(n, field, keys)
	return q
}

// scalar reads text or a number as text.
func (r *policyReader) scalar(to *string) setter {
	return func(n ast.Node, field string) {
		switch n.(type) {
		case *ast.StringNode, *ast.IntegerNode:
			*to = n.GetToken().Value
		default:
			r.wrong(n, field, "text or a number", "one")
		}
	}
}

// judged reports whether an endpoint looks at requests.
func (e *shellEndpoint) judged() bool {
	return e.protocol != "" && !strings.EqualFold(e.protocol, "tcp") || e.access != "" || e.allow != nil || e.deny != nil
}

func (e *shellEndpoint) allPorts() []uint16 {
	if len(e.ports) > 0 {
		return set(e.ports)
	}
	return slices.Clone(e.port)
}
