package sandbox

import (
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func allowing(rs ...Rule) *Policy { return &Policy{Network: Network{Allow: rs}} }

// opened lists what a policy opens: each place once, in a few words.
func opened(p *Policy) (all []string) {
	for _, r := range p.normal().rules() {
		words := []string{r.Host, strings.Trim(fmt.Sprint(r.Ports), "[]")}
		if r.served() {
			words = append(words, "served")
		}
		if r.Protocol != "" {
			words = append(words, string(r.Protocol), string(r.Access))
		}
		for _, h := range r.Rules {
			words = append(words, strings.Join(h.Methods, ",")+h.Path)
		}
		all = append(all, strings.Join(strings.Fields(strings.Join(words, " ")), " "))
	}
	return all
}

// The whole of what presets open. A line more is a decision, not a detail.
var presetOpens = map[string][]string{
	"claude-code": {"inference.local 80 443 served"},
	"codex":       {"inference.local 80 443 served"},
	"docker-hub": {
		"auth.docker.io 443 https GET/token",
		"docker-images-prod.6aa30f8b08e16409b46e0173d6de2f56.r2.cloudflarestorage.com 443 https read-only",
		"production.cloudflare.docker.com 443 https read-only",
		"production.cloudfront.docker.com 443 https read-only",
		"registry-1.docker.io 443 https GET,HEAD/v2/**",
	},
	"git": {
		"bitbucket.org 443 https POST/**/git-upload-pack GET/**/info/refs",
		"codeberg.org 443 https POST/**/git-upload-pack GET/**/info/refs",
		"github.com 443 https POST/**/git-upload-pack GET/**/info/refs",
		"gitlab.com 443 https POST/**/git-upload-pack GET/**/info/refs",
	},
	"go":       {"proxy.golang.org 443 https read-only", "sum.golang.org 443 https read-only"},
	"jira":     {"*.atlassian.net 443 served", "api.atlassian.com 443 served"},
	"npm":      {"registry.npmjs.org 443 https read-only", "registry.yarnpkg.com 443 https read-only"},
	"openclaw": {"inference.local 80 443 served"},
	"pypi":     {"files.pythonhosted.org 443 https read-only", "pypi.org 443 https GET,HEAD/pypi/** GET,HEAD/simple/**"},
	"slack":    {"files.slack.com 443 served", "slack.com 443 served"},
}

func TestPresetsOpenWhatIsListed(t *testing.T) {
	assert.Len(t, Presets(), len(presetOpens))
	for _, name := range Presets() {
		p, err := Preset(name)
		require.NoError(t, err)
		assert.Equal(t, presetOpens[name], opened(p), name)
		// Nothing else is opened by any other part.
		assert.Equal(t, Filesystem{}, p.Filesystem, name)
		assert.Empty(t, p.Devices, name)
		assert.Empty(t, p.Services, name)
		p.Network = Network{}
		again, err := Preset(name)
		require.NoError(t, err)
		assert.Equal(t, presetOpens[name], opened(again), "a caller has changed the preset %s for others", name)
		text, err := presetFiles.ReadFile("presets/" + name + ".yaml")
		require.NoError(t, err)
		assert.True(t, strings.HasPrefix(string(text), "# "), "%s does not say what it is for", name)
	}
	_, err := Preset("../policy")
	assert.ErrorContains(t, err, "there are claude-code, codex,")
}

func TestPresetsGoTogether(t *testing.T) {
	var all []*Policy
	var want []string
	for _, name := range Presets() {
		p, err := Preset(name)
		require.NoError(t, err)
		all = append(all, p)
		for _, o := range presetOpens[name] {
			if !strings.HasPrefix(o, "inference.local") {
				want = append(want, o)
			}
		}
		same, err := Join(p, p)
		require.NoError(t, err)
		assert.Equal(t, p.Hash(), same.Hash(), "joined with itself, %s is another", name)
	}
	joined, err := Join(all...)
	require.NoError(t, err)
	assert.ElementsMatch(t, append(want, "inference.local 80 443 served"), opened(joined))
	for i, j := 0, len(all)-1; i < j; i, j = i+1, j-1 {
		all[i], all[j] = all[j], all[i]
	}
	reversed, err := Join(all...)
	require.NoError(t, err)
	assert.Equal(t, joined.Hash(), reversed.Hash(), "the order matters")
	none, err := Join()
	require.NoError(t, err)
	assert.Equal(t, new(Policy).Hash(), none.Hash())
}

func TestJoin(t *testing.T) {
	git := []Program{{Path: "/usr/bin/git"}}
	for _, c := range []struct {
		name string
		a, b Policy
		want *Policy // nil: an error at field
		at   string
	}{
		{name: "paths",
			a:    Policy{Filesystem: Filesystem{ReadWrite: []string{"/srv/a"}}},
			b:    Policy{Filesystem: Filesystem{ReadOnly: []string{"/opt"}, ReadWrite: []string{"/srv/b"}}},
			want: &Policy{Filesystem: Filesystem{ReadOnly: append(SystemPaths(), "/opt"), ReadWrite: []string{"/srv/a", "/srv/b"}}}},
		{name: "no paths but one's",
			a:    Policy{Filesystem: Filesystem{ReadOnly: []string{}}},
			b:    Policy{Filesystem: Filesystem{ReadOnly: []string{"/opt"}}},
			want: &Policy{Filesystem: Filesystem{ReadOnly: []string{"/opt"}}}},
		{name: "a path that is written here and must not be there", at: "filesystem.read_write",
			a: Policy{Filesystem: Filesystem{ReadOnly: []string{"/srv"}}}, b: Policy{Filesystem: Filesystem{ReadWrite: []string{"/srv"}}}},
		{name: "a path that must not be written, and is", at: "filesystem.read_write",
			a: Policy{Filesystem: Filesystem{ReadWrite: []string{"/srv"}}}, b: Policy{Filesystem: Filesystem{ReadOnly: []string{"/srv"}}}},
		{name: "protected places of both",
			a:    Policy{Filesystem: Filesystem{Protect: []string{".git/hooks"}}},
			b:    Policy{Filesystem: Filesystem{Protect: []string{".mcp.json"}}},
			want: &Policy{Filesystem: Filesystem{Protect: []string{".git/hooks", ".mcp.json"}}}},
		{name: "the usual protected places, and none", at: "filesystem.protect",
			b: Policy{Filesystem: Filesystem{Protect: []string{}}}},
		{name: "a limit that one says",
			a:    Policy{Process: Process{MaxProcesses: 100}},
			b:    Policy{Process: Process{MaxMemory: 1 << 30}},
			want: &Policy{Process: Process{MaxProcesses: 100, MaxMemory: 1 << 30}}},
		{name: "two limits", at: "process.max_processes",
			a: Policy{Process: Process{MaxProcesses: 100}}, b: Policy{Process: Process{MaxProcesses: 200}}},
		{name: "strict and not", a: Policy{}, b: Policy{Process: Process{Exec: ExecStrict}}, want: &Policy{Process: Process{Exec: ExecStrict}}},
		{name: "programs and any", at: "process.programs", b: Policy{Process: Process{Programs: git}}},
		{name: "any and programs", at: "process.programs", a: Policy{Process: Process{Programs: git}}},
		{name: "variables",
			a: Policy{Environment: Environment{"A": "1"}}, b: Policy{Environment: Environment{"A": "1", "B": "2"}},
			want: &Policy{Environment: Environment{"A": "1", "B": "2"}}},
		{name: "two values of a variable", at: "environment.A",
			a: Policy{Environment: Environment{"A": "1"}}, b: Policy{Environment: Environment{"A": "2"}}},
		{name: "hosts", a: *allowing(Rule{Host: "a.example.com"}), b: *allowing(Rule{Host: "b.example.com"}),
			want: allowing(Rule{Host: "a.example.com"}, Rule{Host: "b.example.com"})},
		{name: "a host that is served, and dialled", at: "network.allow[1]",
			a: *allowing(Rule{Host: "a.example.com"}), b: *allowing(Rule{Host: "a.example.com", Served: true})},
		{name: "a host that is only read, and written", at: "network.allow[1]",
			a: *allowing(Rule{Host: "a.example.com", Protocol: ProtocolHTTPS, Access: AccessReadOnly}),
			b: *allowing(Rule{Host: "a.example.com", Protocol: ProtocolHTTPS, Access: AccessFull})},
		{name: "services and devices",
			a: Policy{Services: []string{"tools.local"}, Devices: []string{"gpu"}}, b: Policy{Services: []string{"Tools.local", "b.local"}, Devices: []string{"gpu"}},
			want: &Policy{Services: []string{"b.local", "tools.local"}, Devices: []string{"gpu"}}},
		{name: "two places of models", at: "inference.host",
			a: Policy{Inference: &Inference{}}, b: Policy{Inference: &Inference{Host: "models.local"}}},
		{name: "models for one program, and for any", at: "inference.programs",
			a: Policy{Inference: &Inference{}}, b: Policy{Inference: &Inference{Programs: git}}},
		{name: "one that is wrong in itself", at: "filesystem.read_only[0]", b: Policy{Filesystem: Filesystem{ReadOnly: []string{"relative"}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := [2]string{c.a.Hash(), c.b.Hash()}
			got, err := Join(&c.a, &c.b)
			if c.want == nil {
				var e *PolicyError
				require.ErrorAs(t, err, &e)
				assert.Equal(t, c.at, e.Field)
				assert.NotEmpty(t, e.Fix)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, c.want.Hash(), got.Hash())
			assert.Equal(t, before, [2]string{c.a.Hash(), c.b.Hash()}, "what was joined has changed")
		})
	}
}

// Every part of a policy is joined: nothing that the second one says is lost.
func TestJoinKeepsEveryField(t *testing.T) {
	git := []Program{{Path: "/usr/bin/git", SHA256: strings.Repeat("0", 64)}}
	full := &Policy{
		Version: 1,
		Filesystem: Filesystem{
			ReadOnly: append(SystemPaths(), "/opt"), ReadWrite: []string{"/srv"}, Protect: []string{".git/hooks"}, TmpSize: 1 << 20,
		},
		Process: Process{
			MaxProcesses: 10, MaxOpenFiles: 100, MaxFileSize: 1 << 20, MaxMemory: 1 << 30, MaxTotalMemory: 1 << 30, MaxCPU: 500,
			Exec: ExecStrict, Programs: git,
		},
		Environment: Environment{"A": "1"},
		Network:     Network{Allow: []Rule{{Host: "a.example.com"}}},
		Devices:     []string{"gpu"},
		Inference:   &Inference{Host: "models.local", Programs: git},
		Services:    []string{"tools.local"},
	}
	for _, part := range []any{*full, full.Filesystem, full.Process, *full.Inference} {
		v := reflect.ValueOf(part)
		for i := range v.NumField() {
			require.False(t, v.Field(i).IsZero(), "%s.%s is new: fill it in here, and join it", v.Type(), v.Type().Field(i).Name)
		}
	}
	// What widens when it is not said must be said by both.
	first := &Policy{Filesystem: Filesystem{Protect: []string{".git/hooks"}}, Process: Process{Programs: git}}
	joined, err := Join(first, full)
	require.NoError(t, err)
	assert.Equal(t, full.Hash(), joined.Hash())
}

// TestJoinOpensNoMore joins random policies: what both of them refuse stays
// refused, request by request.
func TestJoinOpensNoMore(t *testing.T) {
	pairs := 40
	switch {
	case os.Getenv("TWINWARD_SOAK") == "1":
		pairs = 2000
	case os.Getenv("TWINWARD_FULL") == "1":
		pairs = 200
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 8))
	random := func() *Policy {
		for {
			if p, _, err := ImportOpenShell("o.yaml", []byte(randomShell(rnd).yaml())); err == nil {
				return p
			}
		}
	}
	joined, open := 0, 0
	for range pairs {
		a, b := random(), random()
		j, err := Join(a, b)
		if err != nil {
			var e *PolicyError
			require.ErrorAs(t, err, &e)
			continue
		}
		joined++
		first, second, both := a.judge(), b.judge(), j.judge()
		requested(func(host string, port int, method, path, program string) bool {
			if !both(host, port, method, path, program) {
				return true
			}
			open++
			if !first(host, port, method, path, program) && !second(host, port, method, path, program) {
				t.Fatalf("%s %s:%d%s by %s is opened by joining only, seed %d:\n%s\n%s", method, host, port, path, program, seed, a.YAML(), b.YAML())
			}
			return true
		})
	}
	t.Logf("%d of %d pairs go together, and open %d requests", joined, pairs, open)
	assert.NotZero(t, joined)
	assert.NotZero(t, open)
}
