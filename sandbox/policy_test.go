package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestLoadPolicy(t *testing.T) {
	p, err := LoadPolicy("p.yaml", []byte(`# all of it
version: 1
filesystem:
  read_only: [/usr, "/opt/tool box"]
  read_write:
    - /srv/cache
  protect: [.git/hooks, /srv/cache/.mcp.json]
  tmp_size: 64MiB
process:
  max_processes: 10
  max_open_files: 100
  max_file_size: 1 GiB
  max_memory: 1073741824
  max_total_memory: 2GiB
  max_cpu: 1.5
  exec: strict
  programs: [/usr/bin/git, {path: /sandbox/tool, sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855}]
environment:
  LANG: C.UTF-8
  GREETING: |
    two
    lines
network:
  allow:
    - {host: inference.local, ports: [443, 80]}
    - host: "*.Example.com"
    - {host: db.corp.example, ports: [5432], private: true}
    - {host: api.github.com, served: true}
    - host: api.example.org
      protocol: https
      access: read-write
      deny:
        - {methods: [POST, PUT], path: "/repos/*/hooks/**"}
        - path: /user
      programs: [{path: /usr/bin/git}]
    - {host: api.example.net, protocol: http, rules: [{methods: [GET]}]}
devices: [gpu, /dev/kvm]
inference: {host: models.local, programs: [/usr/bin/node]}
services: [Tools.local]
`))
	require.NoError(t, err)
	const emptyDigest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	assert.Equal(t, &Policy{
		Version: 1,
		Filesystem: Filesystem{
			ReadOnly: []string{"/usr", "/opt/tool box"}, ReadWrite: []string{"/srv/cache"},
			Protect: []string{".git/hooks", "/srv/cache/.mcp.json"}, TmpSize: 64 << 20,
		},
		Process: Process{
			MaxProcesses: 10, MaxOpenFiles: 100, MaxFileSize: 1 << 30, MaxMemory: 1 << 30, MaxTotalMemory: 2 << 30, MaxCPU: 1500,
			Exec: ExecStrict, Programs: []Program{{Path: "/usr/bin/git"}, {Path: "/sandbox/tool", SHA256: emptyDigest}},
		},
		Environment: Environment{"LANG": "C.UTF-8", "GREETING": "two\nlines\n"},
		Network: Network{Allow: []Rule{
			{Host: "inference.local", Ports: []uint16{443, 80}},
			{Host: "*.Example.com"},
			{Host: "db.corp.example", Ports: []uint16{5432}, Private: true},
			{Host: "api.github.com", Served: true},
			{
				Host: "api.example.org", Protocol: ProtocolHTTPS, Access: AccessReadWrite, Programs: []Program{{Path: "/usr/bin/git"}},
				Deny: []HTTPRule{{Methods: []string{"POST", "PUT"}, Path: "/repos/*/hooks/**"}, {Path: "/user"}},
			},
			{Host: "api.example.net", Protocol: ProtocolHTTP, Rules: []HTTPRule{{Methods: []string{"GET"}}}},
		}},
		Devices:   []string{"gpu", "/dev/kvm"},
		Inference: &Inference{Host: "models.local", Programs: []Program{{Path: "/usr/bin/node"}}},
		Services:  []string{"Tools.local"},
	}, p)
	assert.Equal(t, []uint16{80, 443, 5432}, p.ports())
	rules := p.normal().rules()
	assert.Equal(t, []Rule{
		{Host: "tools.local", Ports: []uint16{80, 443}, Served: true},
		{Host: "models.local", Ports: []uint16{80, 443}, Served: true, Programs: []Program{{Path: "/usr/bin/node"}}},
	}, rules[len(rules)-2:])
	assert.Equal(t, []uint16{80}, rules[slices.IndexFunc(rules, func(r Rule) bool { return r.Host == "api.example.net" })].Ports, "the port of http")

	again, err := LoadPolicy("w.yaml", p.YAML())
	require.NoError(t, err, "%s", p.YAML())
	assert.Equal(t, p, again, "what is written is what was read")

	p, err = LoadPolicy("p.yaml", []byte("version: 1\nfilesystem: {read_only: []}\n"))
	require.NoError(t, err)
	assert.Equal(t, []string{}, p.Filesystem.ReadOnly, "none, which is not the default")
	p, err = LoadPolicy("p.yaml", []byte("version: 1\n"))
	require.NoError(t, err)
	assert.Equal(t, &Policy{Version: 1}, p)
	assert.NoError(t, (&Policy{}).Validate())
	assert.NoError(t, (*Policy)(nil).Validate())
	assert.Equal(t, (&Policy{}).Hash(), (*Policy)(nil).Hash())
	n := p.normal()
	assert.Equal(t, Process{MaxProcesses: 512, MaxOpenFiles: 4096, MaxFileSize: 4 << 30}, n.Process)
	assert.EqualValues(t, 256<<20, n.Filesystem.TmpSize)
}

// TestPolicyErrors reads testdata/policy/*.txt: a policy, a line of dashes, and
// the errors that it must give.
func TestPolicyErrors(t *testing.T) {
	files, err := filepath.Glob("testdata/policy/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(f)
			require.NoError(t, err)
			text, want, ok := strings.Cut(string(b), "-----\n")
			require.True(t, ok)
			p, err := LoadPolicy("p.yaml", []byte(text))
			require.Nil(t, p)
			require.Error(t, err)
			if os.Getenv("TWINWARD_UPDATE") == "1" {
				require.NoError(t, os.WriteFile(f, []byte(text+"-----\n"+err.Error()+"\n"), 0o644))
				return
			}
			assert.Equal(t, strings.TrimSpace(want), err.Error())
			pe, ok := errors.AsType[*PolicyError](err)
			require.True(t, ok)
			assert.Equal(t, "p.yaml", pe.File)
			assert.NotEmpty(t, pe.Problem)
		})
	}
}

func TestPolicyFileIsBounded(t *testing.T) {
	for name, text := range map[string]string{
		"size":         "version: 1\n#" + strings.Repeat("x", maxPolicyFile),
		"flow nesting": "version: 1\na: " + strings.Repeat("[", 10_000),
		"block lists":  "version: 1\na:\n  " + strings.Repeat("- ", 10_000),
		"tagged lists": "version: 1\na:\n  " + strings.Repeat("- !t ", 10_000),
		"keys":         "version: 1\na:\n  " + strings.Repeat("? ", 10_000),
		"rules":        "version: 1\nnetwork:\n  allow:\n" + strings.Repeat("    - host: a.example.com\n", maxRules+1),
		"paths":        "version: 1\nfilesystem:\n  read_only: [" + strings.Repeat("/a, ", maxPaths) + "/a]\n",
	} {
		_, err := LoadPolicy("p.yaml", []byte(text))
		_, ok := errors.AsType[*PolicyError](err)
		assert.True(t, ok, "%s: %v", name, err)
	}
	var r []Rule
	for i := range maxAllPorts/maxPorts + 1 {
		rule := Rule{Host: fmt.Sprintf("h%d.example.com", i)}
		for j := range maxPorts {
			rule.Ports = append(rule.Ports, uint16(1000+i*maxPorts+j))
		}
		r = append(r, rule)
	}
	assert.ErrorContains(t, (&Policy{Network: Network{Allow: r}}).Validate(), "different ports")
}

func TestPolicyHash(t *testing.T) {
	load := func(s string) *Policy {
		p, err := LoadPolicy("p.yaml", []byte("version: 1\n"+s))
		require.NoError(t, err)
		return p
	}
	same := []*Policy{
		load("network: {allow: [{host: a.example.com, ports: [80, 443]}, {host: B.example.com}]}"),
		load("network: {allow: [{host: b.example.com, ports: [443]}, {host: A.EXAMPLE.COM, ports: [443, 80, 80]}]}\nfilesystem: {tmp_size: 256MiB}"),
		{Network: Network{Allow: []Rule{{Host: "a.example.com", Ports: []uint16{443, 80}}, {Host: "b.example.com"}, {Host: "b.example.com"}}}},
	}
	for _, p := range same {
		assert.Equal(t, same[0].Hash(), p.Hash())
	}
	assert.Regexp(t, `^sha256:[0-9a-f]{64}$`, same[0].Hash())
	seen := map[string]string{}
	for _, s := range []string{
		"", "filesystem: {read_only: []}", "filesystem: {read_only: [/usr]}", "filesystem: {read_write: [/usr]}", "filesystem: {tmp_size: 1MiB}",
		"process: {max_processes: 1}", "process: {max_open_files: 99}", "process: {max_file_size: 1}", "process: {max_memory: 1GiB}",
		"environment: {A: b}", "environment: {A: c}", "environment: {AA: b}",
		"network: {allow: [{host: a.example.com}]}", "network: {allow: [{host: a.example.com, private: true}]}",
		"network: {allow: [{host: a.example.com, served: true}]}", "network: {allow: [{host: a.example.com, ports: [80]}]}",
		`network: {allow: [{host: "*.example.com"}]}`,
		"filesystem: {protect: [a]}", "process: {max_total_memory: 1GiB}", "process: {max_cpu: 1}", "process: {exec: strict}",
		"process: {programs: [/usr/bin/git]}", "devices: [gpu]", "inference: {}", "inference: {host: a.local.example}", "services: [inference.local]",
		"inference: {programs: [/usr/bin/git]}",
		"network: {allow: [{host: a.example.com, protocol: https, access: full}]}",
		"network: {allow: [{host: a.example.com, protocol: http, access: full}]}",
		"network: {allow: [{host: a.example.com, protocol: https, access: read-only}]}",
		"network: {allow: [{host: a.example.com, protocol: https, access: full, deny: [{path: /a}]}]}",
		"network: {allow: [{host: a.example.com, protocol: https, rules: [{path: /a}]}]}",
		"network: {allow: [{host: a.example.com, protocol: https, rules: [{path: /a, methods: [GET]}]}]}",
		"network: {allow: [{host: a.example.com, programs: [/usr/bin/git]}]}",
		"network: {allow: [{host: a.example.com, programs: [{path: /usr/bin/git, sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855}]}]}",
	} {
		h := load(s).Hash()
		assert.Empty(t, seen[h], "%q and %q", s, seen[h])
		seen[h] = s + " "
	}
	for _, pair := range [][2]string{
		{"inference: {}", "inference: {host: Inference.local}"},
		{"services: [b.local, A.local]", "services: [a.local, b.local]"},
		{"network: {allow: [{host: a.example.com, protocol: tcp}]}", "network: {allow: [{host: a.example.com}]}"},
		{"process: {programs: [/b, /a]}", "process: {programs: [{path: /a}, {path: /b}]}"},
		{
			`network: {allow: [{host: a.example.com, protocol: https, rules: [{path: /b, methods: ["*"]}, {methods: [PUT, GET]}]}]}`,
			"network: {allow: [{host: a.example.com, protocol: https, rules: [{methods: [GET, PUT]}, {path: /b}, {path: /b}]}]}",
		},
	} {
		assert.Equal(t, load(pair[0]).Hash(), load(pair[1]).Hash(), "%q", pair)
	}
	p := same[0]
	n := p.normal()
	n.Network.Allow[0].Ports[0] = 1
	assert.Equal(t, []uint16{80, 443}, p.Network.Allow[0].Ports, "a session's copy is its own")
}

// FuzzLoadPolicy checks that any text gives either a policy that validates and
// says the same when its hash is taken again, or errors with their place.
func FuzzLoadPolicy(f *testing.F) {
	files, _ := filepath.Glob("testdata/policy/*.txt")
	for _, name := range files {
		b, err := os.ReadFile(name)
		require.NoError(f, err)
		text, _, _ := strings.Cut(string(b), "-----\n")
		f.Add([]byte(text))
	}
	f.Add([]byte("version: 1\nnetwork: {allow: [{host: inference.local, ports: [443, 80]}]}\nfilesystem: {tmp_size: 1MiB}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := LoadPolicy("p.yaml", text)
		if (p == nil) == (err == nil) {
			t.Fatalf("%v and %v", p, err)
		}
		if err != nil {
			for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
				if _, ok := e.(*PolicyError); !ok {
					t.Fatalf("%T", e)
				}
			}
			return
		}
		if err := p.Validate(); err != nil {
			t.Fatal(err)
		}
		if p.Hash() != p.normal().Hash() {
			t.Fatal("the normal form is not normal")
		}
		if written := p.YAML(); len(written) <= maxPolicyFile {
			again, err := LoadPolicy("w.yaml", written)
			if err != nil || again.Hash() != p.Hash() {
				t.Fatalf("%v: what is written is read otherwise:\n%s", err, written)
			}
		}
		if d := Diff(p, p); d != nil {
			t.Fatal(d)
		}
	})
}

func TestLittleMemoryIsRefused(t *testing.T) {
	for size, ok := range map[int64]bool{0: true, minMemory: true, minMemory - 1: false, 1 << 20: false} {
		err := (&Policy{Process: Process{MaxMemory: size}}).Validate()
		assert.Equal(t, ok, err == nil, "%d: %v", size, err)
	}
}

func TestVariableNamesAreBounded(t *testing.T) {
	of := func(n int) *Policy { return &Policy{Environment: Environment{strings.Repeat("A", n): "x"}} }
	assert.NoError(t, of(128).Validate())
	assert.Error(t, of(129).Validate())
}
