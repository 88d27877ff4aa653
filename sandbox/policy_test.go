package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
  tmp_size: 64MiB
process: {max_processes: 10, max_open_files: 100, max_file_size: 1 GiB, max_memory: 1073741824}
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
`))
	require.NoError(t, err)
	assert.Equal(t, &Policy{
		Version:     1,
		Filesystem:  Filesystem{ReadOnly: []string{"/usr", "/opt/tool box"}, ReadWrite: []string{"/srv/cache"}, TmpSize: 64 << 20},
		Process:     Process{MaxProcesses: 10, MaxOpenFiles: 100, MaxFileSize: 1 << 30, MaxMemory: 1 << 30},
		Environment: Environment{"LANG": "C.UTF-8", "GREETING": "two\nlines\n"},
		Network: Network{Allow: []Rule{
			{Host: "inference.local", Ports: []uint16{443, 80}},
			{Host: "*.Example.com"},
			{Host: "db.corp.example", Ports: []uint16{5432}, Private: true},
			{Host: "api.github.com", Served: true},
		}},
	}, p)
	assert.Equal(t, []uint16{80, 443, 5432}, p.ports())

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
	} {
		h := load(s).Hash()
		assert.Empty(t, seen[h], "%q and %q", s, seen[h])
		seen[h] = s + " "
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
	})
}

func TestLittleMemoryIsRefused(t *testing.T) {
	for size, ok := range map[int64]bool{0: true, minMemory: true, minMemory - 1: false, 1 << 20: false} {
		err := (&Policy{Process: Process{MaxMemory: size}}).Validate()
		assert.Equal(t, ok, err == nil, "%d: %v", size, err)
	}
}
