package sandbox

import (
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDiff(t *testing.T) {
	for _, c := range []struct {
		old, next string
		want      []string
	}{
		{"", "", nil},
		{"services: [tools.local]", "network: {allow: [{host: tools.local, ports: [80, 443], served: true}]}", nil},
		{"filesystem: {read_only: [/usr], tmp_size: 1MiB}", "filesystem: {read_only: [/usr, /opt], read_write: [/srv], tmp_size: 2MiB}", []string{
			"wider: filesystem.read_write: /srv can be changed",
			"wider: filesystem.read_only: /opt can be read",
			"wider: filesystem.tmp_size: from 1048576 to 2097152",
		}},
		{"filesystem: {read_only: [/srv/a], read_write: [/opt]}", "filesystem: {read_only: [/opt], read_write: [/srv]}", []string{
			"wider: filesystem.read_write: /srv can be changed",
			"narrower: filesystem.read_write: /opt can only be read",
			"wider: filesystem.read_only: /srv/a can be changed, as it lies in a writable folder",
		}},
		{"filesystem: {read_only: [], read_write: [/srv]}", "filesystem: {read_only: [/srv/a], read_write: [/srv]}", []string{
			"narrower: filesystem.read_only: /srv/a can only be read",
		}},
		{"filesystem: {protect: [a]}", "filesystem: {protect: [b]}", []string{
			"narrower: filesystem.protect: b is protected", "wider: filesystem.protect: a is protected no more",
		}},
		{"filesystem: {protect: []}", "", []string{"other: filesystem.protect: the list is the default one"}},
		{"process: {max_processes: 7, max_memory: 1GiB, max_cpu: 2}", "process: {max_cpu: 1, exec: strict}", []string{
			"wider: process.max_processes: from 7 to 512", "wider: process.max_memory: from 1073741824 to no limit",
			"narrower: process.max_cpu: from 2000 to 1000", "narrower: process.exec: from any to strict",
		}},
		{"process: {programs: [/usr/bin/a]}", "process: {programs: [/usr/bin/b], max_cpu: 1}", []string{
			"narrower: process.max_cpu: from no limit to 1000",
			"wider: process.programs: [/usr/bin/b]", "narrower: process.programs: [/usr/bin/a] no more",
		}},
		{"process: {programs: [/usr/bin/a]}", "", []string{"wider: process.programs: any program"}},
		{"environment: {A: b, C: d}\ndevices: [gpu]", "environment: {A: c, B: a}", []string{
			"other: environment: A has another value", "other: environment: B is set", "other: environment: C is not set any more",
			"narrower: devices: gpu is shown no more",
		}},
		{"network: {allow: [{host: a.example.com, ports: [80, 443]}]}", "network: {allow: [{host: a.example.com, private: true}, {host: b.example.com}]}\nservices: [tools.local]", []string{
			"narrower: network.allow: a.example.com on port 80 cannot be reached any more",
			"wider: network.allow: a.example.com on port 443 may lead to addresses of the local network",
			"wider: network.allow: b.example.com on port 443 can be reached",
			"wider: network.allow: tools.local on port 80 can be reached, served by a handler",
			"wider: network.allow: tools.local on port 443 can be reached, served by a handler",
		}},
		{`network: {allow: [{host: "*.example.com"}, {host: a.example.com, served: true}]}`, `network: {allow: [{host: "*.example.com"}, {host: b.example.com, served: true}]}`, []string{
			"other: network.allow: a.example.com on port 443 has no rule of its own any more, and a broader one decides",
			"other: network.allow: b.example.com on port 443 has a rule of its own, where a broader one decided",
		}},
		{"network: {allow: [{host: a.example.com}]}", "network: {allow: [{host: a.example.com, protocol: https, access: full}]}", []string{
			"narrower: network.allow: a.example.com on port 443: requests are judged, as https",
		}},
		{"network: {allow: [{host: a.example.com, protocol: https, access: full}]}", "network: {allow: [{host: a.example.com, protocol: https, access: read-only}]}", []string{
			"narrower: network.allow: a.example.com on port 443: any method but GET, HEAD, OPTIONS of /** is allowed no more",
		}},
		{"network: {allow: [{host: a.example.com, protocol: https, access: read-only, deny: [{path: /a}]}]}", "network: {allow: [{host: a.example.com, protocol: https, rules: [{path: /**, methods: [GET, PUT]}], deny: [{path: /b}]}]}", []string{
			"wider: network.allow: a.example.com on port 443: PUT of /** is allowed",
			"narrower: network.allow: a.example.com on port 443: HEAD, OPTIONS of /** is allowed no more",
			"narrower: network.allow: a.example.com on port 443: any method of /b is denied",
			"wider: network.allow: a.example.com on port 443: any method of /a is denied no more",
		}},
		{"network: {allow: [{host: a.example.com}]}", "network: {allow: [{host: a.example.com, programs: [/usr/bin/git]}]}", []string{
			"narrower: network.allow: a.example.com on port 443: only [/usr/bin/git]",
		}},
		{"network: {allow: [{host: a.example.com}]}", "network: {allow: [{host: a.example.com}, {host: a.example.com, private: true, programs: [/usr/bin/git]}]}", []string{
			"other: network.allow: a.example.com on port 443: the rules of its programs differ",
		}},
	} {
		load := func(s string) *Policy {
			p, err := LoadPolicy("p.yaml", []byte("version: 1\n"+s))
			require.NoError(t, err)
			return p
		}
		var got []string
		for _, d := range Diff(load(c.old), load(c.next)) {
			got = append(got, d.String())
		}
		assert.Equal(t, c.want, got, "%s\n%s", c.old, c.next)
	}
	assert.Nil(t, Diff(nil, &Policy{}))
}

// changed returns p with one thing in its rules changed.
func changed(rnd *rand.Rand, p *Policy) *Policy {
	q := p.normal()
	if len(q.Network.Allow) == 0 {
		return q
	}
	i := rnd.IntN(len(q.Network.Allow))
	r := &q.Network.Allow[i]
	switch rnd.IntN(8) {
	case 0:
		q.Network.Allow = slices.Delete(q.Network.Allow, i, i+1)
	case 1:
		r.Ports = r.Ports[:max(1, len(r.Ports)-1)]
	case 2:
		r.Programs = r.Programs[:max(1, len(r.Programs)-1)]
	case 3:
		r.Programs = append(r.Programs, Program{Path: "/usr/bin/ls"})
	case 4:
		if r.Protocol != "" {
			r.Deny = append(r.Deny, HTTPRule{Methods: []string{"GET"}, Path: "/repos/*"})
		}
	case 5:
		r.Deny = nil
	case 6:
		if r.Protocol != "" {
			r.Rules, r.Access = append(r.requests(), HTTPRule{Path: "/v1/**"}), ""
		}
	case 7:
		r.Rules, r.Access, r.Deny, r.Protocol = nil, "", nil, ""
	}
	return q
}

// TestDiffTellsTheTruth compares what Diff says about random changes with what
// the policies allow.
func TestDiffTellsTheTruth(t *testing.T) {
	rounds := 30
	if os.Getenv("TWINWARD_SOAK") == "1" {
		rounds = 2000
	} else if os.Getenv("TWINWARD_FULL") == "1" {
		rounds = 200
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 7))
	told := make(map[Effect]int)
	for done := 0; done < rounds; {
		p, _, err := ImportOpenShell("o.yaml", []byte(randomShell(rnd).yaml()))
		if err != nil {
			continue
		}
		q := changed(rnd, p)
		if q.Validate() != nil {
			continue
		}
		done++
		changes := Diff(p, q)
		says := func(e Effect) bool {
			return slices.ContainsFunc(changes, func(c PolicyChange) bool { return c.Effect == e })
		}
		for _, e := range []Effect{Wider, Narrower, Other} {
			if says(e) {
				told[e]++
			}
		}
		before, after := p.judge(), q.judge()
		requested(func(host string, port int, method, path, program string) bool {
			was, is := before(host, port, method, path, program), after(host, port, method, path, program)
			if is && !was && !says(Wider) && !says(Other) || was && !is && !says(Narrower) && !says(Other) {
				t.Fatalf("%s %s:%d%s by %s: %v, then %v, but %v, seed %d\n%s\n%s", method, host, port, path, program, was, is, changes, seed, p.YAML(), q.YAML())
			}
			return true
		})
	}
	t.Logf("%v", told)
	assert.Greater(t, told[Narrower], 0)
	assert.Greater(t, told[Wider], 0)
}
