package sandbox_test

import (
	"fmt"

	"github.com/twinward-dev/twinward/sandbox"
)

// A policy of OpenShell is read with a report of what is tighter here.
func ExampleImportOpenShell() {
	p, report, err := sandbox.ImportOpenShell("openshell.yaml", []byte(`
version: 1
network_policies:
  github:
    endpoints:
      - host: api.github.com
        port: 443
        protocol: rest
        access: read-only
    binaries:
      - path: /usr/bin/gh
`))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, r := range p.Network.Allow {
		fmt.Println(r.Host, r.Ports, r.Protocol, r.Access, r.Programs[0].Path)
	}
	for _, n := range report.Tightened {
		fmt.Printf("line %d: %s\n", n.Line, n.Text)
	}
	// Output:
	// api.github.com [443] https read-only /usr/bin/gh
	// line 4: the program that connects must be on a list itself; one that started it does not count
	// line 4: names lead to public addresses only; a host of the local network wants private: true
	// line 6: requests that the rules do not allow are refused; they are only logged there, as enforcement is not enforce
}
