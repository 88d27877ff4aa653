package sandbox_test

import (
	"fmt"
	"log"

	"github.com/twinward-dev/twinward/sandbox"
)

// A session needs the packages of npm and a service of the host. Two policies
// that cannot both hold are not put together.
func ExampleJoin() {
	npm, err := sandbox.Preset("npm")
	if err != nil {
		log.Fatal(err)
	}
	own := &sandbox.Policy{Services: []string{"tools.local"}}
	policy, err := sandbox.Join(npm, own)
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range policy.Network.Allow {
		fmt.Println(r.Host, r.Protocol, r.Access)
	}
	fmt.Println(policy.Services)

	publish := &sandbox.Policy{Network: sandbox.Network{Allow: []sandbox.Rule{
		{Host: "registry.npmjs.org", Protocol: sandbox.ProtocolHTTPS, Access: sandbox.AccessFull},
	}}}
	_, err = sandbox.Join(npm, publish)
	fmt.Println(err)
	// Output:
	// registry.npmjs.org https read-only
	// registry.yarnpkg.com https read-only
	// [tools.local]
	// sandbox: policy: network.allow[2]: "registry.npmjs.org" can be the same connection as "registry.npmjs.org" in network.allow[0], which says otherwise: let both say the same, or let their hosts, ports or programs differ
}
