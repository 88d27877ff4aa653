package sandbox

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestImportOpenShell reads testdata/openshell/*.txt: a policy of OpenShell, a
// line of dashes, and the report and the policy, or the errors, that it gives.
func TestImportOpenShell(t *testing.T) {
	files, err := filepath.Glob("testdata/openshell/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(f)
			require.NoError(t, err)
			text, want, ok := strings.Cut(string(b), "-----\n")
			require.True(t, ok)
			var got string
			p, report, err := ImportOpenShell("o.yaml", []byte(text))
			if err != nil {
				require.Nil(t, p)
				require.Nil(t, report)
				_, ok := errors.AsType[*PolicyError](err)
				require.True(t, ok)
				got = err.Error() + "\n"
			} else {
				require.NoError(t, p.Validate())
				got = report.String()
				for _, r := range p.Network.Allow {
					got += fmt.Sprintf("rule %s %d %q %q %v deny %v by %v\n", r.Host, r.Ports, r.Protocol, r.Access, r.Rules, r.Deny, r.Programs)
				}
				got += fmt.Sprintf("read-only %v\nread-write %v\n", p.Filesystem.ReadOnly, p.Filesystem.ReadWrite)
			}
			if os.Getenv("TWINWARD_UPDATE") == "1" {
				require.NoError(t, os.WriteFile(f, []byte(text+"-----\n"+got), 0o644))
				return
			}
			assert.Equal(t, want, got)
		})
	}
}

// What a random OpenShell policy is made of, for an oracle that shares nothing
// with the import.
type (
	shellRandom []randomBlock
	randomBlock struct {
		endpoints []randomEndpoint
		binaries  []string
	}
	randomEndpoint struct {
		host, path, protocol, access string
		ports                        []int
		allow, deny                  [][2]string // method and path
	}
)

var randomWords = struct{ hosts, names, globs, paths, methods, binaries, programs []string }{
	hosts:    []string{"api.example.com", "API.example.com", "example.com", "*.example.com", "**.example.com", "*.eu.example.com", "a.eu.example.com", "a.*.example.com", "a*.example.com", "git.example.org"},
	names:    []string{"api.example.com", "example.com", "b.example.com", "a.eu.example.com", "b.eu.example.com", "a.us.example.com", "x.a.eu.example.com", "git.example.org", "other.example.net"},
	globs:    []string{"**", "/**", "/repos/*", "/repos/**", "/repos/*/issues", "/repos/**/issues", "/**/issues", "/repos/a*", "/re**", "/repos", "/v1/x", "/v1/**"},
	paths:    []string{"/", "/repos", "/repos/", "/repos/a", "/repos/ab/c", "/repos/a/issues", "/repos/issues", "/repos/a/b/issues", "/issues", "/v1", "/v1/x", "/v1/x/issues", "/re"},
	methods:  []string{"*", "GET", "get", "POST", "DELETE", "HEAD"},
	binaries: []string{"/usr/bin/git", "/usr/bin/curl", "/usr/bin/node", "/usr/bin/*", "/usr/**", "/opt/*/tool", "/sandbox/tool"},
	programs: []string{"/usr/bin/git", "/usr/bin/curl", "/usr/bin/node", "/usr/bin/ls", "/opt/x/tool", "/sandbox/tool"},
}

func randomShell(rnd *rand.Rand) (p shellRandom) {
	one := func(list []string) string { return list[rnd.IntN(len(list))] }
	for range 1 + rnd.IntN(4) {
		var b randomBlock
		for range 1 + rnd.IntN(3) {
			e := randomEndpoint{host: one(randomWords.hosts), ports: []int{443}}
			switch rnd.IntN(4) {
			case 0:
				e.ports = []int{80}
			case 1:
				e.ports = []int{443, 8443}
			}
			if rnd.IntN(3) > 0 {
				e.protocol = "rest"
				if rnd.IntN(4) == 0 {
					e.path = one(randomWords.globs)
				}
				if rnd.IntN(2) == 0 {
					e.access = one([]string{"read-only", "read-write", "full"})
				} else {
					for range 1 + rnd.IntN(3) {
						e.allow = append(e.allow, [2]string{one(randomWords.methods), one(randomWords.globs)})
					}
				}
				for range rnd.IntN(3) {
					e.deny = append(e.deny, [2]string{one(randomWords.methods), one(randomWords.globs)})
				}
			}
			b.endpoints = append(b.endpoints, e)
		}
		for range rnd.IntN(4) {
			b.binaries = append(b.binaries, one(randomWords.binaries))
		}
		p = append(p, b)
	}
	return p
}

func (p shellRandom) yaml() string {
	var w strings.Builder
	w.WriteString("version: 1\nnetwork_policies:\n")
	for n, b := range p {
		fmt.Fprintf(&w, "  block%d:\n    endpoints:\n", n)
		for _, e := range b.endpoints {
			fmt.Fprintf(&w, "      - host: %q\n        ports: %s\n", e.host, strings.ReplaceAll(fmt.Sprint(e.ports), " ", ", "))
			for _, kv := range [][2]string{{"path", e.path}, {"protocol", e.protocol}, {"access", e.access}} {
				if kv[1] != "" {
					fmt.Fprintf(&w, "        %s: %q\n", kv[0], kv[1])
				}
			}
			if e.protocol != "" {
				w.WriteString("        enforcement: enforce\n")
			}
			if e.allow != nil {
				w.WriteString("        rules:\n")
			}
			for _, r := range e.allow {
				fmt.Fprintf(&w, "          - allow: {method: %q, path: %q}\n", r[0], r[1])
			}
			if e.deny != nil {
				w.WriteString("        deny_rules:\n")
			}
			for _, r := range e.deny {
				fmt.Fprintf(&w, "          - {method: %q, path: %q}\n", r[0], r[1])
			}
		}
		w.WriteString("    binaries: [")
		for _, b := range b.binaries {
			fmt.Fprintf(&w, "{path: %q}, ", b)
		}
		w.WriteString("]\n")
	}
	return w.String()
}

// allows is what OpenShell's rules say about one request of one program, when
// every endpoint is enforced. crossing says that a star in a path crosses "/",
// as its documents have it and its code has not.
func (p shellRandom) allows(host string, port int, method, path, program string, crossing bool) bool {
	connect, judged, allowed, denied := false, false, false, false
	for _, b := range p {
		if !slices.ContainsFunc(b.binaries, func(g string) bool { return shellGlob(g, program, false) }) {
			continue
		}
		for _, e := range b.endpoints {
			if !shellHost(e.host, host) || !slices.Contains(e.ports, port) {
				continue
			}
			connect = true
			if e.protocol == "" {
				continue
			}
			judged = true
			if e.path != "" && e.path != "**" && !shellGlob(e.path, path, crossing) {
				continue
			}
			match := func(r [2]string) bool {
				m := strings.ToUpper(r[0])
				return (m == "*" || m == method || m == "GET" && method == "HEAD") && (r[1] == "**" || shellGlob(r[1], path, crossing))
			}
			switch {
			case slices.ContainsFunc(e.allow, match),
				e.access == "full",
				e.access == "read-only" && slices.Contains([]string{"GET", "HEAD", "OPTIONS"}, method),
				e.access == "read-write" && slices.Contains([]string{"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH"}, method):
				allowed = true
			}
			denied = denied || slices.ContainsFunc(e.deny, match)
		}
	}
	return connect && (!judged || allowed && !denied)
}

func shellHost(pattern, host string) bool {
	return compiled(cached("host "+pattern, func() string {
		re := regexp.QuoteMeta(strings.ToLower(pattern))
		re = strings.ReplaceAll(re, `\*\*`, `[^.]+(\.[^.]+)*`)
		return strings.ReplaceAll(re, `\*`, `[^.]*`)
	})).MatchString(host)
}

func shellGlob(glob, path string, crossing bool) bool {
	return compiled(cached(fmt.Sprint("glob ", crossing, glob), func() string {
		re := regexp.QuoteMeta(glob)
		if crossing {
			return regexp.MustCompile(`(\\\*)+`).ReplaceAllString(re, ".*")
		}
		re = strings.ReplaceAll(re, `/\*\*/`, `(/|/.*/)`)
		re = regexp.MustCompile(`/\\\*\\\*$`).ReplaceAllString(re, "/.*")
		return regexp.MustCompile(`(\\\*)+`).ReplaceAllString(re, "[^/]*")
	})).MatchString(path)
}

var texts, expressions sync.Map

func cached(key string, make func() string) string {
	v, ok := texts.Load(key)
	if !ok {
		v, _ = texts.LoadOrStore(key, make())
	}
	return v.(string)
}

func compiled(re string) *regexp.Regexp {
	v, ok := expressions.Load(re)
	if !ok {
		v, _ = expressions.LoadOrStore(re, regexp.MustCompile("^(?s:"+re+")$"))
	}
	return v.(*regexp.Regexp)
}

// judge returns what the fields of a policy are documented to mean.
func (p *Policy) judge() func(host string, port int, method, path, program string) bool {
	n := p.normal()
	type spot struct {
		host string
		port int
	}
	deciding := make(map[spot][]Rule)
	return func(host string, port int, method, path, program string) bool {
		of, ok := deciding[spot{host, port}]
		if !ok {
			of = n.Network.deciding(host, uint16(port))
			deciding[spot{host, port}] = of
		}
		return allows(of, method, path, program)
	}
}

func allows(of []Rule, method, path, program string) bool {
	decides := slices.IndexFunc(of, func(r Rule) bool {
		return slices.ContainsFunc(r.Programs, func(q Program) bool { return q.Path == program })
	})
	if decides < 0 {
		decides = slices.IndexFunc(of, func(r Rule) bool { return r.Programs == nil })
	}
	if decides < 0 {
		return false
	}
	r := of[decides]
	if r.Protocol == "" {
		return true
	}
	match := func(h HTTPRule) bool {
		re := cached("ours "+h.Path, func() string {
			re := strings.ReplaceAll(regexp.QuoteMeta(h.Path), `\*\*`, ".*")
			return strings.ReplaceAll(re, `\*`, "[^/]*")
		})
		return (h.Methods == nil || slices.Contains(h.Methods, method)) && (h.Path == "" || compiled(re).MatchString(path))
	}
	return slices.ContainsFunc(r.requests(), match) && !slices.ContainsFunc(r.Deny, match)
}

// requested calls each with every request of a small world, until it returns
// false.
func requested(each func(host string, port int, method, path, program string) bool) {
	for _, host := range randomWords.names {
		for _, port := range []int{80, 443, 8443} {
			for _, program := range randomWords.programs {
				for _, path := range randomWords.paths {
					for _, method := range []string{"GET", "HEAD", "OPTIONS", "POST", "DELETE"} {
						if !each(host, port, method, path, program) {
							return
						}
					}
				}
			}
		}
	}
}

// TestImportAllowsNoMore compares random policies with their imports, request
// by request.
func TestImportAllowsNoMore(t *testing.T) {
	policies := 40
	switch {
	case os.Getenv("TWINWARD_SOAK") == "1":
		policies = 2000
	case os.Getenv("TWINWARD_FULL") == "1":
		policies = 200
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 6))
	var refused, asked, there, here int
	for range policies {
		shell := randomShell(rnd)
		p, _, err := ImportOpenShell("o.yaml", []byte(shell.yaml()))
		if err != nil {
			refused++
			continue
		}
		allows := p.judge()
		requested(func(host string, port int, method, path, program string) bool {
			asked++
			theirs := shell.allows(host, port, method, path, program, false)
			if theirs {
				there++
			}
			if !allows(host, port, method, path, program) {
				return true
			}
			here++
			if !theirs || !shell.allows(host, port, method, path, program, true) {
				t.Fatalf("%s %s:%d%s by %s is allowed by the import only, seed %d:\n%s%+v", method, host, port, path, program, seed, shell.yaml(), p.Network)
			}
			return true
		})
	}
	t.Logf("%d policies, %d refused; of %d requests the original allows %d, the import %d (%.0f %%)", policies, refused, asked, there, here, 100*float64(here)/float64(there))
	assert.Less(t, refused, policies)
	assert.NotZero(t, here, "an import that allows nothing proves nothing")
}

// FuzzImportOpenShell checks that any text gives either a policy that validates,
// or errors with their place.
func FuzzImportOpenShell(f *testing.F) {
	files, _ := filepath.Glob("testdata/openshell/*.txt")
	for _, name := range files {
		b, err := os.ReadFile(name)
		require.NoError(f, err)
		text, _, _ := strings.Cut(string(b), "-----\n")
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, report, err := ImportOpenShell("o.yaml", text)
		if (p == nil) == (err == nil) || (report == nil) != (p == nil) {
			t.Fatalf("%v, %v and %v", p, report, err)
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
	})
}

func TestWideAndNarrowGlobs(t *testing.T) {
	for g, want := range map[string]string{
		"": "/**", "**": "/**", "/**": "/**", "/a/*": "/a/**", "/a/*/b": "/a/**/b", "/a/**/b": "/a/**b", "/a?": "/a**", "**/x": "/**x",
		"/a[0-9]/b": "/a**", "/{a,b}/c": "/**", `/a\*b`: "/a**", "/**/**/a": "/**a", "/a***b": "/a**b", "*/x": "/**/x", "/a": "/a",
	} {
		assert.Equal(t, want, wideGlob(g), "%q", g)
	}
	for g, want := range map[string]string{"**": "/**", "**/x": "/**/x", "/a**b/**": "/a*b/**", "/*/x": "/*/x", "/a***": "/a*"} {
		got, problem := narrowGlob(g)
		assert.Equal(t, want, got, "%q", g)
		assert.Empty(t, problem)
	}
	for _, g := range []string{"", "a", "*", "*/a", "/a?", "/[a]", "/{a,b}", `/a\*`} {
		_, problem := narrowGlob(g)
		assert.NotEmpty(t, problem, "%q", g)
	}
}
