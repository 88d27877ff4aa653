package governance_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/audit"
	"github.com/twinward-dev/twinward/governance"
)

// probe is a tool with an argument of every kind.
var probe = governance.Tool{
	ToolDefinition: governance.ToolDefinition{Name: "probe", InputSchema: json.RawMessage(`{
  "type": "object",
  "properties": {
    "s": {"type": "string"}, "b": {"type": "boolean"}, "e": {"enum": ["open", "closed"]},
    "i": {"type": "integer"}, "lim": {"type": "integer", "minimum": 1, "maximum": 100, "multipleOf": 5}, "v": {"enum": [1, 2]},
    "n": {"type": "number"}, "id": {"type": "number"}, "usd": {"type": "number"}, "geo": {"type": "number"},
    "dt": {"type": "string", "format": "date-time"}, "d": {"type": "string", "format": "date"}, "raw": {"type": "string", "format": "date-time"},
    "ip": {"type": "string", "format": "ipv4"}, "ip6": {"type": "string", "format": "ipv6"},
    "body": {"type": "string"}, "slug": {"type": "string", "pattern": "^[a-z]{2,5}$", "maxLength": 4},
    "ss": {"type": "array", "items": {"type": "string"}, "maxItems": 3, "uniqueItems": true},
    "is": {"type": "array", "items": {"type": "integer"}},
    "o": {"type": "object", "properties": {"x": {"type": "string"}, "y": {"type": "integer"}}, "required": ["x"], "additionalProperties": false},
    "u": {"type": ["string", "number", "null"]}, "map": {"type": "object", "additionalProperties": {"type": "string"}, "propertyNames": {"maxLength": 5}},
    "any": true,
    "path": {"type": "string"}, "url": {"type": "string"}, "to": {"type": "string"}, "sql": {"type": "string"}, "q": {"type": "string"},
    "files": {"type": "array", "items": {"type": "object", "properties": {"path": {"type": "string"}, "text": {"type": "string"}}, "required": ["path"]}}
  },
  "dependentRequired": {"usd": ["id"]},
  "not": {"required": ["s", "q"]}
}`)},
	Class: governance.Write,
	As:    map[string]string{"id": "long", "usd": "scaled(2)", "geo": "text", "raw": "text", "body": "large"},
	Derived: map[string]governance.Derived{
		"path":    {From: "/path", Facet: governance.CleanPath},
		"scheme":  {From: "/url", Facet: governance.URLScheme},
		"host":    {From: "/url", Facet: governance.URLHost},
		"port":    {From: "/url", Facet: governance.URLPort},
		"domains": {From: "/to", Facet: governance.EmailDomains},
		"verb":    {From: "/sql", Facet: governance.SQLVerb},
		"q":       {From: "/q", Facet: governance.Folded},
		"count":   {From: "/is", Facet: governance.Count},
		"sum":     {From: "/s", Facet: governance.SHA256},
		"paths":   {From: "/files/*/path", Facet: governance.CleanPath},
	},
}

// sees is a Cedar condition over what policy gets: pairs of a name in args,
// derived, nulls or extra and its value; "absent" is no attribute.
func sees(pairs ...string) (want [3]string) {
	var all []string
	for i := 0; i < len(pairs); i += 2 {
		record, name := "context.args", pairs[i]
		if rest, ok := strings.CutPrefix(name, "derived."); ok {
			record, name = "context.derived", rest
		}
		if head, rest, ok := strings.Cut(name, "."); ok {
			all = append(all, fmt.Sprintf("%s has %q", record, head))
			record, name = record+"."+head, rest
		}
		if name == "nulls" || name == "extra" {
			record = "context"
		}
		has := fmt.Sprintf("%s has %q", record, name)
		switch pairs[i+1] {
		case "absent":
			all = append(all, "!("+has+")")
		case "[]": // which Cedar's schemas do not allow as a literal
			all = append(all, fmt.Sprintf("%s && %s[%q].isEmpty()", has, record, name))
		default:
			all = append(all, fmt.Sprintf("%s && %s[%q] == %s", has, record, name, pairs[i+1]))
		}
	}
	return [3]string{strings.Join(all, " && ")}
}

// refused is a denial by a guard, whose hint contains a text.
func refused(guard, hint string) [3]string { return [3]string{"", guard, hint} }

type smuggle struct {
	name, args string
	want       [3]string
}

const (
	args   = audit.GuardArguments
	strict = audit.GuardStrictJSON
)

var smuggling = []smuggle{
	{"plain", `{"s":"x","i":1,"b":true}`, sees("s", `"x"`, "i", "1", "b", "true", "nulls", "[]", "extra", "[]")},
	{"absent", `{}`, sees("s", "absent", "derived.path", "absent", "nulls", "[]")},

	// Text that two parsers read differently.
	{"repeated key", `{"s":"a","s":"b"}`, refused(strict, "")},
	{"repeated key, escaped", `{"s":"a","\u0073":"b"}`, refused(strict, "")},
	{"repeated key, deep in what is text", `{"any":[{"k":1,"\u006b":2}]}`, refused(strict, "")},
	{"repeated key, unknown", `{"zz":1,"zz":2}`, refused(strict, "")},
	{"two values", `{"s":"a"}{"s":"b"}`, refused(strict, "")},
	{"trailing comma", `{"s":"a",}`, refused(strict, "")},
	{"comment", `{"s":"a"/*"s":"b"*/}`, refused(strict, "")},
	{"byte order mark", "\ufeff{}", refused(strict, "")},
	{"NUL byte", "{\"s\":\"a\x00\"}", refused(strict, "")},
	{"invalid UTF-8", "{\"s\":\"\xff\"}", refused(strict, "")},
	{"overlong slash", "{\"path\":\"\xc0\xafetc\"}", refused(strict, "")},
	{"lone surrogate", `{"s":"\ud800"}`, refused(strict, "")},
	{"NaN", `{"n":NaN}`, refused(strict, "")},
	{"Infinity", `{"n":-Infinity}`, refused(strict, "")},
	{"hexadecimal", `{"i":0x1F}`, refused(strict, "")},
	{"leading zero", `{"i":007}`, refused(strict, "")},
	{"plus sign", `{"i":+7}`, refused(strict, "")},
	{"65 levels", `{"any":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`, refused(strict, "")},
	{"not an object", `["s"]`, refused(args, "not an object")},

	// Type confusion.
	{"number for string", `{"s":1}`, refused(args, "/s")},
	{"list for string", `{"path":["/etc/passwd"]}`, refused(args, "/path")},
	{"object for string", `{"s":{"toString":"x"}}`, refused(args, "/s")},
	{"string for integer", `{"i":"501"}`, refused(args, "/i")},
	{"list for integer", `{"i":[501]}`, refused(args, "/i")},
	{"true for integer", `{"i":true}`, refused(args, "/i")},
	{"string for boolean", `{"b":"false"}`, refused(args, "/b")},
	{"zero for boolean", `{"b":0}`, refused(args, "/b")},
	{"string for list", `{"ss":"a"}`, refused(args, "/ss")},
	{"object for list", `{"ss":{"0":"a","length":1}}`, refused(args, "/ss")},
	{"number in a list of strings", `{"ss":["a",1]}`, refused(args, "/ss")},
	{"list for object", `{"o":[["x","a"]]}`, refused(args, "/o")},
	{"string for a large string is not JSON", `{"body":["x"]}`, refused(args, "/body")},
	{"string for number pinned as text", `{"geo":"1"}`, refused(args, "/geo")},
	{"entity escape for string", `{"s":{"__entity":{"type":"Profile","id":"admin"}}}`, refused(args, "/s")},
	{"extension escape for string", `{"ip":{"__extn":{"fn":"ip","arg":"10.0.0.1"}}}`, refused(args, "/ip")},
	{"entity escape in a record", `{"o":{"x":"a","__entity":{"type":"Profile","id":"admin"}}}`, refused(args, "/o/__entity")},
	{"entity escape in free JSON is text", `{"any":{"__entity":{"id":"admin","type":"Profile"}}}`, sees("any", `"{\"__entity\":{\"id\":\"admin\",\"type\":\"Profile\"}}"`)},
	{"entity escape as a name", `{"__entity":{"type":"Profile","id":"admin"}}`, sees("extra", `["/__entity"]`)},
	{"boolean where a union has none", `{"u":true}`, refused(args, "/u")},
	{"number in a map of strings", `{"map":{"a":1}}`, refused(args, "/map/a")},
	{"long name in a map", `{"map":{"abcdef":"1"}}`, refused(args, "/map/abcdef")},

	// Numbers.
	{"largest", `{"i":9223372036854775807}`, sees("i", "9223372036854775807")},
	{"smallest", `{"i":-9223372036854775808}`, sees("i", "-9223372036854775808")},
	{"one more", `{"i":9223372036854775808}`, refused(args, "/i")},
	{"one less", `{"i":-9223372036854775809}`, refused(args, "/i")},
	{"wraps 64 bits", `{"i":18446744073709551617}`, refused(args, "/i")},
	{"beyond 2^53", `{"i":9007199254740993}`, sees("i", "9007199254740993")},
	{"beyond 2^53, pinned", `{"id":9007199254740993}`, sees("id", "9007199254740993")},
	{"whole with a point", `{"i":42.000}`, sees("i", "42")},
	{"whole with an exponent", `{"i":0.042e3}`, sees("i", "42")},
	{"minus zero", `{"i":-0}`, sees("i", "0")},
	{"fraction", `{"i":0.1}`, refused(args, "/i")},
	{"tiny fraction", `{"i":1.00000000000000000001}`, refused(args, "/i")},
	{"huge", `{"n":1e15}`, refused(args, "/n")},
	{"enormous", `{"n":1e309}`, refused(args, "/n")},
	{"exponent bomb", `{"i":1e999999999}`, refused(args, "/i")},
	{"exponent bomb in free JSON", `{"any":1e999999999}`, refused(args, "/any")},
	{"four places", `{"n":0.0001}`, sees("n", `decimal("0.0001")`)},
	{"five places", `{"n":0.00009}`, refused(args, "/n")},
	{"rounds to the limit", `{"n":500.00001}`, refused(args, "/n")},
	{"largest decimal", `{"n":922337203685477.5807}`, sees("n", `decimal("922337203685477.5807")`)},
	{"too large a decimal", `{"n":922337203685477.5808}`, refused(args, "/n")},
	{"cents", `{"usd":19.99,"id":1}`, sees("usd", "1999")},
	{"cents, other spelling", `{"usd":1.999e1,"id":1}`, sees("usd", "1999")},
	{"part of a cent", `{"usd":19.999,"id":1}`, refused(args, "more than 2 decimal places")},
	{"too many cents", `{"usd":92233720368547758.08,"id":1}`, refused(args, "/usd")},
	{"coordinate", `{"geo":52.52000659999999}`, sees("geo", `"52.52000659999999"`)},
	{"coordinate, other spelling", `{"geo":5.2520006599999990e+1}`, sees("geo", `"52.52000659999999"`)},
	{"below the minimum", `{"lim":0}`, refused(args, "below 1")},
	{"above the maximum", `{"lim":1e2,"s":"x"}`, sees("lim", "100")},
	{"just above the maximum", `{"lim":105}`, refused(args, "above 100")},
	{"no multiple", `{"lim":51}`, refused(args, "multiple of 5")},
	{"not in enum", `{"v":3}`, refused(args, "/v")},
	{"in enum, other spelling", `{"v":0.2e1}`, sees("v", "2")},
	{"string for enum", `{"v":"1"}`, refused(args, "/v")},

	// Names.
	{"other case", `{"S":"x"}`, refused(args, "differs from an argument")},
	{"other case, escaped", `{"\u0053":"x"}`, refused(args, "differs from an argument")},
	{"full width", `{"ｓ":"x"}`, refused(args, "differs from an argument")},
	{"long s", `{"ſ":"x"}`, refused(args, "differs from an argument")},
	{"separator", `{"pa_th":"/x"}`, refused(args, "differs from an argument")},
	{"homoglyph is another name", `{"раth":"/x"}`, sees("path", "absent", "derived.path", "absent", "extra", `["/раth"]`)},
	{"unknown", `{"force":true}`, sees("extra", `["/force"]`)},
	{"prototype", `{"__proto__":{"s":"x"},"constructor":1}`, sees("s", "absent", "extra", `["/__proto__", "/constructor"]`)},
	{"pointer in a name", `{"o/x":"a"}`, sees("o", "absent", "extra", `["/o~1x"]`)},
	{"unknown in a closed object", `{"o":{"x":"a","z":1}}`, refused(args, "/o/z")},
	{"dotted path", `{"o.x":"a"}`, sees("o", "absent", "extra", `["/o.x"]`)},
	{"missing", `{"o":{"y":1}}`, refused(args, "/o/x")},
	{"missing for another argument", `{"usd":1}`, refused(args, "/id")},
	{"two that exclude each other", `{"s":"a","q":"b"}`, refused(args, "not allowed")},

	// Nulls.
	{"null", `{"path":null}`, sees("path", "absent", "derived.path", "absent", "nulls", `["/path"]`)},
	{"null that is allowed", `{"u":null}`, sees("u", "absent", "nulls", `["/u"]`)},
	{"null that is required", `{"o":{"x":null}}`, refused(args, "/o/x")},
	{"null in a list", `{"ss":["a",null]}`, refused(args, "/ss")},
	{"the word null", `{"s":"null"}`, sees("s", `"null"`, "nulls", "[]")},

	// Strings.
	{"escapes", `{"s":"\u0065\/\u005c"}`, sees("s", `"e/\\"`)},
	{"NUL", `{"s":"a\u0000b"}`, sees("s", `"a\0b"`)},
	{"other case of an enum", `{"e":"OPEN"}`, refused(args, "/e")},
	{"space after an enum", `{"e":"open "}`, refused(args, "/e")},
	{"escaped enum", `{"e":"\u006fpen"}`, sees("e", `"open"`)},
	{"homoglyph of an enum", `{"e":"оpen"}`, refused(args, "/e")},
	{"form", `{"slug":"abcd"}`, sees("slug", `"abcd"`)},
	{"new line after the form", `{"slug":"abc\n"}`, refused(args, "/slug")},
	{"too long for the form", `{"slug":"abcde"}`, refused(args, "5 characters")},
	{"composed and decomposed differ", `{"s":"e\u0301"}`, sees("s", `"e\u{301}"`)},
	{"more than 64 KiB", `{"s":"` + strings.Repeat("x", 64<<10+1) + `"}`, refused(args, "large")},
	{"large", `{"body":"abc"}`, sees("body", `{length: 3, sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}`)},
	{"large, escaped", `{"body":"\u0061bc"}`, sees("body", `{length: 3, sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}`)},
	{"a million bytes", `{"body":"` + strings.Repeat("a", 1_000_000) + `"}`, sees("body", `{length: 1000000, sha256: "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"}`)},
	{"hash", `{"s":"abc"}`, sees("derived.sum", `"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"`)},

	// Formats.
	{"time", `{"dt":"2024-02-29T23:59:59.5+01:00"}`, sees("dt", `datetime("2024-02-29T22:59:59.500Z")`)},
	{"time in lower case", `{"dt":"2024-02-29t00:00:00z"}`, refused(args, "/dt")},
	{"time with a comma", `{"dt":"2024-02-29T00:00:00,5Z"}`, refused(args, "/dt")},
	{"time without an offset", `{"dt":"2024-02-29T00:00:00"}`, refused(args, "/dt")},
	{"time finer than a millisecond", `{"dt":"2024-02-29T00:00:00.0001Z"}`, refused(args, "finer")},
	{"time that is none", `{"dt":"2023-02-29T00:00:00Z"}`, refused(args, "/dt")},
	{"leap second", `{"dt":"2016-12-31T23:59:60Z"}`, refused(args, "/dt")},
	{"odd offset", `{"dt":"2024-02-29T00:00:00+99:00"}`, refused(args, "/dt")},
	{"time with something after it", `{"dt":"2024-02-29T00:00:00Z "}`, refused(args, "/dt")},
	{"words for a time", `{"dt":"tomorrow"}`, refused(args, "text")},
	{"words for a time pinned as text", `{"raw":"tomorrow"}`, sees("raw", `"tomorrow"`)},
	{"date", `{"d":"2024-02-29"}`, sees("d", `datetime("2024-02-29")`)},
	{"date that is none", `{"d":"2024-02-30"}`, refused(args, "/d")},
	{"short date", `{"d":"2024-2-9"}`, refused(args, "/d")},
	{"IPv4", `{"ip":"10.0.0.1"}`, sees("ip", `ip("10.0.0.1")`)},
	{"octal IPv4", `{"ip":"010.0.0.1"}`, refused(args, "/ip")},
	{"short IPv4", `{"ip":"10.1"}`, refused(args, "/ip")},
	{"range for an address", `{"ip":"0.0.0.0/0"}`, refused(args, "/ip")},
	{"IPv6 for IPv4", `{"ip":"::1"}`, refused(args, "/ip")},
	{"IPv6", `{"ip6":"2001:DB8:0::1"}`, sees("ip6", `ip("2001:db8::1")`)},
	{"IPv4 in IPv6", `{"ip6":"::ffff:10.0.0.1"}`, refused(args, "written as IPv6")},
	{"zone", `{"ip6":"fe80::1%eth0"}`, refused(args, "/ip6")},

	// Lists.
	{"order and repetition do not matter", `{"is":[3,1,3]}`, sees("is", "[1, 3]", "derived.count", "3")},
	{"the same twice", `{"ss":["a","\u0061"]}`, refused(args, "twice")},
	{"too many", `{"ss":["a","b","c","d"]}`, refused(args, "more than 3")},
	{"257 elements", `{"is":[` + strings.Repeat("7,", 256) + `7]}`, refused(args, "more than 256")},
	{"quadratic sets", `{"is":[` + strings.Repeat("[1,2],", 300) + `[1,2]]}`, refused(args, "/is")},

	// Text in one form.
	{"members in other order", `{"map":{"b":"1","a":"2"}}`, sees("map", `{json: "{\"a\":\"2\",\"b\":\"1\"}", keys: ["a", "b"]}`)},
	{"number in a union", `{"u":1.50}`, sees("u.number", `decimal("1.5")`, "u.string", "absent")},
	{"string in a union", `{"u":"1.5"}`, sees("u.string", `"1.5"`, "u.number", "absent")},
	{"objects in a list", `{"files":[{"path":"a","text":"1"},{"path":"b"}]}`, sees("files", `{path: ["a", "b"], text: ["1"]}`)},
	{"an object of another kind among them", `{"files":[{"path":"a"},["b"]]}`, refused(args, "/files")},
	{"exact in free JSON", `{"any":9007199254740993.0}`, sees("any", `"9007199254740993"`)},

	// Paths.
	{"clean path", `{"path":"/srv/./data//x/../y/"}`, sees("derived.path", `"/srv/data/y"`, "path", `"/srv/./data//x/../y/"`)},
	{"climbing", `{"path":"/tmp/../etc/shadow"}`, sees("derived.path", `"/etc/shadow"`)},
	{"climbing above the root", `{"path":"/../../etc/shadow"}`, sees("derived.path", `"/etc/shadow"`)},
	{"climbing from where one is", `{"path":"a/../../b"}`, sees("derived.path", `"../b"`)},
	{"escaped slash in JSON", `{"path":"\/tmp\/..\/etc"}`, sees("derived.path", `"/etc"`)},
	{"percent", `{"path":"/tmp/%2e%2e/etc"}`, refused(args, "percent")},
	{"percent twice", `{"path":"/tmp/%252e%252e/etc"}`, refused(args, "percent")},
	{"backslash", `{"path":"..\\..\\etc"}`, refused(args, "backslash")},
	{"NUL in a path", `{"path":"/tmp/x\u0000.txt"}`, refused(args, "/path")},
	{"new line in a path", `{"path":"/tmp/x\n"}`, refused(args, "/path")},
	{"home", `{"path":"~/.ssh/id_rsa"}`, refused(args, "~")},
	{"two slashes first", `{"path":"//server/share"}`, refused(args, "//")},
	{"drive", `{"path":"C:/Windows"}`, refused(args, "drive")},
	{"scheme", `{"path":"file:///etc/passwd"}`, refused(args, "scheme")},
	{"full-width dots", `{"path":"/tmp/．．/etc"}`, refused(args, "more than one way")},
	{"two-dot leader", `{"path":"/tmp/‥/etc"}`, refused(args, "more than one way")},
	{"fraction slash", `{"path":"/tmp⁄x"}`, refused(args, "more than one way")},
	{"invisible", `{"path":"/etc/pass\u200bwd"}`, refused(args, "more than one way")},
	{"right to left", `{"path":"/etc/\u202efdp.txt"}`, refused(args, "more than one way")},
	{"decomposed", `{"path":"/tmp/e\u0301"}`, refused(args, "form C")},
	{"dots that Windows drops", `{"path":"/tmp/secret.txt."}`, refused(args, "dot")},
	{"three dots", `{"path":"/tmp/.../x"}`, refused(args, "dot")},
	{"space that is trimmed", `{"path":" /etc/passwd"}`, refused(args, "space")},
	{"empty path", `{"path":""}`, refused(args, "empty")},
	{"paths in a list of objects", `{"files":[{"path":"a/../b"},{"path":"./c","text":"x"}]}`, sees("derived.paths", `["b", "c"]`)},
	{"one bad path among them", `{"files":[{"path":"a"},{"path":"..\\b"}]}`, refused(args, "backslash")},
	{"no paths", `{"files":[]}`, sees("derived.paths", `[]`)},

	// URLs.
	{"URL", `{"url":"HTTPS://API.Example.com/x?y#z"}`, sees("derived.scheme", `"https"`, "derived.host", `"api.example.com"`, "derived.port", "443")},
	{"port", `{"url":"http://example.com:8080"}`, sees("derived.port", "8080")},
	{"final dot", `{"url":"http://example.com./"}`, sees("derived.host", `"example.com"`)},
	{"two final dots", `{"url":"http://example.com../"}`, refused(args, "odd host")},
	{"user info", `{"url":"http://example.com@evil.com/"}`, refused(args, "user")},
	{"user info with an escape", `{"url":"http://example.com%40evil.com/"}`, refused(args, "escape")},
	{"host after a fragment", `{"url":"http://evil.com#@example.com/"}`, sees("derived.host", `"evil.com"`)},
	{"backslash for slash", `{"url":"http://evil.com\\@example.com/"}`, refused(args, "backslash")},
	{"tab in a scheme", `{"url":"ht\ttp://evil.com/"}`, refused(args, "white space")},
	{"new line in a host", `{"url":"http://exa\nmple.com/"}`, refused(args, "white space")},
	{"no slashes", `{"url":"http:evil.com"}`, refused(args, "scheme://host")},
	{"three slashes", `{"url":"http:///evil.com"}`, refused(args, "odd host")},
	{"no scheme", `{"url":"//evil.com/"}`, refused(args, "scheme://host")},
	{"script", `{"url":"javascript:alert(1)"}`, refused(args, "scheme://host")},
	{"decimal address", `{"url":"http://2130706433/"}`, sees("derived.host", `"127.0.0.1"`)},
	{"hexadecimal address", `{"url":"http://0x7f.0x0.0x0.0x1/"}`, sees("derived.host", `"127.0.0.1"`)},
	{"hexadecimal address in one", `{"url":"http://0xA9FEA9FE/"}`, sees("derived.host", `"169.254.169.254"`)},
	{"short address", `{"url":"http://127.1/"}`, sees("derived.host", `"127.0.0.1"`)},
	{"zero", `{"url":"http://0/"}`, sees("derived.host", `"0.0.0.0"`)},
	{"octal address", `{"url":"http://0177.0.0.1/"}`, refused(args, "several IP")},
	{"leading zero that both read alike", `{"url":"http://127.0.0.01/"}`, sees("derived.host", `"127.0.0.1"`)},
	{"address out of range", `{"url":"http://256.0.0.1/"}`, refused(args, "several IP")},
	{"address of five parts", `{"url":"http://1.2.3.4.5/"}`, refused(args, "several IP")},
	{"address with a final dot", `{"url":"http://127.0.0.1./"}`, sees("derived.host", `"127.0.0.1"`)},
	{"IPv6", `{"url":"http://[::1]:80/"}`, sees("derived.host", `"::1"`, "derived.port", "80")},
	{"IPv6 in full", `{"url":"http://[0:0:0:0:0:0:0:1]/"}`, sees("derived.host", `"::1"`)},
	{"IPv6-mapped", `{"url":"http://[::ffff:127.0.0.1]/"}`, sees("derived.host", `"127.0.0.1"`)},
	{"IPv6-mapped, hexadecimal", `{"url":"http://[::ffff:7f00:1]/"}`, sees("derived.host", `"127.0.0.1"`)},
	{"IPv6 with a zone", `{"url":"http://[fe80::1%25eth0]/"}`, refused(args, "escape")},
	{"full-width digits", `{"url":"http://１２７.０.０.１/"}`, sees("derived.host", `"127.0.0.1"`)},
	{"full-width letters", `{"url":"http://ｅｖｉｌ.com/"}`, sees("derived.host", `"evil.com"`)},
	{"ideographic dot", `{"url":"http://127。0。0。1/"}`, sees("derived.host", `"127.0.0.1"`)},
	{"half-width dot", `{"url":"http://evil｡com/"}`, sees("derived.host", `"evil.com"`)},
	{"look-alike host", `{"url":"http://аpple.com/"}`, refused(args, "xn--")},
	{"look-alike host in ASCII", `{"url":"http://XN--PPLE-43d.com/"}`, sees("derived.host", `"xn--pple-43d.com"`)},
	{"sharp s", `{"url":"http://fa\u00df.de/"}`, refused(args, "xn--")},
	{"invisible in a host", `{"url":"http://ev\u00adil.com/"}`, refused(args, "xn--")},
	{"full-width slash in a host", `{"url":"http://evil.com／.example.com/"}`, refused(args, "odd host")},
	{"care of", `{"url":"http://evil.c℀.example.com/"}`, refused(args, "odd host")},
	{"port 0", `{"url":"http://example.com:0/"}`, refused(args, "odd port")},
	{"port with zeros", `{"url":"http://example.com:0080/"}`, refused(args, "odd port")},
	{"port too large", `{"url":"http://example.com:65536/"}`, refused(args, "odd port")},
	{"empty port", `{"url":"http://example.com:/"}`, refused(args, "odd port")},
	{"two ports", `{"url":"http://example.com:80:81/"}`, refused(args, "two ports")},
	{"unknown scheme without a port", `{"url":"gopher://example.com/"}`, refused(args, "without a port")},

	// Mail.
	{"domains", `{"to":"a@x.com, Bob <b@Y.org.>"}`, sees("derived.domains", `["x.com", "y.org"]`)},
	{"address in an encoded word", `{"to":"=?x?q?victim=40evil.com=3e=20?=x@corp.com"}`, refused(args, "plain form")},
	{"two at signs", `{"to":"a@x.com@evil.com"}`, refused(args, "plain form")},
	{"quoted local part", `{"to":"\"a@x.com\"@evil.com"}`, refused(args, "plain form")},
	{"comment in an address", `{"to":"a@x.com(@evil.com)"}`, refused(args, "plain form")},
	{"address in a name", `{"to":"a@x.com <b@evil.com>"}`, refused(args, "plain form")},
	{"two in one", `{"to":"<a@x.com><b@evil.com>"}`, refused(args, "plain form")},
	{"semicolon", `{"to":"a@x.com;b@evil.com"}`, refused(args, "plain form")},
	{"header", `{"to":"a@x.com\r\nBcc: b@evil.com"}`, refused(args, "plain form")},
	{"percent hack", `{"to":"a%evil.com@x.com"}`, refused(args, "plain form")},
	{"bang path", `{"to":"evil!a@x.com"}`, refused(args, "plain form")},
	{"address literal", `{"to":"a@[127.0.0.1]"}`, refused(args, "plain form")},
	{"no address", `{"to":""}`, refused(args, "plain form")},
	{"empty among them", `{"to":"a@x.com,"}`, refused(args, "plain form")},

	// SQL.
	{"verb", `{"sql":"  select 1;"}`, sees("derived.verb", `"SELECT"`)},
	{"verb after comments", `{"sql":"/* SELECT */ -- SELECT\n\tdrop table x"}`, sees("derived.verb", `"DROP"`)},
	{"second statement", `{"sql":"select 1; drop table x"}`, refused(args, "semicolon")},
	{"second statement in a string", `{"sql":"select ';drop table x'"}`, refused(args, "semicolon")},
	{"comment that MySQL runs", `{"sql":"/*!50000 drop*/ select"}`, refused(args, "single SQL")},
	{"comment that MariaDB runs", `{"sql":"/*M! drop*/ select"}`, refused(args, "single SQL")},
	{"nested comment", `{"sql":"/* /* */ drop table x -- */ select 1"}`, refused(args, "single SQL")},
	{"nested comment that begins with the end of another", `{"sql":"/*/*/ select 1 /* */ */ */ drop table x"}`, refused(args, "single SQL")},
	{"comment without an end", `{"sql":"/* select"}`, refused(args, "single SQL")},
	{"minus that is no comment to MySQL", `{"sql":"--1\nselect"}`, refused(args, "single SQL")},
	{"carriage return ends a comment for some", `{"sql":"-- x\rdrop table x\nselect 1"}`, refused(args, "single SQL")},
	{"brackets first", `{"sql":"(delete from x)"}`, refused(args, "single SQL")},
	{"longer word", `{"sql":"selectx"}`, sees("derived.verb", `"SELECTX"`)},
	{"word that goes on", `{"sql":"select\u00a0x"}`, refused(args, "single SQL")},
	{"common table", `{"sql":"with x as (delete from y returning 1) select 1"}`, sees("derived.verb", `"WITH"`)},

	// Folded text.
	{"case and width", `{"q":"ＤＲＯＰ Table"}`, sees("derived.q", `"drop table"`)},
	{"invisible characters", `{"q":"dr\u200bo\u00adp\ufe0f"}`, sees("derived.q", `"drop"`)},
	{"ligature and long s", `{"q":"ﬁſ"}`, sees("derived.q", `"fis"`)},
	{"look-alike stays what it is", `{"q":"drоp"}`, sees("derived.q", `"drоp"`)},
	{"mathematical letters", `{"q":"𝐝𝓻𝕠𝖕"}`, sees("derived.q", `"drop"`)},
	{"grows when folded", `{"q":"` + strings.Repeat("\ufdfa", 4000) + `"}`, refused(args, "too long when")},
}

// Everything is allowed, and still: each payload is refused by the guard that it
// is for, or its own policy, which says what must be seen, is one of the reasons.
func TestSmugglingThroughPolicy(t *testing.T) {
	require.GreaterOrEqual(t, len(smuggling), 100)
	text := "@id(\"anything\")\npermit (principal, action in Action::\"call_tool\", resource);\n"
	id := func(i int) string { return fmt.Sprintf("row-%03d", i) }
	for i, row := range smuggling {
		if row.want[0] != "" {
			text += fmt.Sprintf("@id(%q)\npermit (principal, action == Action::\"srv__probe\", resource)\nwhen { %s };\n", id(i), row.want[0])
		}
	}
	snap, rep, err := governance.Compile(t.Context(), governance.Bundle{
		Catalog:  []governance.Server{{Name: "srv", Tools: []governance.Tool{probe}}},
		Profiles: []governance.Profile{{ID: "p", Agents: []string{"a"}, Servers: map[string]governance.Grant{"srv": {Tools: []string{"*"}}}}},
		Policies: []governance.Source{{Name: "smuggling.cedar", Text: text}},
	}, nil)
	require.NoError(t, err, "%v", rep)
	for i, row := range smuggling {
		d, err := snap.Decide(t.Context(), governance.Request{
			Actor: audit.Actor{Agent: "a"}, Action: "call_tool", Server: "srv", Name: "probe", Args: json.RawMessage(row.args),
		})
		require.NoError(t, err, row.name)
		var ids []string
		for _, p := range d.Policies {
			ids = append(ids, p.ID)
		}
		if row.want[0] == "" {
			assert.False(t, d.Allowed(), "%s: %.100s was accepted", row.name, row.args)
			assert.Equal(t, row.want[1], d.Reason, "%s: %s", row.name, d.Hint)
			assert.Contains(t, d.Hint, row.want[2], row.name)
			continue
		}
		assert.True(t, d.Allowed(), "%s: %s: %s", row.name, d.Reason, d.Hint)
		assert.Contains(t, ids, id(i), "%s: %.100s: policy saw something else than %s", row.name, row.args, row.want[0])
	}
	t.Logf("%d payloads", len(smuggling))
}
