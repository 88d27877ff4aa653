package sandbox_test

import (
	"errors"
	"fmt"

	"github.com/twinward-dev/twinward/sandbox"
)

func ExampleLoadPolicy() {
	p, err := sandbox.LoadPolicy("agent.yaml", []byte(`
version: 1
filesystem:
  read_only: [/usr, /bin, /lib, /lib64]
environment:
  LANG: C.UTF-8
network:
  allow:
    - {host: inference.local, ports: [443, 80]}
    - host: "*.example.com"
`))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, r := range p.Network.Allow {
		fmt.Println(r.Host, r.Ports)
	}
	// Output:
	// inference.local [443 80]
	// *.example.com []
}

// A policy in the form of another project is refused with the form that is
// meant.
func ExampleLoadPolicy_errors() {
	_, err := sandbox.LoadPolicy("agent.yaml", []byte(`
version: 1
network:
  egress:
    - destination: "api.slack.com:443"
      action: allow
`))
	var bad *sandbox.PolicyError
	if errors.As(err, &bad) {
		fmt.Printf("%s:%d:%d %s\n%s\n", bad.File, bad.Line, bad.Column, bad.Field, bad.Fix)
	}
	// Output:
	// agent.yaml:4:3 network.egress
	// write
	// network:
	//   allow:
	//     - host: "api.slack.com"
	//       ports: [443]
}

// A policy can be made in Go as well.
func ExamplePolicy_Validate() {
	p := &sandbox.Policy{Network: sandbox.Network{Allow: []sandbox.Rule{{Host: "*.com"}}}}
	var bad *sandbox.PolicyError
	if errors.As(p.Validate(), &bad) {
		fmt.Println(bad.Field)
	}
	// Output:
	// network.allow[0].host
}

// A refused request becomes a rule that a person can read and put into the file.
func ExamplePolicy_Suggest() {
	p := &sandbox.Policy{Network: sandbox.Network{Allow: []sandbox.Rule{
		{Host: "api.github.com", Protocol: sandbox.ProtocolHTTPS, Access: sandbox.AccessReadOnly},
	}}}
	next, text, err := p.Suggest(sandbox.Wish{Host: "api.github.com", Port: 443, Method: "POST", Path: "/repos/a/b/issues"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(text)
	for _, change := range sandbox.Diff(p, next) {
		fmt.Println(change)
	}
	// Output:
	// # in place of what network.allow says about api.github.com on port 443:
	// network:
	//   allow:
	//     - host: api.github.com
	//       ports: [443]
	//       protocol: https
	//       rules:
	//         - {methods: [GET, HEAD, OPTIONS], path: "/**"}
	//         - {methods: [POST], path: "/repos/a/b/issues"}
	// wider: network.allow: api.github.com on port 443: POST of /repos/a/b/issues is allowed
}
