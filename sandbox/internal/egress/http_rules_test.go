package egress

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func httpRules(t testing.TB, access string, allow, deny []HTTPRule) *HTTPRules {
	h, err := NewHTTPRules(access, allow, deny)
	require.NoError(t, err)
	return h
}

// judged is the cause and the rule of a request line, such as "GET /a".
func judged(t testing.TB, h *HTTPRules, line string) string {
	method, raw, _ := strings.Cut(line, " ")
	p, err := canonicalPath(raw)
	require.NoError(t, err, line)
	v := h.judge(method, p)
	return strings.TrimSpace(v.cause + " " + v.rule)
}

func TestHTTPRules(t *testing.T) {
	presets := map[string]string{"read-only": "GET HEAD OPTIONS", "read-write": "GET HEAD OPTIONS POST PUT PATCH", "full": "GET HEAD OPTIONS POST PUT PATCH DELETE QUERY TRACE get"}
	for access, methods := range presets {
		h := httpRules(t, access, nil, nil)
		for _, m := range strings.Fields(presets["full"]) {
			want := CauseMethod
			if strings.Contains(" "+methods+" ", " "+m+" ") {
				want = "access:" + access
			}
			assert.Equal(t, want, judged(t, h, m+" /any/where"), "%s %s", access, m)
		}
	}
	h := httpRules(t, "", []HTTPRule{
		{Methods: []string{"GET"}, Path: "/repos/**"},
		{Methods: []string{"POST", "PATCH"}, Path: "/repos/*/*/issues"},
		{Path: "/v1/*:read"},
		{Methods: []string{"*"}, Path: "/exact"},
	}, []HTTPRule{
		{Path: "/repos/acme/secret/**"},
		{Methods: []string{"POST"}, Path: "/repos/acme/**"},
		{Path: "/v1/admin:read"},
	})
	for line, want := range map[string]string{
		"GET /repos/":                            "rules[0]",
		"GET /repos":                             CausePath,
		"GET /repos/a/b/c":                       "rules[0]",
		"GET /user":                              CausePath,
		"DELETE /exact":                          "rules[3]",
		"DELETE /exact/":                         CausePath,
		"GET /Exact":                             CausePath,
		"POST /repos/a/b/issues":                 "rules[1]",
		"POST /repos/a/b/issues/1":               CausePath,
		"POST /repos/a/issues":                   CausePath,
		"POST /repos/a/b/c/issues":               CausePath,
		"DELETE /repos/a/b":                      CausePath,
		"GET /repos/acme/secret/x":               CauseDeny + " deny[0]",
		"GET /repos/acme/secret":                 CauseDeny + " deny[0]",
		"GET /repos/Acme/SECRET/":                CauseDeny + " deny[0]",
		"GET /repos/acme/secretly":               "rules[0]",
		"POST /repos/acme/b/issues":              CauseDeny + " deny[1]",
		"POST /repos/acme%2Fb/issues":            CauseDeny + " deny[1]",
		"POST /repos/a%2Fb/c/issues":             CausePath,
		"GET /repos/acme%2Fsecret%2Fx":           CauseDeny + " deny[0]",
		"GET /repos/acme/secret;v=1/x":           CauseDeny + " deny[0]",
		"GET /repos/acme/x/../secret/y":          CauseDeny + " deny[0]",
		"GET /repos//acme/%73ecret/y":            CauseDeny + " deny[0]",
		"GET /repos/x%2Fy":                       "rules[0]",
		"PUT /v1/x:read":                         "rules[2]",
		"PUT /v1/x%3Aread":                       CausePath, // a server may see the thing named "x:read"
		"PUT /v1/admin%3aread":                   CauseDeny + " deny[2]",
		"patch /repos/a/b/issues":                CausePath,
		"post /repos/acme/b/issues":              CauseDeny + " deny[1]",
		"DELETE /repos/a/../../exact":            "rules[3]",
		"GET /repos/" + strings.Repeat("*/", 50): "rules[0]",
	} {
		assert.Equal(t, want, judged(t, h, line), "%s", line)
	}
	only := httpRules(t, "", []HTTPRule{{Methods: []string{"GET"}}}, nil)
	assert.Equal(t, CauseMethod, judged(t, only, "PUT /"))
	assert.Equal(t, "", judged(t, nil, "PUT /"))
	assert.Equal(t, "access:read-only", judged(t, httpRules(t, "read-only", nil, nil), "GET /@scope%2fname"))

	assert.True(t, h.equal(h))
	assert.True(t, httpRules(t, "read-only", nil, nil).equal(httpRules(t, "", []HTTPRule{{Methods: []string{"GET", "HEAD", "OPTIONS"}}}, nil)))
	assert.False(t, h.equal(only))
	assert.False(t, h.equal(nil))
	assert.True(t, (*HTTPRules)(nil).equal(nil))
}

func TestHTTPRulesErrors(t *testing.T) {
	for what, make := range map[string]func() (*HTTPRules, error){
		"nothing is allowed": func() (*HTTPRules, error) { return NewHTTPRules("", nil, []HTTPRule{{}}) },
		"exclude each other": func() (*HTTPRules, error) { return NewHTTPRules("full", []HTTPRule{{}}, nil) },
		"is none of":         func() (*HTTPRules, error) { return NewHTTPRules("write", nil, nil) },
	} {
		_, err := make()
		assert.ErrorContains(t, err, what)
	}
	for what, r := range map[string]HTTPRule{
		"capital letters":       {Methods: []string{"get"}},
		`"CONNECT" is not`:      {Methods: []string{"CONNECT"}},
		`write "/a/b"`:          {Path: "/a//b"},
		`write "/a%20b"`:        {Path: "/%61%20b"},
		"does not begin with /": {Path: "**"},
		`can be read as "/a/b"`: {Path: "/a%2Fb"},
		`can be read as "/x"`:   {Path: "/x;a"},
		"three stars":           {Path: "/a/***"},
		"too long":              {Path: "/*" + strings.Repeat("x", maxGlob)},
		"climbs above":          {Path: "/../**"},
		"it contains '?'":       {Path: "/a?b"},
	} {
		_, err := NewHTTPRules("", []HTTPRule{r}, nil)
		assert.ErrorContains(t, err, what, "%v", r)
		_, err = NewHTTPRules("full", nil, []HTTPRule{r})
		assert.ErrorContains(t, err, what, "%v", r)
	}
}

// A glob means what the regular expression means.
func FuzzGlob(f *testing.F) {
	for _, s := range [][2]string{
		{"/**", "/a"}, {"/*/b", "/a/b"}, {"/a*c/**/d", "/abc/x/y/d"}, {"/**/a/**/b*", "/a/a/b/a/b"}, {"/*a*a*b", "/aaaa"}, {"/a", "/a"}, {"/**a*", "/x/ab"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, path string) {
		g, err := parseGlob(pattern)
		if err != nil || pattern == "" {
			return
		}
		re := regexp.QuoteMeta(pattern)
		re = strings.ReplaceAll(re, `\*\*`, `[\x00-\x{10ffff}]*`)
		re = strings.ReplaceAll(re, `\*`, `[^/]*`)
		re = strings.ReplaceAll(re, `[\x00-\x{10ffff}]*`, `(?s:.*)`)
		if want := regexp.MustCompile(`\A` + re + `\z`).MatchString(path); g.match(path) != want {
			t.Fatalf("%q on %q: %v", pattern, path, !want)
		}
		if low := g.lower(); g.match(path) && !low.match(lower(path)) {
			t.Fatalf("%q on %q: not when the case is folded", pattern, path)
		}
	})
}

func BenchmarkHTTPRules(b *testing.B) {
	h := httpRules(b, "", []HTTPRule{
		{Methods: []string{"GET"}, Path: "/repos/**"}, {Methods: []string{"POST"}, Path: "/repos/*/*/issues"}, {Methods: []string{"POST"}, Path: "/repos/*/*/pulls/*/comments"},
	}, []HTTPRule{{Path: "/repos/acme/secret/**"}, {Methods: []string{"DELETE"}, Path: "/**"}})
	for name, raw := range map[string]string{
		"plain": "/repos/twinward-dev/twinward/pulls/6/comments", "longest": "/repos/" + strings.Repeat("a/", 4000),
	} {
		p, err := canonicalPath(raw)
		require.NoError(b, err)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				h.judge("POST", p)
			}
		})
	}
}
