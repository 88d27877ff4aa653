package argument

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDerivedMistakes(t *testing.T) {
	for want, d := range map[string]DerivedFrom{
		"there are count, email_domains": {"/s", "host"},
		"begins with":                    {"s", facetPath},
		"leads to no argument":           {"/none", facetPath},
		"leads to no argument in":        {"/ss/0", facetPath},
		"no value that facet":            {"/i", facetPath},
		"no value that facet \"count\"":  {"/s", facetCount},
		"a count is of one list":         {"/objs/*/k", facetCount},
		"leads to no":                    {"/o/*", facetSHA256},
	} {
		_, err := newSubject(openSchema, map[string]DerivedFrom{"d": d})
		assert.ErrorContains(t, err, want, d)
		assert.ErrorContains(t, err, `"d`)
	}
	_, err := newSubject(openSchema, map[string]DerivedFrom{"a b": {"/s", facetSHA256}})
	assert.ErrorContains(t, err, "letters")
	many := map[string]DerivedFrom{}
	for i := range maxDerived + 1 {
		many["d"+strings.Repeat("x", i)] = DerivedFrom{Facet: facetSHA256}
	}
	_, err = newSubject(openSchema, many)
	assert.ErrorContains(t, err, "at most 32")
}

func TestDerived(t *testing.T) {
	schema := `{"type":"object","required":["p","l"],"properties":{
	  "p":{"type":"string"},"q":{"type":["string","null"]},"l":{"type":"array","items":{"type":"string"}},
	  "u":{"anyOf":[{"type":"string"},{"type":"integer"}]},"a/b":{"$ref":"#/$defs/s"},
	  "deep":{"type":"array","items":{"type":"object","properties":{"to":{"type":"array","items":{"type":"string"}}}}}},
	  "$defs":{"s":{"type":"string"}}}`
	sub, err := newSubject(schema, map[string]DerivedFrom{
		"p": {"/p", facetPath}, "q": {"/q", facetPath}, "l": {"/l/*", facetPath}, "n": {"/l", facetCount},
		"u": {"/u", facetPath}, "ab": {"/a~1b", facetPort}, "to": {"/deep/*/to/*", facetDomains}, "all": {Facet: facetSHA256},
	})
	require.NoError(t, err)
	assert.Equal(t, `{"ab"?: Long, "all": String, "l": Set<String>, "n": Long, "p": String, "q"?: String, "to"?: Set<String>, "u"?: String}`, DerivedType(sub.derived))
	derived := func(args string) string {
		_, argErr := Convert(sub.args, args, nil)
		if argErr != nil {
			return "refused: " + argErr.Error()
		}
		rec, argErr := Derive(sub.derived, args)
		if argErr != nil {
			return "refused: " + argErr.Error()
		}
		return show(rec)
	}
	assert.Contains(t, derived(`{"p":"./a","l":[]}`), ` l:[] n:0 p:"a"}`)
	assert.Contains(t, derived(`{"p":"./a","l":["x//y","x/y"]}`), `l:["x/y"] n:2 p:"a"}`)
	assert.Contains(t, derived(`{"p":"a","l":[],"a/b":"http://x.com","q":null,"u":"b/."}`), `ab:80 `)
	assert.Contains(t, derived(`{"p":"a","l":[],"deep":[{"to":["a@x.com","b@y.com"]},{},{"to":["c@x.com"]}]}`), `to:["x.com" "y.com"]`)
	assert.Contains(t, derived(`{"p":"a","l":[],"u":1}`), "refused: argument /u: not a string")
	// The hash of all arguments is that of their canonical form.
	assert.Equal(t, derived(`{"p":"a","l":[]}`), derived(` {"l":[ ],"\u0070":"a"}`))
	assert.NotEqual(t, derived(`{"p":"a","l":[]}`), derived(`{"p":"a","l":[],"zz":1}`))
	// More values than a set may have.
	long := `"` + strings.Repeat(`a@x.com,`, 255) + `a@x.com"`
	assert.Contains(t, derived(`{"p":"a","l":[],"deep":[{"to":[`+long+`,"a@y.com"]}]}`), `to:["x.com" "y.com"]`)
	var names []string
	for i := range 300 {
		names = append(names, fmt.Sprintf("a@x%d.com", i))
	}
	pairs := strings.Join(names[:150], ",") + `","` + strings.Join(names[150:], ",")
	assert.Contains(t, derived(`{"p":"a","l":[],"deep":[{"to":["`+pairs+`"]}]}`), "more than 256")
	assert.Contains(t, derived(`{"p":"a","l":[],"deep":[{"to":["`+strings.Join(names[:200], `","`)+`"]},{"to":["`+strings.Join(names[200:], `","`)+`"]}]}`), "more than 256")
	assert.Contains(t, derived(`{"p":"a","l":[],"deep":[{"to":["`+strings.Join(names, ",")+`"]}]}`), "too many")
	assert.Contains(t, derived(`{"p":"`+strings.Repeat("a", 5000)+`","l":[]}`), "more than 4096")
	assert.Contains(t, derived(`{"p":"a","l":[],"a/b":"http://x.com/`+strings.Repeat("a", 9000)+`"}`), "8 KiB")
}

// A name that a lenient reader takes for the one that is decided on is refused,
// also where the schema says nothing about what is inside.
func TestDerivedLookAlikes(t *testing.T) {
	schema := `{"type":"object","properties":{"rows":{"type":"array","items":{"type":"array","items":{"type":"object","properties":{"url":{"type":"string"}}}}}}}`
	sub, err := newSubject(schema, map[string]DerivedFrom{
		"hosts": {"/rows/*/*/url", facetHost},
	})
	require.NoError(t, err)
	derive := func(other string) error {
		args := `{"rows":[[{"url":"https://good.com","` + other + `":"https://evil.com"}]]}`
		if _, err := Convert(sub.args, args, nil); err != nil {
			return err
		}
		if _, err := Derive(sub.derived, args); err != nil {
			return err
		}
		return nil
	}
	assert.NoError(t, derive("note"))
	assert.ErrorContains(t, derive("URL"), "case or look")
	assert.ErrorContains(t, derive("ｕrl"), "case or look")
}

func asText(v types.Value) string { return string(v.(types.String)) }

// FuzzFacets: a facet of text is a fixed point: what it makes, it makes of
// itself again. And nothing breaks it.
func FuzzFacets(f *testing.F) {
	for _, row := range []string{"/a/../b", "http://EXAMPLE.com.:80/x", "http://0x7f.1/", "http://[::ffff:1.2.3.4]", "a@b.c, D <e@f.g>", "-- x\nselect 1", "ＡＢ\u200b", "ﬁ"} {
		f.Add(row)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := cleanPath(s); err == nil {
			again, err := cleanPath(asText(p))
			require.NoError(t, err)
			require.Equal(t, p, again)
			require.NotContains(t, strings.TrimLeft(asText(p), "./"), "../")
		}
		if u, err := parseURL(s); err == nil {
			host := u.host
			if strings.Contains(host, ":") {
				host = "[" + host + "]"
			}
			again, err := parseURL(u.scheme + "://" + host)
			require.NoError(t, err, u)
			require.Equal(t, [2]string{u.scheme, u.host}, [2]string{again.scheme, again.host})
		}
		if v, err := folded(s); err == nil {
			again, err := folded(asText(v))
			require.NoError(t, err)
			require.Equal(t, v, again)
		}
		if v, err := sqlVerb(s); err == nil {
			require.Regexp(t, "^[A-Z]+$", asText(v))
		}
		_, _ = emailDomains(s)
		for _, k := range []Kind{KindTime, KindDate, KindIPv4, KindIPv6} {
			_, _ = formatted(k, s)
		}
	})
}
