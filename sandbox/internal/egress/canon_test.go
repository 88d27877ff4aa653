package egress

import (
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCanonicalPath(t *testing.T) {
	for raw, want := range map[string]string{
		"/":                       "/",
		"/a/b":                    "/a/b",
		"/a/b/":                   "/a/b/",
		"//a///b//":               "/a/b/",
		"/a/./b/../c":             "/a/c",
		"/a/..":                   "/",
		"/a/.":                    "/a/",
		"/a/b/..":                 "/a/",
		"/%61%2Db%7e":             "/a-b~",
		"/%2e%2E/x":               "", // climbs
		"/a/%2e%2e/b":             "/b",
		"/a/%2e/b":                "/a/b",
		"/...":                    "/...",
		"/.git":                   "/.git",
		"/a b":                    "",
		"/a%20b":                  "/a%20b",
		"/a|b{c}[d]\"<>^`":        "/a%7Cb%7Bc%7D%5Bd%5D%22%3C%3E%5E%60",
		"/ü":                      "/%C3%BC",
		"/%c3%bc":                 "/%C3%BC",
		"/x+y=z,&!$'()*:@":        "/x+y=z,&!$'()*:@",
		"/100%25":                 "/100%25",
		"/%2561":                  "/%2561", // decoded twice it would be a letter, which changes no rule's reach
		"/%2500":                  "",
		"/%252e%252e/x":           "",
		"/%25%32%65%25%32e":       "",
		"/%252F":                  "",
		"/%25252e":                "",
		"":                        "",
		"*":                       "",
		"a":                       "",
		"http://h/":               "",
		"/..":                     "",
		"/a/../..":                "",
		"/a\\b":                   "",
		"/a%5cb":                  "",
		"/..\\x":                  "",
		"/a%00":                   "",
		"/a%0d%0aX:":              "",
		"/a\x7f":                  "",
		"/a\tb":                   "",
		"/a#b":                    "",
		"/a%23b":                  "/a%23b",
		"/a%3fb":                  "/a%3Fb",
		"/%":                      "",
		"/%4":                     "",
		"/%zz":                    "",
		"/%u0041":                 "",
		"/%c0%ae%c0%ae/x":         "", // overlong
		"/%c0%af":                 "",
		"/%e0%80%af":              "",
		"/%ed%a0%80":              "", // half a surrogate
		"/%ff":                    "",
		"/\xff":                   "",
		"/" + long(maxPath-1):     "/" + long(maxPath-1),
		"/" + long(maxPath):       "",
		"/a/..%2fb":               "",
		"/a%2f..%2f..%2fb":        "",
		"/a%2f%2fb":               "",
		"/a/..;/b":                "",
		"/a/.;x=1/b":              "",
		"/a/;x/b":                 "",
		"/a/..%3bx/b":             "",
		"/@scope%2fname":          "/@scope%2Fname",
		"/v1/x%3aread":            "/v1/x%3Aread",
		"/torch-2.0%2Bcu118.whl":  "/torch-2.0%2Bcu118.whl",
		"/matrix;a=1/b;c":         "/matrix;a=1/b;c",
		"/a%2F":                   "/a%2F",
		"/%2f":                    "", // may be read as //
		"/repos/x/../../../etc/p": "",
	} {
		p, err := canonicalPath(raw)
		if want == "" {
			assert.ErrorIs(t, err, errPath, "%q gave %q", raw, p.text)
			continue
		}
		if assert.NoError(t, err, "%q", raw) {
			assert.Equal(t, want, p.text, "%q", raw)
		}
	}
	for raw, want := range map[string][]string{
		"/a%20b%C3%BC":     {"/a%20b%C3%BC"},
		"/@s%2fn":          {"/@s%2Fn", "/@s/n"},
		"/x%3Aread":        {"/x%3Aread", "/x:read"},
		"/m;a=1/b":         {"/m;a=1/b", "/m/b"},
		"/m%3Ba/b":         {"/m%3Ba/b", "/m;a/b", "/m/b"},
		"/m;a%2Fb/c":       {"/m;a%2Fb/c", "/m;a/b/c", "/m/c", "/m/b/c"},
		"/plain/p:a@t+h=!": {"/plain/p:a@t+h=!"},
	} {
		p, err := canonicalPath(raw)
		require.NoError(t, err, raw)
		assert.Equal(t, want, append([]string{p.text}, p.more...), raw)
	}
}

func long(n int) string { return strings.Repeat("x", n) }

// slowPath is another way to the same: by segments of decoded runes, with the
// standard library's decoder.
func slowPath(raw string) (text string, ok bool) {
	if !strings.HasPrefix(raw, "/") || len(raw) > maxPath {
		return "", false
	}
	if strings.ContainsAny(raw, "?# ") {
		return "", false
	}
	var segs []string
	parts := strings.Split(raw[1:], "/")
	for i, part := range parts {
		plain, err := url.PathUnescape(part)
		if err != nil || !utf8.ValidString(plain) || strings.Contains(plain, `\`) {
			return "", false
		}
		if strings.ContainsFunc(plain, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
			return "", false
		}
		last := i == len(parts)-1
		switch plain {
		case "..":
			if len(segs) == 0 {
				return "", false
			}
			segs = segs[:len(segs)-1]
			fallthrough
		case "", ".":
			if last {
				segs = append(segs, "")
			}
			continue
		}
		// Which delimiters were encoded is all that decoding loses.
		var b strings.Builder
		for j := 0; j < len(part); {
			one, width := part[j:j+1], 1
			if one == "%" {
				one, width = part[j:j+3], 3
			}
			c, _ := url.PathUnescape(one)
			switch {
			case strings.Contains("!$&'()*+,;=:@", one):
				b.WriteString(one)
			case width == 3 && strings.Contains("!$&'()*+,;=:@/", c):
				b.WriteString(strings.ToUpper(one))
			default:
				// QueryEscape encodes all but unreserved, and a space as +.
				b.WriteString(strings.ReplaceAll(url.QueryEscape(c), "+", "%20"))
			}
			j += width
		}
		segs = append(segs, b.String())
	}
	return "/" + strings.Join(segs, "/"), true
}

func FuzzCanonicalPath(f *testing.F) {
	for _, s := range []string{
		"/", "/a/../b//c/.", "/%2e%2e/%2E/x", "/@s%2fn", "/a;b/..;c", "/%25%32%65", "/ü%C3%BC%ff", "/a b|c", "/%5c", "/x%3A%2B+", "/%c0%ae",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		p, err := canonicalPath(raw)
		slow, ok := slowPath(raw)
		if err != nil {
			return // it may refuse more than the slow way
		}
		if !ok || slow != p.text {
			t.Fatalf("%q became %q, and the slow way %q (%v)", raw, p.text, slow, ok)
		}
		if again, err := canonicalPath(p.text); err != nil || again.text != p.text || !slices.Equal(again.more, p.more) {
			t.Fatalf("%q became %q, and that %q (%v)", raw, p.text, again.text, err)
		}
		// The standard library agrees about what the path says, and sends what was judged.
		u, err := url.ParseRequestURI(raw)
		if err != nil {
			t.Fatalf("%q: %v", raw, err)
		}
		out, err := url.PathUnescape(p.text)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.more) == 0 {
			want := filepath.ToSlash(filepath.Clean(u.Path))
			if last := u.Path[strings.LastIndexByte(u.Path, '/')+1:]; want != "/" && (last == "" || last == "." || last == "..") {
				want += "/"
			}
			if filepath.Separator == '/' && want != out {
				t.Fatalf("%q decodes to %q, and Clean says %q", p.text, out, want)
			}
		}
		if sent := targetURL("https", "h", p, "", false).RequestURI(); sent != p.text {
			t.Fatalf("%q was judged, and %q would be sent", p.text, sent)
		}
		for _, r := range append([]string{p.text}, p.more...) {
			for seg := range strings.SplitSeq(r[1:], "/") {
				if seg == "." || seg == ".." {
					t.Fatalf("%q has a reading with dots: %q", raw, r)
				}
			}
			if strings.Contains(r, "//") || strings.ContainsAny(r, "\\#? \x00") {
				t.Fatalf("%q has a reading %q", raw, r)
			}
		}
	})
}

func BenchmarkCanonicalPath(b *testing.B) {
	for name, raw := range map[string]string{"plain": "/repos/twinward-dev/twinward/issues/6/comments", "spelled": "/a/%2e%2e/Caf%c3%a9/@s%2fn//x|y"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				canonicalPath(raw)
			}
		})
	}
}
