package argument

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const openSchema = `{
  "type": "object",
  "properties": {
    "s":    {"type": "string"},
    "i":    {"type": "integer"},
    "n":    {"type": "number"},
    "id":   {"type": "number"},
    "b":    {"type": "boolean"},
    "e":    {"type": "string", "enum": ["open", "closed"]},
    "one":  {"enum": [1, 2]},
    "ns":   {"type": ["string", "null"]},
    "opt":  {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    "ss":   {"type": "array", "items": {"type": "string"}},
    "is":   {"type": "array", "items": {"type": "integer"}},
    "ids":  {"type": "array", "items": {"type": "number"}},
    "o":    {"type": "object", "properties": {"x": {"type": "string"}, "y": {"type": "integer"}}, "required": ["x"], "additionalProperties": false},
    "deep": {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "object", "properties": {"c": {"type": "object", "properties": {"d": {"type": "string"}}}}}}}}},
    "map":  {"type": "object", "additionalProperties": {"type": "string"}},
    "u":    {"type": ["string", "number"]},
    "objs": {"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string"}}}},
    "ref":  {"$ref": "#/$defs/word"},
    "any":  true,
    "a/b~": {"type": "string"}
  },
  "$defs": {"word": {"type": "string"}}
}`

func typed(t testing.TB, schema string, as map[string]string) *Type {
	t.Helper()
	at, _, err := NewType([]byte(schema), as)
	require.NoError(t, err)
	return at
}

// sees is what policy gets to see of arguments, or why they are refused:
// "strict-json" or "arguments".
func sees(at *Type, src string) (string, error) {
	if err := CheckStrict([]byte(src)); err != nil {
		return "strict-json", err
	}
	a, err := Convert(at, src, nil)
	if err != nil {
		return "arguments", err
	}
	out := show(a.Args)
	if a.Nulls.Len() > 0 {
		out += " nulls" + show(a.Nulls)
	}
	if a.Extra.Len() > 0 {
		out += " extra" + show(a.Extra)
	}
	return out, nil
}

func show(v types.Value) string {
	switch v := v.(type) {
	case types.Record:
		var parts []string
		for _, k := range slices.Sorted(v.Keys()) {
			e, _ := v.Get(k)
			parts = append(parts, string(k)+":"+show(e))
		}
		return "{" + strings.Join(parts, " ") + "}"
	case types.Set:
		var parts []string
		for e := range v.All() {
			parts = append(parts, show(e))
		}
		slices.Sort(parts)
		return "[" + strings.Join(parts, " ") + "]"
	case types.String:
		return fmt.Sprintf("%q", string(v))
	case types.Decimal:
		return v.String() + "d"
	}
	return v.String()
}

// Every row is an attempt to show policy one thing and the tool another, or a
// value that a careless conversion would change.
func TestSmuggling(t *testing.T) {
	at := typed(t, openSchema, map[string]string{"/id": "long", "/ids/*": "long"})
	rows := []struct{ name, args, want string }{
		{"empty", `{}`, `{}`},
		{"white space", " \n\t{ \"s\" : \"x\" , \"i\" : 1 } \r\n", `{i:1 s:"x"}`},

		// Not one JSON value that everybody reads alike.
		{"repeated key", `{"s":"a","s":"b"}`, "strict-json"},
		{"repeated key, escaped", `{"s":"a","\u0073":"b"}`, "strict-json"},
		{"repeated key, nested", `{"o":{"x":"a","x":"b"}}`, "strict-json"},
		{"repeated key, in what policy sees as text", `{"map":{"k":"a","k":"b"}}`, "strict-json"},
		{"repeated key, in an unknown property", `{"zzz":[{"k":1,"\u006b":2}]}`, "strict-json"},
		{"trailing value", `{"s":"a"} {"s":"b"}`, "strict-json"},
		{"trailing comma", `{"s":"a",}`, "strict-json"},
		{"trailing bracket", `{"s":"a"}}`, "strict-json"},
		{"two commas", `{"s":"a",,"i":1}`, "strict-json"},
		{"no comma", `{"s":"a" "i":1}`, "strict-json"},
		{"byte order mark", "\ufeff{}", "strict-json"},
		{"comment", `{"s":"a"/*,"s":"b"*/}`, "strict-json"},
		{"single quotes", `{'s':'a'}`, "strict-json"},
		{"invalid UTF-8", "{\"s\":\"a\xff\"}", "strict-json"},
		{"overlong UTF-8", "{\"s\":\"\xc0\xaf\"}", "strict-json"},
		{"surrogate as UTF-8", "{\"s\":\"\xed\xa0\x80\"}", "strict-json"},
		{"half a surrogate", `{"s":"\ud800"}`, "strict-json"},
		{"surrogates the wrong way round", `{"s":"\udc00\ud800"}`, "strict-json"},
		{"half a surrogate as key", `{"\ud800":1}`, "strict-json"},
		{"control character", "{\"s\":\"a\x00b\"}", "strict-json"},
		{"NaN", `{"n":NaN}`, "strict-json"},
		{"plus sign", `{"i":+1}`, "strict-json"},
		{"leading zero", `{"i":01}`, "strict-json"},
		{"hexadecimal", `{"i":0x10}`, "strict-json"},
		{"bare point", `{"n":1.}`, "strict-json"},
		{"empty text", ``, "strict-json"},
		{"not ended", `{"s":"a"`, "strict-json"},
		{"not ended string", `{"s":"a`, "strict-json"},
		{"not ended escape", `{"s":"\`, "strict-json"},
		{"deep", `{"any":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`, "strict-json"},

		// Not an object.
		{"array", `[]`, "arguments"},
		{"null", `null`, "arguments"},
		{"string", `"{}"`, "arguments"},

		// Strings.
		{"escape", `{"s":"\u0065\/\"\\\b\f\n\r\t"}`, `{s:"e/\"\\\b\f\n\r\t"}`},
		{"surrogate pair", `{"s":"\ud83d\ude00"}`, `{s:"😀"}`},
		{"escaped name", `{"\u0073":"x"}`, `{s:"x"}`},
		{"NUL", `{"s":"a\u0000b"}`, `{s:"a\x00b"}`},
		{"number for string", `{"s":1}`, "arguments"},
		{"list for string", `{"s":["x"]}`, "arguments"},
		{"object for string", `{"s":{"x":"y"}}`, "arguments"},
		{"true for string", `{"s":true}`, "arguments"},
		{"entity for string", `{"s":{"__entity":{"type":"Profile","id":"admin"}}}`, "arguments"},
		{"extension for string", `{"s":{"__extn":{"fn":"ip","arg":"1.2.3.4"}}}`, "arguments"},
		{"long string", `{"s":"` + strings.Repeat("x", MaxText+1) + `"}`, "arguments"},
		{"not in enum", `{"e":"OPEN"}`, "arguments"},
		{"in enum, escaped", `{"e":"\u006fpen"}`, `{e:"open"}`},
		{"definition elsewhere in the schema", `{"ref":1}`, "arguments"},
		{"pointer characters in a name", `{"a/b~":null}`, `{} nulls["/a~1b~0"]`},

		// Whole numbers.
		{"largest", `{"i":9223372036854775807}`, `{i:9223372036854775807}`},
		{"smallest", `{"i":-9223372036854775808}`, `{i:-9223372036854775808}`},
		{"one too large", `{"i":9223372036854775808}`, "arguments"},
		{"one too small", `{"i":-9223372036854775809}`, "arguments"},
		{"huge", `{"i":1e300}`, "arguments"},
		{"one after 64 bits are all used", `{"i":18446744073709551617}`, "arguments"},
		{"the same as a decimal", `{"n":1844674407370955.1617}`, "arguments"},
		{"far too huge", `{"i":1e999999999}`, "arguments"},
		{"far too small", `{"n":1e-999999999}`, "arguments"},
		{"zero with an exponent", `{"i":0e0}`, `{i:0}`},
		{"minus zero", `{"i":-0}`, `{i:0}`},
		{"whole though written with a point", `{"i":42.0}`, `{i:42}`},
		{"whole though written with an exponent", `{"i":4.2e1}`, `{i:42}`},
		{"negative exponent", `{"i":4200e-2}`, `{i:42}`},
		{"fraction", `{"i":42.5}`, "arguments"},
		{"beyond 2^53", `{"i":9007199254740993}`, `{i:9007199254740993}`},
		{"string for integer", `{"i":"501"}`, "arguments"},
		{"list for integer", `{"i":[501]}`, "arguments"},
		{"true for integer", `{"i":true}`, "arguments"},

		// Numbers.
		{"decimal", `{"n":10}`, `{n:10.0d}`},
		{"four places", `{"n":-0.0001}`, `{n:-0.0001d}`},
		{"five places", `{"n":0.00001}`, "arguments"},
		{"five places, the last of them zero", `{"n":0.00010}`, `{n:0.0001d}`},
		{"largest decimal", `{"n":922337203685477.5807}`, `{n:922337203685477.5807d}`},
		{"smallest decimal", `{"n":-922337203685477.5808}`, `{n:-922337203685477.5808d}`},
		{"too large a decimal", `{"n":922337203685477.5808}`, "arguments"},
		{"huge decimal", `{"n":1e300}`, "arguments"},
		{"many digits", `{"n":1.` + strings.Repeat("0", 100) + `1}`, "arguments"},
		{"many digits in text", `{"any":1.` + strings.Repeat("0", 100) + `1}`, "arguments"},
		{"pinned as long", `{"id":42}`, `{id:42}`},
		{"pinned as long, fraction", `{"id":42.5}`, "arguments"},
		{"enum of numbers", `{"one":1}`, `{one:1}`},
		{"enum of numbers, other spelling", `{"one":1.0e0}`, `{one:1}`},
		{"not in enum of numbers", `{"one":3}`, "arguments"},

		// Booleans.
		{"boolean", `{"b":true}`, `{b:true}`},
		{"string for boolean", `{"b":"true"}`, "arguments"},
		{"number for boolean", `{"b":1}`, "arguments"},

		// Nulls.
		{"null", `{"s":null}`, `{} nulls["/s"]`},
		{"null that the schema allows", `{"ns":null,"opt":null}`, `{} nulls["/ns" "/opt"]`},
		{"null for a required property", `{"o":{"x":null}}`, "arguments"},
		{"null in a list", `{"ss":["a",null]}`, "arguments"},

		// Lists.
		{"set", `{"ss":["b","a","b"]}`, `{ss:["a" "b"]}`},
		{"mixed list", `{"ss":["a",1]}`, "arguments"},
		{"nested list", `{"ss":[["a"]]}`, "arguments"},
		{"string for list", `{"ss":"a"}`, "arguments"},
		{"list of pinned numbers", `{"ids":[1,2.0]}`, `{ids:[1 2]}`},
		{"longest list", `{"is":[` + strings.Repeat("7,", MaxSet-1) + `7]}`, `{is:[7]}`},
		{"longer list", `{"is":[` + strings.Repeat("7,", MaxSet) + `7]}`, "arguments"},

		// Objects.
		{"record", `{"o":{"x":"a","y":1}}`, `{o:{x:"a" y:1}}`},
		{"missing", `{"o":{"y":1}}`, "arguments"},
		{"unknown property of a closed object", `{"o":{"x":"a","z":1}}`, "arguments"},
		{"list for object", `{"o":[{"x":"a"}]}`, "arguments"},
		{"below four levels", `{"deep":{"a":{"b":{"c":{"d":"e"}}}}}`, `{deep:{a:{b:{c:"{\"d\":\"e\"}"}}}}`},
		{"entity for record", `{"o":{"__entity":{"type":"Profile","id":"admin"},"x":"a"}}`, "arguments"},

		// What has no Cedar type is text in one form only.
		{"map", `{"map":{"b":"1","a":"\u0032"}}`, `{map:{json:"{\"a\":\"2\",\"b\":\"1\"}" keys:["a" "b"]}}`},
		{"union, string", `{"u":"1"}`, `{u:{string:"1"}}`},
		{"union, number", `{"u":1.50e2}`, `{u:{number:150.0d}}`},
		{"union, neither", `{"u":true}`, "arguments"},
		{"union, null is neither", `{"u":null}`, `{} nulls["/u"]`},
		{"numbers in text stay exact", `{"any":[9007199254740993,0.1e1,-0.0,12.50,1e-7,1e30]}`, `{any:"[9007199254740993,1,0,12.5,1e-7,1e30]"}`},
		{"list of objects", `{"objs":[{"k":"b"},{"k":"a"},{"k":"b"},{}]}`, `{objs:{k:["a" "b"]}}`},
		{"list of objects and something else", `{"objs":[{"k":"b"},"a"]}`, "arguments"},
		{"list of objects with an unknown property", `{"objs":[{"k":"b","zz":1}]}`, `{objs:{k:["b"]}} extra["/objs/*/zz"]`},
		{"list of objects with a null", `{"objs":[{"k":null},{"k":"a"}]}`, `{objs:{k:["a"]}} nulls["/objs/*/k"]`},
		{"no objects", `{"objs":[]}`, `{objs:{k:[]}}`},
		{"long text", `{"any":["` + strings.Repeat("x", MaxText) + `"]}`, "arguments"},

		// Names that the schema does not have.
		{"extra", `{"zzz":{"s":"x"}}`, `{} extra["/zzz"]`},
		{"other case", `{"S":"x"}`, "arguments"},
		{"other case, escaped", `{"\u0053":"x"}`, "arguments"},
		{"other width", `{"ｓｓ":["x"]}`, "arguments"},
		{"other separator", `{"s_s":["x"]}`, "arguments"},
		{"long s", `{"ſ":"x"}`, "arguments"},
		{"Kelvin sign", `{"o":{"x":"a","K":1}}`, "arguments"},
		{"entity as a name", `{"__entity":{"type":"Profile","id":"admin"}}`, `{} extra["/__entity"]`},
		{"prototype", `{"__proto__":{"s":"x"}}`, `{} extra["/__proto__"]`},
		{"empty name", `{"":1}`, `{} extra["/"]`},
	}
	require.GreaterOrEqual(t, len(rows), 100)
	for _, r := range rows {
		got, err := sees(at, r.args)
		assert.Equal(t, r.want, got, "%s: %v", r.name, err)
	}
}

// A closed schema has no extra arguments.
func TestClosedSchema(t *testing.T) {
	at := typed(t, `{"type":"object","properties":{"s":{"type":"string"},"more":{}},"required":["s","more"],"additionalProperties":false}`, nil)
	for args, want := range map[string]string{
		`{"s":"x","more":[1]}`:       `{more:"[1]" s:"x"}`,
		`{"s":"x","more":1,"zzz":1}`: "arguments",
		`{"s":"x"}`:                  "arguments",
	} {
		got, err := sees(at, args)
		assert.Equal(t, want, got, "%s: %v", args, err)
	}
}

// What is required and not described is text, and nothing at all where the
// schema is closed.
func TestRequiredOnly(t *testing.T) {
	got, err := sees(typed(t, `{"type":"object","required":["x"]}`, nil), `{"x":[1]}`)
	require.NoError(t, err)
	assert.Equal(t, `{x:"[1]"}`, got)
	got, _ = sees(typed(t, `{"type":"object","required":["x"],"additionalProperties":{"type":"integer"}}`, nil), `{"x":1}`)
	assert.Equal(t, `{x:1}`, got)
	_, err = sees(typed(t, `{"type":"object","required":["x"],"additionalProperties":false}`, nil), `{"x":1}`)
	assert.ErrorContains(t, err, "/x")
	_, err = sees(typed(t, `{"type":"object","required":["x"]}`, nil), `{"x":null}`)
	assert.ErrorContains(t, err, "/x")
}

// No set is larger than what cedar-go makes in time, however it comes together.
func TestManyValues(t *testing.T) {
	at := typed(t, `{"type":"object","properties":{
	  "map":{"type":"object"},"maps":{"type":"array","items":{"type":"object"}},
	  "rows":{"type":"array","items":{"type":"object","properties":{"l":{"type":"array","items":{"type":"integer"}},"o":{"type":"object","properties":{"l":{"type":"array","items":{"type":"integer"}}}}}}}}}`, nil)
	object := func(from, to int) string {
		var all []string
		for i := from; i < to; i++ {
			all = append(all, fmt.Sprintf(`"k%d":1`, i))
		}
		return `{` + strings.Join(all, ",") + `}`
	}
	numbers := func(n int) string { return `[` + strings.Repeat("1,", n-1) + `1]` }
	for args, want := range map[string]bool{
		`{"maps":[` + object(0, 128) + `,` + object(128, 256) + `]}`:                  true,
		`{"maps":[` + object(0, 128) + `,` + object(128, 257) + `]}`:                  false,
		`{"map":` + object(0, 256) + `}`:                                              true,
		`{"map":` + object(0, 257) + `}`:                                              false,
		`{"maps":[` + object(0, 257) + `]}`:                                           false,
		`{"rows":[{"l":` + numbers(256) + `},{"o":{"l":` + numbers(256) + `}}]}`:      true,
		`{"rows":[` + strings.Repeat(`{"l":[1,2]},`, 128) + `{"l":[1]}]}`:             false,
		`{"rows":[` + strings.Repeat(`{"o":{"l":[1,2]}},`, 128) + `{"o":{"l":[1]}}]}`: false,
		`{"rows":[` + strings.Repeat(`{},`, 256) + `{}]}`:                             false,
		`{"` + strings.Repeat("z", MaxName+1) + `":1}`:                                false,
		`{"` + strings.Repeat("z", MaxName) + `":1}`:                                  true,
	} {
		_, err := sees(at, args)
		assert.Equal(t, want, err == nil, "%.60s: %v", args, err)
	}
}

func TestManyFields(t *testing.T) {
	var props, args []string
	for i := range 100 {
		props = append(props, fmt.Sprintf(`"f%d":{"type":"integer"}`, i))
		args = append(args, fmt.Sprintf(`"f%d":%d`, i, i))
	}
	at := typed(t, `{"type":"object","properties":{`+strings.Join(props, ",")+`},"required":["f0","f64","f99"]}`, nil)
	a, err := Convert(at, `{`+strings.Join(args, ",")+`}`, nil)
	require.Nil(t, err)
	assert.Equal(t, 100, a.Args.Len())
	for _, missing := range []int{0, 64, 99} {
		_, err := Convert(at, `{`+strings.Join(slices.Delete(slices.Clone(args), missing, missing+1), ",")+`}`, nil)
		require.NotNil(t, err, missing)
		assert.Equal(t, fmt.Sprintf("/f%d", missing), err.path)
	}
}

// The limits hold before anything is built. The set below keeps cedar-go busy
// for seconds, because its hashes collide on purpose.
func TestHostileArguments(t *testing.T) {
	at := typed(t, openSchema, nil)
	for name, args := range hostile() {
		allocs := testing.AllocsPerRun(3, func() { _, _ = sees(at, args) })
		got, err := sees(at, args)
		assert.Equal(t, "strict-json", got, name)
		require.ErrorIs(t, err, ErrStrict, name)
		assert.Less(t, allocs, 32.0, name)
	}
	// Within the limits of the scan: refused, and little memory used for it.
	deep := strings.Repeat(`{"a":`, 60) + `"` + strings.Repeat("x", 3<<20) + `"` + strings.Repeat("}", 60)
	for name, args := range map[string]string{
		"long text":     `{"s":"` + strings.Repeat("x", 3<<20) + `"}`,
		"long and deep": `{"any":` + deep + `}`,
		"long name":     `{"` + strings.Repeat("x", 3<<20) + `":1}`,
		"long map":      `{"map":` + deep + `}`,
		"long number":   `{"n":` + strings.Repeat("1", 3<<20) + `}`,
		"many objects":  `{"objs":[` + strings.Repeat(`{"k":"x"},`, 900) + `{}]}`,
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Convert(at, args, nil)
		runtime.ReadMemStats(&after)
		assert.NotNil(t, err, name)
		assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20), name)
	}
	var numbers []string
	for i := range 1_500 {
		numbers = append(numbers, fmt.Sprint(i))
	}
	got, err := sees(at, `{"is":[`+strings.Join(numbers, ",")+`]}`)
	assert.Equal(t, "arguments", got)
	assert.ErrorContains(t, err, "a list of more than 256")

	var many []string
	for i := range maxExtra + 1 {
		many = append(many, fmt.Sprintf(`"zz%d":1`, i))
	}
	got, _ = sees(at, `{`+strings.Join(many, ",")+`}`)
	assert.Equal(t, "arguments", got)
}

func TestNumberCanonical(t *testing.T) {
	for in, want := range map[string]string{
		"0": "0", "-0.000": "0", "0e5": "0", "1": "1", "10": "10", "1e1": "10", "100e-1": "10", "-1.50": "-1.5",
		"0.5": "0.5", "0.00001": "0.00001", "0.000001": "0.000001", "0.0000001": "1e-7", "123e-9": "1.23e-7",
		"1e20": "100000000000000000000", "1e21": "1e21", "12345678901234567890123": "1.2345678901234567890123e22",
	} {
		n, err := parseNumber(in)
		require.NoError(t, err, in)
		assert.Equal(t, want, string(n.append(nil)), in)
	}
}

// Nesting does not multiply the memory that a large value takes, in whatever order
// the members are.
func TestCanonicalMemory(t *testing.T) {
	const size, depth = 1 << 20, 60
	in := strings.Repeat(`{"b":`, depth) + `"` + strings.Repeat("x", size) + `"` + strings.Repeat(`,"a":1}`, depth)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	out, err := CanonicalJSON(in)
	runtime.ReadMemStats(&after)
	require.NoError(t, err)
	assert.Equal(t, strings.Repeat(`{"a":1,"b":`, depth)+`"`+strings.Repeat("x", size)+`"`+strings.Repeat("}", depth), out)
	assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(20*size))
}

func TestUntypableSchemas(t *testing.T) {
	for schema, want := range map[string]string{
		`{"type":"array"}`: "not \"object\"",
		`{"type":"object","properties":{"x":{"$ref":"https://example.com/schema"}}}`: "leaves the schema",
		`{"type":"object","properties":{"x":{"$ref":"other.json#/$defs/x"}}}`:        "leaves the schema",
		`{"type":"object","properties":{"x":{"$ref":"#/$defs/none"}}}`:               "names no definition",
		`{"type":"object","properties":{"x":1}}`:                                     "inputSchema",
		`{"type":"object","type":"object"}`:                                          "strict JSON",
		`{"type":"object"`:                                                           "strict JSON",
		``:                                                                           "strict JSON",
	} {
		_, _, err := NewType([]byte(schema), nil)
		assert.ErrorContains(t, err, want, schema)
	}
	for _, as := range []map[string]string{{"/s": "long"}, {"/none": "long"}, {"/n": "decimal"}, {"/n": "scaled(0)"}, {"/n": "scaled(19)"}, {"/i": "large"}, {"/s": "text"}, {"/ss/*": "large"}, {"n": "long", "/n": "text"}} {
		_, _, err := NewType([]byte(openSchema), as)
		assert.ErrorContains(t, err, `"as"`, as)
	}
	// Alternatives beside a type leave it the type that it is.
	narrowed, err := sees(typed(t, `{"type":"object","properties":{"x":{"type":"string","anyOf":[{"minLength":1},{"pattern":"^#"}]}}}`, nil), `{"x":"a"}`)
	require.NoError(t, err)
	assert.Equal(t, `{x:"a"}`, narrowed)
	// A short schema stands for a million types.
	level := func(to string) string {
		var props []string
		for i := range 30 {
			props = append(props, fmt.Sprintf(`"p%d":{"$ref":"#/$defs/%s"}`, i, to))
		}
		return `{"type":"object","properties":{` + strings.Join(props, ",") + `}`
	}
	_, _, err = NewType([]byte(
		level("a")+`,"$defs":{"a":`+level("b")+`},"b":`+level("c")+`},"c":`+level("d")+`},"d":{"type":"string"}}}`), nil)
	assert.ErrorContains(t, err, "refers to itself too often")
	// Within itself a type is text, and still checked.
	at := typed(t, `{"type":"object","properties":{"y":{"$ref":"#"},"z":{"$ref":"#/$defs/a"}},"$defs":{"a":{"type":"object","properties":{"a":{"$ref":"#/$defs/a"}}}}}`, nil)
	got, err := sees(at, `{"y":{"y":{"zz":1}},"z":{"a":{"a":{}}}}`)
	require.NoError(t, err)
	assert.Equal(t, `{y:"{\"y\":{\"zz\":1}}" z:{a:"{\"a\":{}}"}}`, got)
	got, _ = sees(at, `{"z":{"a":{"a":1}}}`)
	assert.Equal(t, "arguments", got)
	// References that lead nowhere allow nothing.
	at = typed(t, `{"type":"object","properties":{"x":{"$ref":"#/$defs/a"}},"$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}`, nil)
	_, err = sees(at, `{"x":[1]}`)
	assert.ErrorContains(t, err, "takes too long")
}

// sameJSON compares decoded JSON, numbers by value.
func sameJSON(a, b any) bool {
	switch a := a.(type) {
	case json.Number:
		bn, ok := b.(json.Number)
		if !ok {
			return false
		}
		x, _, err := big.ParseFloat(a.String(), 10, 2000, big.ToZero)
		y, _, err2 := big.ParseFloat(bn.String(), 10, 2000, big.ToZero)
		return err == nil && err2 == nil && x.Cmp(y) == 0
	case map[string]any:
		bm, ok := b.(map[string]any)
		return ok && maps.EqualFunc(a, bm, sameJSON)
	case []any:
		bl, ok := b.([]any)
		return ok && slices.EqualFunc(a, bl, sameJSON)
	}
	return a == b
}

func TestArgErrorText(t *testing.T) {
	at := typed(t, openSchema, nil)
	_, err := sees(at, `{"n":0.00001}`)
	assert.EqualError(t, err, `argument /n: has more than four decimal places (a number of up to four decimal places can be decided on; an operator can pin another form with "as" in the catalogue)`)
	var ae *Error
	assert.True(t, errors.As(err, &ae))
}

// A pin says how a number reaches policy, and nothing about which the tool takes.
func TestPinnedIntegersAreWhole(t *testing.T) {
	at := typed(t, `{"type":"object","properties":{
		"text":{"type":"integer"}, "cents":{"type":"integer"}, "list":{"type":"array","items":{"type":"integer"}}, "price":{"type":"number"}}}`,
		map[string]string{"/text": "text", "/cents": "scaled(2)", "/list/*": "text", "/price": "scaled(2)"})
	got, err := sees(at, `{"text":7.0,"cents":7,"list":[7],"price":7.25}`)
	require.NoError(t, err)
	assert.Equal(t, `{cents:700 list:["7"] price:725 text:"7"}`, got)
	for _, args := range []string{`{"text":7.5}`, `{"cents":7.5}`, `{"list":[7,7.5]}`} {
		got, err := sees(at, args)
		assert.Equal(t, "arguments", got, args)
		assert.ErrorContains(t, err, "not a whole number", args)
	}
}
