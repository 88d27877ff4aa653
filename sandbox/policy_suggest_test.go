package sandbox

import (
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSuggest(t *testing.T) {
	p, err := LoadPolicy("p.yaml", []byte(`
version: 1
network:
  allow:
    - {host: "*.example.com", protocol: https, access: read-only, programs: [/usr/bin/git, /usr/bin/curl]}
    - {host: api.example.org, ports: [443, 8443], protocol: https, rules: [{methods: [GET], path: /a}], deny: [{methods: [DELETE], path: /b}]}
    - {host: tools.local}
`))
	require.NoError(t, err)
	for _, c := range []struct {
		wish Wish
		want string // the text, or the end of the error
	}{
		{Wish{Host: "New.example.net", Port: 22}, "network:\n  allow:\n    - host: new.example.net\n      ports: [22]\n"},
		{
			Wish{Host: "new.example.net", Port: 443, Method: "GET", Path: "/x y", Program: "/usr/bin/curl"},
			"paths have only as an escape: write %20",
		},
		{
			Wish{Host: "new.example.net", Port: 80, Method: "POST", Path: "/x%20y", Program: "/usr/bin/curl"},
			"network:\n  allow:\n    - host: new.example.net\n      ports: [80]\n      protocol: http\n      programs: [/usr/bin/curl]\n      rules:\n        - {methods: [POST], path: \"/x%20y\"}\n",
		},
		{
			Wish{Host: "a.example.com", Port: 443, Method: "POST", Path: "/x", Program: "/usr/bin/git"},
			"network:\n  allow:\n" +
				"    - host: a.example.com\n      ports: [443]\n      protocol: https\n      access: read-only\n      programs: [/usr/bin/curl]\n" +
				"    - host: a.example.com\n      ports: [443]\n      protocol: https\n      programs: [/usr/bin/git]\n      rules:\n" +
				"        - {methods: [GET, HEAD, OPTIONS], path: \"/**\"}\n        - {methods: [POST], path: \"/x\"}\n",
		},
		{
			Wish{Host: "api.example.org", Port: 443, Method: "PUT", Path: "/a"},
			"# in place of what network.allow says about api.example.org on port 443:\nnetwork:\n  allow:\n" +
				"    - host: api.example.org\n      ports: [443]\n      protocol: https\n      rules:\n        - {methods: [GET, PUT], path: \"/a\"}\n      deny:\n        - {methods: [DELETE], path: \"/b\"}\n",
		},
		{Wish{Host: "api.example.org", Port: 443, Method: "DELETE", Path: "/b"}, "change it by hand"},
		{Wish{Host: "api.example.org", Port: 443}, "is allowed already"},
		{Wish{Host: "tools.local", Port: 443, Method: "GET", Path: "/"}, "is served by a handler, which decides"},
		{Wish{Host: "10.0.0.1", Port: 443}, "it is an address"},
		{Wish{Host: "new.example.net", Port: 53}, "names are resolved for every rule"},
	} {
		next, text, err := p.Suggest(c.wish)
		if err != nil {
			assert.Nil(t, next)
			assert.ErrorContains(t, err, c.want, "%+v", c.wish)
			continue
		}
		assert.Equal(t, c.want, text, "%+v", c.wish)
		read, err := LoadPolicy("s.yaml", []byte("version: 1\n"+text))
		require.NoError(t, err)
		for _, r := range read.Network.Allow {
			assert.True(t, slices.ContainsFunc(next.Network.Allow, func(o Rule) bool { return compareRules(o, r.normal()) == 0 }), "%+v", r)
		}
	}
}

// Several wishes make one text: what a later one says of a name and port takes in
// what an earlier one said.
func TestSuggestMany(t *testing.T) {
	p, err := LoadPolicy("p.yaml", []byte("version: 1\nnetwork:\n  allow:\n    - {host: a.example.com, ports: [443, 8443]}\n    - {host: b.example.com, protocol: https, rules: [{methods: [GET], path: /a}]}\n"))
	require.NoError(t, err)
	next, text, err := p.Suggest(
		Wish{Host: "new.example.net", Port: 80}, Wish{Host: "b.example.com", Port: 443, Method: "PUT", Path: "/a"},
		Wish{Host: "new.example.net", Port: 443}, Wish{Host: "B.example.com.", Port: 443, Method: "PUT", Path: "/b"},
	)
	require.NoError(t, err)
	assert.Equal(t, "# in place of what network.allow says about b.example.com on port 443:\nnetwork:\n  allow:\n"+
		"    - host: new.example.net\n      ports: [80]\n"+
		"    - host: b.example.com\n      ports: [443]\n      protocol: https\n      rules:\n        - {methods: [GET, PUT], path: \"/a\"}\n        - {methods: [PUT], path: \"/b\"}\n"+
		"    - host: new.example.net\n      ports: [443]\n", text)
	want, err := LoadPolicy("w.yaml", []byte("version: 1\n"+text+"    - {host: a.example.com, ports: [443, 8443]}\n"))
	require.NoError(t, err)
	assert.Equal(t, want.Hash(), next.Hash())
	_, text, err = p.Suggest()
	require.NoError(t, err)
	assert.Empty(t, text)
	_, _, err = p.Suggest(Wish{Host: "new.example.net", Port: 80}, Wish{Host: "new.example.net", Port: 80})
	assert.ErrorContains(t, err, "new.example.net on port 80 is allowed already")
}

// TestSuggestGrantsOneWish grants random wishes and looks at what else is
// allowed then.
func TestSuggestGrantsOneWish(t *testing.T) {
	rounds := 20
	if os.Getenv("TWINWARD_SOAK") == "1" {
		rounds = 2000
	} else if os.Getenv("TWINWARD_FULL") == "1" {
		rounds = 200
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 8))
	one := func(list []string) string { return list[rnd.IntN(len(list))] }
	granted := 0
	for range rounds {
		p, _, err := ImportOpenShell("o.yaml", []byte(randomShell(rnd).yaml()))
		if err != nil {
			continue
		}
		before := p.judge()
		for range 5 {
			a := Wish{
				Host: one(randomWords.names), Port: []uint16{80, 443, 8443}[rnd.IntN(3)], Method: one([]string{"GET", "POST", "DELETE"}),
				Path: one(randomWords.paths), Program: one([]string{"/usr/bin/git", "/usr/bin/ls"}),
			}
			if before(a.Host, int(a.Port), a.Method, a.Path, a.Program) {
				continue
			}
			next, text, err := p.Suggest(a)
			if err != nil {
				continue
			}
			granted++
			after := next.judge()
			requested(func(host string, port int, method, path, program string) bool {
				same := host == a.Host && port == int(a.Port) && path == a.Path && program == a.Program && (method == a.Method || method == "HEAD" && a.Method == "GET")
				was, is := before(host, port, method, path, program), after(host, port, method, path, program)
				if was && !is || is && !was && !same || method == a.Method && same && !is {
					t.Fatalf("%+v: %s %s:%d%s by %s: %v, then %v, seed %d\n%s\n%s", a, method, host, port, path, program, was, is, seed, p.YAML(), text)
				}
				return true
			})
		}
	}
	t.Logf("%d wishes granted", granted)
	assert.Greater(t, granted, 0)
}
