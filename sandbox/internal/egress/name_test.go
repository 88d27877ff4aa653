package egress

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern    string
		yes, never string
	}{
		{"api.example.com", "api.example.com", "example.com xapi.example.com api.example.com.evil.com"},
		{"API.Example.com", "api.example.com", ""},
		{"inference.local", "inference.local", "local x.inference.local"},
		{"*.example.com", "a.example.com x-y.example.com", "example.com a.b.example.com aexample.com a.example.org"},
		{"*-eu.example.com", "api-eu.example.com a-eu.example.com", "-eu.example.com api-us.example.com a.b-eu.example.com"},
		{"api-*.example.com", "api-1.example.com", "api-.example.com api.example.com"},
		{"**.example.com", "a.example.com a.b.c.example.com", "example.com xexample.com"},
		{"a.*.example.com", "a.b.example.com", "a.example.com b.b.example.com a.b.c.example.com"},
		{"**.*.example.com", "a.b.example.com a.b.c.example.com", "a.example.com"},
		{"*.github.io", "me.github.io", "github.io"},
		{"db", "db", "db.x"},
	} {
		p, err := ParsePattern(c.pattern)
		require.NoError(t, err, c.pattern)
		for name := range strings.FieldsSeq(c.yes) {
			assert.True(t, p.Match(name), "%s %s", c.pattern, name)
		}
		for name := range strings.FieldsSeq(c.never) {
			assert.False(t, p.Match(name), "%s %s", c.pattern, name)
		}
	}
	assert.False(t, Pattern{}.Match(""))
	for _, bad := range []string{"", ".", "*", "**", "*.", "*.com", "**.com", "*.co.uk", "*.*", "*.local", "a.*", "a.*.com", "a*b*c.example.com",
		"a.b*.example.com", "a.**.example.com", "***.example.com", "example.*", "*.example.com.", "1.2.3.4", "127.1", "0x7f.1", "2130706433",
		"::1", "[::1]", "a..b.com", "-a.com", "a-.com", "a b.com", "a\x00.com", "ünï.com", "*.ünï.com", strings.Repeat("a", 64) + ".com",
		strings.Repeat("a.", 127) + "com", "http://a.com", "a.com:443", "*..example.com"} {
		_, err := ParsePattern(bad)
		assert.Error(t, err, "%q", bad)
	}
}

// FuzzPattern checks the meaning of patterns against a slower way to say it.
func FuzzPattern(f *testing.F) {
	for _, p := range []string{"*.example.com", "**.a.b", "a*b.example.com", "x.*.y.example.com", "exact.com", "*.com", "**.*.a.bc"} {
		for _, n := range []string{"a.example.com", "x.y.a.b", "azb.example.com", "exact.com", "EXACT.com.", ""} {
			f.Add(p, n)
		}
	}
	f.Fuzz(checkPattern)
}

func checkPattern(t *testing.T, pattern, name string) {
	p, err := ParsePattern(pattern)
	if err != nil {
		return
	}
	again, err := ParsePattern(p.String())
	if err != nil || again.String() != p.String() {
		t.Fatalf("%q -> %q: %v", pattern, p, err)
	}
	host, err := Canonical(name)
	if err != nil {
		return
	}
	got := p.Match(host)
	if want := slowMatch(strings.Split(p.String(), "."), strings.Split(host, ".")); got != want {
		t.Fatalf("%q matches %q: %v, want %v", p, host, got, want)
	}
	if !got || p.Exact() {
		return
	}
	// What a pattern matches always lies under a name that somebody owns.
	rest := p.String()[strings.LastIndexByte(p.String(), '*'):]
	owner := rest[strings.IndexByte(rest, '.'):]
	if strings.Count(owner, ".") < 2 || !strings.HasSuffix(host, owner) {
		t.Fatalf("%q matches %q", p, host)
	}
}

// slowMatch is the definition: ** takes one label or more, * inside a label one
// byte or more.
func slowMatch(want, have []string) bool {
	if len(want) == 0 || len(have) == 0 {
		return len(want) == len(have)
	}
	if want[0] == "**" {
		for i := 1; i <= len(have); i++ {
			if slowMatch(want[1:], have[i:]) {
				return true
			}
		}
		return false
	}
	return slowLabel(want[0], have[0]) && slowMatch(want[1:], have[1:])
}

func slowLabel(want, have string) bool {
	if want == "" || have == "" {
		return want == have
	}
	if want[0] == '*' {
		for i := 1; i <= len(have); i++ {
			if slowLabel(want[1:], have[i:]) {
				return true
			}
		}
		return false
	}
	return want[0] == have[0] && slowLabel(want[1:], have[1:])
}

func TestPatternSemantics(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	label := []string{"*", "**", "a", "b", "ab", "a*", "*b", "a*b", "com", "example"}
	plain := []string{"a", "b", "ab", "aab", "abb", "com", "example"}
	word := func(from []string) string {
		n := 1 + r.IntN(5)
		w := make([]string, n)
		for i := range w {
			w[i] = from[r.IntN(len(from))]
		}
		return strings.Join(w, ".")
	}
	for range 20_000 {
		checkPattern(t, word(label), word(plain))
	}
}

func TestAddressClasses(t *testing.T) {
	for text, want := range map[string]class{
		"93.184.216.34": public, "8.8.8.8": public, "2606:4700::1111": public, "::ffff:8.8.8.8": public,
		"127.0.0.1": private, "::1": private, "10.1.2.3": private, "172.16.0.1": private, "172.31.255.255": private,
		"192.168.1.1": private, "100.64.0.1": private, "fd12::1": private, "::ffff:10.0.0.1": private, "::ffff:127.0.0.1": private,
		"172.32.0.1": public, "100.128.0.1": public, "11.0.0.1": public,
		"0.0.0.0": special, "0.1.2.3": special, "169.254.169.254": special, "::ffff:169.254.169.254": special,
		"100.100.100.200": special, "168.63.129.16": special, "fd00:ec2::254": special, "fd20:ce::254": special,
		"192.0.0.192": special, "192.0.2.1": special, "198.18.1.0": special, "198.51.100.1": special, "203.0.113.1": special,
		"192.88.99.1": special, "224.0.0.1": special, "239.1.1.1": special, "240.0.0.1": special, "255.255.255.255": special,
		"::": special, "fe80::1": special, "fe80::1%eth0": special, "fec0::1": special, "ff02::1": special,
		"64:ff9b::7f00:1": special, "64:ff9b::808:808": special, "64:ff9b:1::1": special, "2002:7f00:1::1": special,
		"2001::1": special, "2001:10::1": special, "2001:db8::1": special, "3fff::1": special, "::7f00:1": special, "100::1": special,
		"4000::1": special, "::ffff:0:7f00:1": special,
	} {
		assert.Equal(t, want, classify(netip.MustParseAddr(text)), text)
	}
	assert.Equal(t, special, classify(netip.Addr{}))
}

// TestPatternOverlap compares Overlaps and Covers with what the two patterns match among
// all names of a small world.
func TestPatternOverlap(t *testing.T) {
	var names []string
	labels := []string{"a", "b", "aa", "ab", "ba", "bb", "aaa", "aab", "aba", "abb", "baa", "bab", "bba", "bbb"}
	for _, x := range labels {
		names = append(names, x+".ex.org", x+".ax.org")
		for _, y := range labels {
			names = append(names, x+"."+y+".ex.org", x+"."+y+".b.ex.org")
		}
	}
	names = append(names, "ex.org", "a.b.a.b.ex.org", "a.b.ax.org")
	texts := []string{
		"ex.org", "a.ex.org", "ab.ex.org", "*.ex.org", "a*.ex.org", "*a.ex.org", "*b.ex.org", "a*b.ex.org", "b*a.ex.org", "**.ex.org", "**.b.ex.org",
		"*.b.ex.org", "a.*.ex.org", "b.*.ex.org", "a*.*.ex.org", "*.*.ex.org", "**.ax.org", "*.ax.org", "a.b.ex.org", "a.*.b.ex.org", "**.a.b.ex.org",
	}
	both := 0
	for _, a := range texts {
		for _, b := range texts {
			p, err := ParsePattern(a)
			require.NoError(t, err)
			q, err := ParsePattern(b)
			require.NoError(t, err)
			want := slices.ContainsFunc(names, func(n string) bool { return p.Match(n) && q.Match(n) })
			assert.Equal(t, want, p.Overlaps(q), "%q and %q", a, b)
			all := !slices.ContainsFunc(names, func(n string) bool { return q.Match(n) && !p.Match(n) })
			assert.Equal(t, all, p.Covers(q), "%q covers %q", a, b)
			if want {
				both++
			}
		}
	}
	assert.Greater(t, both, 60)
	assert.False(t, Pattern{}.Overlaps(Pattern{}))
}

// A host name has 253 bytes at most, and each of its labels 63 (RFC 1035 §2.3.4).
func TestNameBounds(t *testing.T) {
	longest := strings.Repeat("a.", 125) + "com"
	require.Len(t, longest, maxName)
	for _, c := range []struct {
		name string
		ok   bool
	}{
		{longest, true}, {longest + ".", true}, {"a" + longest, false}, {"a" + longest + ".", false},
		{strings.Repeat("a", 63) + ".com", true}, {strings.Repeat("a", 64) + ".com", false},
	} {
		_, err := Canonical(c.name)
		assert.Equal(t, c.ok, err == nil, "%d bytes: %v", len(c.name), err)
	}
}
