package argument

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// breaks compiles a schema and says how a value breaks it, "" if it does not.
func breaks(t testing.TB, schema, value string) string {
	t.Helper()
	r, left, err := compileRule(schema)
	require.NoError(t, err, schema)
	require.Empty(t, left, schema)
	return r.breaks(value)
}

func compileRule(text string) (*rule, map[string]bool, error) {
	doc, err := parseSchema([]byte(text))
	if err != nil {
		return nil, nil, err
	}
	c := ruler{doc: doc, made: map[*schema]*rule{}, left: map[string]bool{}}
	r, err := c.of(doc.root)
	return r, c.left, err
}

func (r *rule) breaks(value string) string {
	c, steps := cursor{src: value}, maxSteps
	f := r.check(&c, &steps, 0)
	if f == nil {
		return ""
	}
	return f.path + " " + f.err.Error()
}

func TestRules(t *testing.T) {
	for schema, values := range map[string][2][]string{ // what fits, what does not
		`{"minimum":9007199254740993}`:          {{"9007199254740993", "1e17", `"x"`}, {"9007199254740992", "-1e17"}},
		`{"maximum":0.1}`:                       {{"0.1", "0.10", "-5"}, {"0.10000000000000000001", "1"}},
		`{"exclusiveMinimum":0,"maximum":5}`:    {{"5", "0.0001"}, {"0", "-0", "5.0001"}},
		`{"exclusiveMaximum":true,"maximum":5}`: {{"4.9"}, {"5"}},
		`{"exclusiveMaximum":5}`:                {{"4.9"}, {"5"}},
		`{"minimum":-2}`:                        {{"-2", "-1.9", "0"}, {"-2.1", "-10", "-1e9"}},
		`{"multipleOf":0.01}`:                   {{"0", "4.02", "1e10", "-0.03"}, {"4.021", "1e-3"}},
		`{"multipleOf":3}`:                      {{"9007199254740993"}, {"9007199254740994"}},
		`{"type":"integer"}`:                    {{"1", "1.0", "1e3", "-0"}, {"1.5", `"1"`, "true", "null", "[1]"}},
		`{"type":["string","null"]}`:            {{`"x"`, "null"}, {"1", "{}"}},
		`{"enum":[1,"a",null,{"a":[1.0]}]}`:     {{"1.00", `"\u0061"`, "null", `{"a":[1]}`}, {"2", `"A"`, "false", `{"a":[1,1]}`}},
		`{"const":9007199254740993}`:            {{"9007199254740993"}, {"9007199254740992", "9007199254740994"}},
		`{"minLength":2,"maxLength":3}`:         {{`"ab"`, `"äöü"`, `"😀😀"`, "1"}, {`"a"`, `"abcd"`, `"😀"`}},
		`{"pattern":"^[a-z]+$"}`:                {{`"abc"`, `"\u0061"`}, {`"abc1"`, `"abc\n"`, `""`}},
		`{"pattern":"^\\u0061\\/$"}`:            {{`"a/"`}, {`"b/"`}},
		`{"minItems":1,"maxItems":2}`:           {{"[1]", "[1,2]", "{}"}, {"[]", "[1,2,3]"}},
		`{"uniqueItems":true}`:                  {{"[1,2]", `[{"a":1},{"a":2}]`, `["1",1]`}, {"[1,1.0]", `[{"a":1,"b":2},{"b":2,"a":1}]`, `["a","\u0061"]`}},
		`{"items":{"type":"string"}}`:           {{"[]", `["a"]`}, {`["a",1]`}},
		`{"prefixItems":[{"type":"string"}],"items":{"type":"integer"}}`:                       {{`["a",1,2]`, "[]"}, {`[1]`, `["a","b"]`}},
		`{"items":[{"type":"string"}],"additionalItems":false}`:                                {{`["a"]`}, {`[1]`, `["a",1]`}},
		`{"contains":{"const":1},"maxContains":2}`:                                             {{"[1,2]", "[1,1]"}, {"[2]", "[]", "[1,1,1]"}},
		`{"contains":true,"minContains":2}`:                                                    {{"[1,2]"}, {"[1]"}},
		`{"contains":{"const":1},"minContains":0}`:                                             {{"[]", "[2]"}, nil},
		`{"required":["a"],"minProperties":1,"maxProperties":2}`:                               {{`{"a":1}`, "[]"}, {`{}`, `{"b":1}`, `{"a":1,"b":2,"c":3}`}},
		`{"properties":{"a":{"type":"string"}},"additionalProperties":{"type":"integer"}}`:     {{`{"a":"x","b":1}`}, {`{"a":1}`, `{"b":"x"}`}},
		`{"patternProperties":{"^x-":{"type":"string"}},"additionalProperties":false}`:         {{`{"x-a":"1"}`}, {`{"x-a":1}`, `{"y":"1"}`, `{"X-a":"1"}`}},
		`{"propertyNames":{"maxLength":2}}`:                                                    {{`{"ab":1}`}, {`{"abc":1}`}},
		`{"dependentRequired":{"a":["b"]}}`:                                                    {{`{"b":1}`, `{"a":1,"b":1}`}, {`{"a":1}`}},
		`{"dependentSchemas":{"a":{"required":["b"]}}}`:                                        {{`{"c":1}`, `{"a":1,"b":1}`}, {`{"a":1}`}},
		`{"dependencies":{"a":["b"],"c":{"required":["d"]}}}`:                                  {{`{"b":1}`, `{"a":1,"b":1,"c":1,"d":1}`}, {`{"a":1}`, `{"c":1}`}},
		`{"anyOf":[{"type":"string"},{"minimum":3,"type":"integer"}]}`:                         {{`"x"`, "3"}, {"2", "null"}},
		`{"oneOf":[{"minimum":1},{"maximum":5}]}`:                                              {{"0", "6"}, {"3"}},
		`{"allOf":[{"minimum":1},{"maximum":5}]}`:                                              {{"3"}, {"0", "6"}},
		`{"not":{"type":"string"}}`:                                                            {{"1"}, {`"x"`}},
		`{"not":{}}`:                                                                           {nil, {"1", "null", "{}"}},
		`{"if":{"required":["a"]},"then":{"required":["b"]},"else":{"required":["c"]}}`:        {{`{"a":1,"b":1}`, `{"c":1}`}, {`{"a":1}`, `{"b":1}`}},
		`{"if":true,"then":{"type":"string"}}`:                                                 {{`"x"`}, {"1"}},
		`{"properties":{"t":{"$ref":"#"}},"required":["v"]}`:                                   {{`{"v":1,"t":{"v":1}}`}, {`{"v":1,"t":{}}`}},
		`{"properties":{"a":{"items":{"type":"string"}},"b":{"$ref":"#/properties/a/items"}}}`: {{`{"b":"x"}`}, {`{"b":1}`}},
		`{"$ref":"#/$defs/a%25b","minimum":2,"$defs":{"a%b":{"maximum":5}}}`:                   {{"3"}, {"1", "6"}},
		`{"$ref":"#word","$defs":{"x":{"$anchor":"word","type":"string"}}}`:                    {{`"x"`}, {"1"}},
		`true`:  {{"1", "null"}, nil},
		`false`: {nil, {"1", "null"}},
	} {
		for _, v := range values[0] {
			assert.Empty(t, breaks(t, schema, v), "%s takes %s", schema, v)
		}
		for _, v := range values[1] {
			assert.NotEmpty(t, breaks(t, schema, v), "%s refuses %s", schema, v)
		}
	}
	assert.Equal(t, "/a/1/b~1 below 2", breaks(t, `{"properties":{"a":{"items":{"properties":{"b/":{"minimum":2}}}}}}`, `{"a":[1,{"b/":1}]}`))
}

func TestSchemasThatCannotBe(t *testing.T) {
	for schema, want := range map[string]string{
		`1`:                          "a schema is",
		`{"type":"text"}`:            `no type "text"`,
		`{"minLength":-1}`:           "whole number",
		`{"minLength":1.5}`:          "whole number",
		`{"minimum":"1"}`:            "want a number",
		`{"exclusiveMinimum":"1"}`:   "no number",
		`{"multipleOf":0}`:           "not above 0",
		`{"$ref":"http://x/y"}`:      "nothing is fetched",
		`{"$ref":"#/properties/a"}`:  "names no definition",
		`{"required":true}`:          "required",
		`{"properties":{"a":[]}}`:    "a schema is",
		`{"enum":[1e99999999]}`:      "more digits",
		`{"type":"string","type":1}`: "strict JSON",
	} {
		_, _, err := compileRule(schema)
		assert.ErrorContains(t, err, want, schema)
	}
	for schema, want := range map[string]string{
		`{"pattern":"^(?!a)"}`:                                               `pattern "^(?!a)"`,
		`{"pattern":"` + strings.Repeat("a", 5000) + `"}`:                    "4 KiB",
		`{"patternProperties":{"(?=a)":false},"additionalProperties":false}`: "additionalProperties",
		`{"unevaluatedProperties":false}`:                                    "unevaluatedProperties",
		`{"items":{"unevaluatedItems":false}}`:                               "unevaluatedItems",
		`{"$dynamicRef":"#x"}`:                                               "$dynamicRef",
	} {
		_, left, err := compileRule(schema)
		require.NoError(t, err)
		assert.Contains(t, strings.Join(slices.Collect(maps.Keys(left)), ","), want, schema)
	}
}

// A check ends in bounded time, whatever the schema.
func TestRulesAreBounded(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 60) + "1" + strings.Repeat("}", 60)
	for name, c := range map[string][2]string{
		"alternatives of itself": {`{"anyOf":[{"properties":{"a":{"$ref":"#"}},"required":["zz"]},{"properties":{"a":{"$ref":"#"}},"required":["zz"]},{"type":"object"}]}`, deep},
		"none of itself":         {`{"oneOf":[{"properties":{"a":{"$ref":"#"}}},{"properties":{"a":{"$ref":"#"}}},{"not":{"properties":{"a":{"$ref":"#"}}}}]}`, deep},
		"a circle":               {`{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}`, "1"},
		"long text many times":   {`{"allOf":[` + strings.Repeat(`{"minLength":1},`, 100) + `{"minLength":1}]}`, `"` + strings.Repeat("x", 1<<20) + `"`},
	} {
		r, _, err := compileRule(c[0])
		require.NoError(t, err, name)
		cur, steps := cursor{src: c[1]}, maxSteps
		f := r.check(&cur, &steps, 0)
		require.NotNil(t, f, name)
		assert.ErrorIs(t, f.err, errTooManySteps, name)
	}
	assert.NotEmpty(t, breaks(t, `{"multipleOf":1e-300}`, "1e300"), "too far apart to tell")
	assert.NotEmpty(t, breaks(t, `{"pattern":"a"}`, `"`+strings.Repeat("a", MaxText+1)+`"`))
}

// TestSchemaSuite runs the JSON Schema test suite that jsonschema-go carries in
// its module, as far as its keywords are those of tools.
func TestSchemaSuite(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/google/jsonschema-go").Output()
	if err != nil {
		if os.Getenv("TWINWARD_FULL") != "" {
			require.NoError(t, err)
		}
		t.Skip("no go command: ", err)
	}
	module := strings.TrimSpace(string(out))
	require.NotEmpty(t, module, "jsonschema-go is not in the module cache: run go mod download")
	// Whole files about what is reported as unchecked, refused at compile time, or
	// about documents elsewhere.
	skip := map[string]bool{"dynamicRef.json": true, "refRemote.json": true, "unevaluatedItems.json": true, "unevaluatedProperties.json": true, "format.json": true}
	// Stricter than the suite: siblings of a $ref count in draft 7 too, and an $id
	// below the root makes no scope of its own.
	stricter := []string{"ref overrides any sibling keywords", "order of evaluation: $id and $anchor and $ref"}
	ran, left := 0, 0
	for _, draft := range []string{"draft2020-12", "draft7"} {
		files, err := filepath.Glob(filepath.Join(module, "jsonschema", "testdata", draft, "*.json"))
		require.NoError(t, err)
		for _, file := range files {
			if skip[filepath.Base(file)] {
				continue
			}
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			var groups []struct {
				Description string
				Schema      json.RawMessage
				Tests       []struct {
					Description string
					Data        json.RawMessage
					Valid       bool
				}
			}
			require.NoError(t, json.Unmarshal(text, &groups), file)
			for _, g := range groups {
				r, unchecked, err := compileRule(string(g.Schema))
				if err != nil || len(unchecked) > 0 || slices.Contains(stricter, g.Description) {
					left += len(g.Tests)
					t.Logf("left out: %s: %s: %v %v", filepath.Base(file), g.Description, err, unchecked)
					continue
				}
				for _, c := range g.Tests {
					ran++
					got := r.breaks(string(c.Data))
					assert.Equal(t, c.Valid, got == "", "%s %s: %s: %s: %s", draft, filepath.Base(file), g.Description, c.Description, got)
				}
			}
		}
	}
	t.Logf("%d cases, %d left out", ran, left)
	assert.Greater(t, ran, 1000)
	assert.Less(t, left, 100)
}

// schemas makes random schemas of the keywords that are checked, and values that
// often fit them. Numbers are small.
func schemas(r *rand.Rand) (value, schema func(depth int) any) {
	value = func(depth int) any {
		switch n := r.IntN(8); {
		case n < 2:
			return r.IntN(6)
		case n == 2:
			return pick(r, "", "a", "ab", "abc", "b")
		case n == 3:
			return pick[any](r, true, false, nil, 1.5)
		case depth > 3:
			return "deep"
		case n < 6:
			list := []any{}
			for range r.IntN(4) {
				list = append(list, value(depth+1))
			}
			return list
		}
		m := map[string]any{}
		for range r.IntN(4) {
			m[pick(r, "a", "b", "c", "ab")] = value(depth + 1)
		}
		return m
	}
	schema = func(depth int) any {
		s := map[string]any{}
		for range 1 + r.IntN(3) {
			switch key := pick(r, "type", "minimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern", "maxItems", "minItems", "uniqueItems",
				"required", "minProperties", "maxProperties", "dependentRequired", "enum", "const", "items", "prefixItems", "contains", "properties",
				"additionalProperties", "patternProperties", "propertyNames", "not", "anyOf", "oneOf", "allOf", "if", "then", "else", "$ref"); key {
			case "type":
				s[key] = pick[any](r, "string", "integer", "number", "object", "array", "boolean", []string{"null", "string"}, []string{"array", "object"})
			case "minimum", "exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties":
				s[key] = r.IntN(4)
			case "multipleOf":
				s[key] = 1 + r.IntN(3)
			case "pattern":
				s[key] = pick(r, "a", "^b", "c$")
			case "uniqueItems":
				s[key] = true
			case "required":
				s[key] = []string{pick(r, "a", "b")}
			case "dependentRequired":
				s[key] = map[string]any{"a": []string{"b"}}
			case "enum":
				s[key] = []any{value(2), value(2), value(3)}
			case "const":
				s[key] = value(3)
			case "$ref":
				s[key] = "#/$defs/d"
			default:
				if depth > 3 {
					continue
				}
				switch key {
				case "properties", "patternProperties":
					s[key] = map[string]any{pick(r, "a", "b"): schema(depth + 1)}
				case "prefixItems", "anyOf", "oneOf", "allOf":
					s[key] = []any{schema(depth + 1), schema(depth + 1)}
				default:
					s[key] = schema(depth + 1)
				}
			}
		}
		return s
	}
	return value, schema
}

// TestRulesLikeJSONSchemaGo compares random schemas and values with another
// implementation. Numbers are small: that one reads bounds as 64-bit floats.
func TestRulesLikeJSONSchemaGo(t *testing.T) {
	t.Parallel()
	r := seeded(t)
	value, schema := schemas(r)
	verdicts := [2]int{}
	for range rounds(20_000) {
		root := schema(0).(map[string]any)
		root["$defs"] = map[string]any{"d": map[string]any{"type": pick(r, "string", "integer", "array")}}
		text, err := json.Marshal(root)
		require.NoError(t, err)
		mine, left, err := compileRule(string(text))
		require.NoError(t, err, "%s", text)
		require.Empty(t, left)
		var s jsonschema.Schema
		require.NoError(t, json.Unmarshal(text, &s))
		theirs, err := s.Resolve(nil)
		require.NoError(t, err, "%s", text)
		for range 3 {
			v := value(0)
			src, err := json.Marshal(v)
			require.NoError(t, err)
			var decoded any
			require.NoError(t, json.Unmarshal(src, &decoded))
			want, got := theirs.Validate(decoded), mine.breaks(string(src))
			require.Equal(t, want == nil, got == "", "%s\n%s\ntheirs: %v\nmine: %s", text, src, want, got)
			verdicts[min(len(got), 1)]++
		}
	}
	t.Logf("%d fit, %d do not", verdicts[0], verdicts[1])
	assert.Positive(t, min(verdicts[0], verdicts[1]))
}
