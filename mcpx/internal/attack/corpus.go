package attack

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Corpus returns all cases, in the order of their rows.
func Corpus() []Case {
	all := slices.Concat(messages(), headers(), methods(), arguments(), names(), steps(), upstreams())
	slices.SortStableFunc(all, func(a, b Case) int { return strings.Compare(a.ID, b.ID) })
	return all
}

// Elsewhere are the rows of the corpus that do not show at an MCP endpoint alone,
// and the tests of this module that hold them.
var Elsewhere = []struct{ ID, What, Package, Test string }{
	{"A10", "schemas that reach into the network or never end", "governance/internal/argument", "TestRulesAreBounded"},
	{"D1", "one agent's consent used by another", "mcpx", "TestConsentIsNotGiven"},
	{"F1", "policies with errors deny", "governance", "TestErrorMode"},
	{"L2", "no audit, no action", "mcpx", "TestAuditDown"},
	{"L3", "changed, cut or reordered logs", "audit", "TestLinesDeletedReorderedDuplicatedSpliced"},
	{"N1", "addresses inside of arguments", "governance", "TestHostsHaveOneForm"},
	{"S3", "a fresh token continues the session", "mcpx", "TestIdentityIsOfThisRequest"},
	{"X1", "what was read does not leave", "mcpx", "TestCallsSettle"},
	{"X2", "loops and costs", "governance", "TestRateLimiterIsExact"},
	{"X3", "an approval is of one call", "governance", "TestApprovalIsBound"},
}

// messages are about the JSON of one message: A1, A2, A8, A9, M2, M3.
func messages() []Case {
	bad := func(id, name, old, new string) Case {
		return Case{ID: id, Name: name, Want: Refused, Guards: []string{"strict-json"}, Old: old, New: new}
	}
	body := func(id, name, body string) Case {
		return Case{ID: id, Name: name, Want: Refused, Guards: []string{"strict-json"}, Body: body}
	}
	arg := func(c Case) Case { c.Argument = true; return c }
	alias := func(name, old, new string) Case {
		return Case{ID: "A2", Name: name, Want: Harmless, Old: old, New: new}
	}
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	return []Case{
		arg(bad("A1", "argument twice, the bad one first", `$good`, `$bad,$good`)),
		arg(bad("A1", "argument twice, the bad one last", `$good`, `$good,$bad`)),
		arg(bad("A1", "argument twice, once escaped", `$good`, `"$escaped":"$value",$good`)),
		bad("A1", "key twice below an argument", `"arguments":{`, `"arguments":{"data":{"a":1,"a":2},`),
		bad("A1", "name twice, the forbidden one first", `"name":`, `"name":"$forbidden","name":`),
		bad("A1", "name twice, the forbidden one last", `"arguments":`, `"name":"$forbidden","arguments":`),
		bad("A1", "name twice, once escaped", `"name":`, `"n\u0061me":"$forbidden","name":`),
		bad("A1", "arguments twice", `"arguments":`, `"arguments":{},"arguments":`),
		bad("A1", "params twice", `"params":`, `"params":{"name":"$forbidden","arguments":{}},"params":`),
		bad("A1", "method twice", `"method":`, `"method":"ping","method":`),
		bad("A1", "id twice", `"id":1`, `"id":2,"id":1`),
		bad("A1", "_meta twice", `"params":{`, `"params":{"_meta":{},"_meta":{},`),

		alias("Name before name", `"name":`, `"Name":"$forbidden","name":`),
		alias("NAME after name", `"arguments":`, `"NAME":"$forbidden","arguments":`),
		alias("Arguments", `"arguments":`, `"Arguments":{"id":"1"},"arguments":`),
		alias("Method", `"method":`, `"Method":"tools/list","method":`),
		alias("Params", `"params":`, `"Params":{"name":"$forbidden","arguments":{}},"params":`),
		alias("params with a long s", `"params":`, `"param`+"\u017f"+`":{"name":"$forbidden","arguments":{}},"params":`),
		{ID: "A2", Name: "an argument in capitals", Want: Harmless, Old: `$good`, New: `$good,"CHANNEL":"$value"`, Argument: true},

		bad("A8", "100 levels deep", `"arguments":{`, `"arguments":{"data":`+deep(100)+`,`),
		bad("A8", "1,000 levels deep", `"arguments":{`, `"arguments":{"data":`+deep(1000)+`,`),
		bad("A8", "20,000 levels deep", `"arguments":{`, `"arguments":{"data":`+deep(20_000)+`,`),
		bad("A8", "100,000 levels deep", `"arguments":{`, `"arguments":{"data":`+deep(100_000)+`,`),
		{ID: "A8", Name: "10 MB", Want: Refused, Guards: []string{"too-large"}, Old: `"arguments":{`, New: `"arguments":{"data":"` + strings.Repeat("x", 10<<20) + `",`},
		{ID: "A8", Name: "100,000 keys", Want: Refused, Guards: []string{"arguments", "strict-json"}, Old: `"arguments":{`, New: `"arguments":{"data":{` + manyKeys(100_000) + `},`},
		{ID: "A8", Name: "gzip", Want: Refused, Guards: []string{"media-type"}, Header: [][2]string{{"Content-Encoding", "gzip"}}},

		body("A9", "byte order mark", "\xef\xbb\xbf$call"),
		body("A9", "two documents", "$call$call"),
		body("A9", "two documents, one a line", "$call\n$call"),
		body("A9", "data after the message", "$callx"),
		body("A9", "a closing brace after the message", "$call}"),
		body("A9", "nothing", emptyBody),
		body("A9", "a comment", "/**/$call"),
		bad("A9", "cut off", `}}`, `}`),
		bad("A9", "another version of JSON-RPC", `"2.0"`, `"1.0"`),
		bad("A9", "no version of JSON-RPC", `"jsonrpc":"2.0",`, ``),
		{ID: "A9", Name: "text/plain", Want: Refused, Guards: []string{"media-type"}, Header: [][2]string{{"Content-Type", "text/plain"}}},
		{ID: "A9", Name: "no media type", Want: Refused, Guards: []string{"media-type"}, Header: [][2]string{{"Content-Type", "-"}}},
		{ID: "A9", Name: "UTF-16", Want: Refused, Guards: []string{"media-type"}, Header: [][2]string{{"Content-Type", "application/json; charset=utf-16"}}},
		{ID: "A9", Name: "UTF-7", Want: Refused, Guards: []string{"media-type"}, Header: [][2]string{{"Content-Type", "application/json; charset=utf-7"}}},
		{ID: "A9", Name: "two lengths", Want: Refused, Raw: []string{"Content-Length: $length", "Content-Length: 1"}},
		{ID: "A9", Name: "chunks and a length", Want: Refused, Raw: []string{"Content-Length: $length", "Transfer-Encoding: chunked"}, Guards: []string{"strict-json", "media-type"}},
		{ID: "A9", Name: "a folded header", Want: Refused, Raw: []string{"Content-Length: $length", "Mcp-Name: x", " $forbidden"}, Guards: []string{"headers"}},

		body("M2", "a batch", "[$call]"),
		body("M2", "a batch with a forbidden call", `[$call,{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{$meta"name":"$forbidden","arguments":{}}}]`),
		body("M2", "an empty batch", "[]"),
		body("M2", "a batch of 10,000", "["+strings.Repeat(`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"$forbidden","arguments":{}}},`, 9999)+"$call]"),

		bad("M3", "a call without an id", `"id":1,`, ``),
		bad("M3", "id null", `"id":1`, `"id":null`),
		bad("M3", "id an object", `"id":1`, `"id":{}`),
		bad("M3", "id a list", `"id":1`, `"id":[1]`),
		bad("M3", "id true", `"id":1`, `"id":true`),
		bad("M3", "id with a fraction", `"id":1`, `"id":1.9`),
		bad("M3", "id that floats cannot hold", `"id":1`, `"id":9007199254740993`),
		bad("M3", "request and response at once", `"id":1`, `"id":1,"result":{}`),
		{ID: "M6", Name: "a response that nobody asked for", Want: Refused, Guards: []string{"method"}, Body: `{"jsonrpc":"2.0","id":1,"result":{"content":[]}}`},
		{ID: "M6", Name: "progress of somebody else's call", Want: Harmless, Body: `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}`, Era: Legacy},
		{ID: "M6", Name: "cancelling what is not there", Want: Harmless, Body: `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":99}}`, Era: Legacy},
	}
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"k%d":0`, i)
	}
	return b.String()
}

// headers are about HTTP: H1 to H4, N2, N3.
func headers() []Case {
	no := func(id, name, guard string, h ...[2]string) Case {
		return Case{ID: id, Name: name, Want: Refused, Guards: []string{guard}, Header: h}
	}
	era := func(e string, c Case) Case { c.Era = e; return c }
	forbidden := func(c Case) Case {
		c.Tool, c.Args = "$forbidden", `{"id":"1"}`
		c.Guards = append(c.Guards, "unknown")
		return c
	}
	return []Case{
		no("H1", "Mcp-Name of another tool", "headers", [2]string{"Mcp-Name", "$forbidden"}),
		forbidden(no("H1", "a forbidden tool under the name of a permitted one", "headers", [2]string{"Mcp-Name", "$tool"})),
		no("H1", "Mcp-Method of another method", "headers", [2]string{"Mcp-Method", "tools/list"}),
		no("H1", "Mcp-Name in capitals", "headers", [2]string{"Mcp-Name", "TOOL"}),
		era(Modern, no("H1", "no Mcp-Name", "headers", [2]string{"Mcp-Name", "-"})),
		era(Modern, no("H1", "no Mcp-Method", "headers", [2]string{"Mcp-Method", "-"})),
		no("H1", "another name in base64", "headers", [2]string{"Mcp-Name", "=?base64?ZXJhc2U=?="}),
		no("H2", "two names", "headers", [2]string{"Mcp-Name", "$tool"}, [2]string{"Mcp-Name", "$forbidden"}),
		no("H2", "two methods", "headers", [2]string{"Mcp-Method", "tools/call"}, [2]string{"Mcp-Method", "tools/list"}),
		no("H2", "two versions", "headers", [2]string{headerVersion, Modern}, [2]string{headerVersion, Legacy}),
		no("H2", "two media types", "headers", [2]string{"Content-Type", "application/json"}, [2]string{"Content-Type", "text/plain"}),
		no("H2", "two bearers", "headers", [2]string{"Authorization", "Bearer a"}, [2]string{"Authorization", "Bearer b"}),
		no("H2", "two origins", "headers", [2]string{"Origin", "http://a.example"}, [2]string{"Origin", "http://b.example"}),
		era(Legacy, no("H2", "two sessions", "headers", [2]string{headerSession, "a"}, [2]string{headerSession, "b"})),
		{ID: "H2", Name: "two hosts", Want: Refused, Raw: []string{"Content-Length: $length", "Host: evil.example"}},
		era(Modern, no("H3", "an older version in the header only", "headers", [2]string{headerVersion, Legacy})),
		{ID: "H3", Name: "the newer version in the body only", Want: Refused, Guards: []string{"headers"}, Era: Legacy, Old: `"params":{`, New: `"params":{` + modernMeta},
		{ID: "H3", Name: "no version in the body", Want: Refused, Guards: []string{"headers"}, Era: Modern, Old: modernMeta, New: ``},
		{ID: "H3", Name: "a version that does not exist", Want: Refused, Guards: []string{"headers"}, Header: [][2]string{{headerVersion, "2099-01-01"}}},
		{ID: "H3", Name: "a method that the newer era removed", Want: Refused, Guards: []string{"method"}, Era: Modern, Old: `"method":"tools/call"`, New: `"method":"ping"`, Header: [][2]string{{"Mcp-Method", "ping"}, {"Mcp-Name", "-"}}},
		no("N2", "another host's name", "origin", [2]string{"Host", "evil.example"}),
		no("N2", "another origin", "origin", [2]string{"Origin", "http://evil.example"}),
		no("N2", "origin null", "origin", [2]string{"Origin", "null"}),
		no("N2", "an origin that begins like this one", "origin", [2]string{"Origin", "http://127.0.0.1.evil.example"}),
		no("N2", "a request across sites", "origin", [2]string{"Sec-Fetch-Site", "cross-site"}),
		no("N3", "a form's media type", "media-type", [2]string{"Content-Type", "application/x-www-form-urlencoded"}),
		no("N3", "text/plain, as a page may send without asking", "media-type", [2]string{"Content-Type", "text/plain;charset=UTF-8"}),
		{ID: "N3", Name: "no media type, from another site", Want: Refused, Guards: []string{"origin"}, Header: [][2]string{{"Content-Type", "-"}, {"Sec-Fetch-Site", "cross-site"}}},
	}
}

// methods are about which methods there are: M1, M4.
func methods() []Case {
	var all []Case
	for _, m := range []string{"Tools/Call", "tools/call ", " tools/call", `tools/call\u0000`, "tools//call", "/tools/call", "tools/call/", "tools.call", "x/evil", "rpc.discover", ""} {
		all = append(all, Case{ID: "M1", Name: fmt.Sprintf("method %q", m), Want: Refused, Guards: []string{"method", "headers", "strict-json"},
			Old: `"method":"tools/call"`, New: `"method":"` + m + `"`, Header: [][2]string{{"Mcp-Method", printable(m)}}})
	}
	for _, m := range []struct{ method, params, field string }{
		{"resources/read", `"uri":"file:///etc/passwd"`, "file:///etc/passwd"},
		{"resources/subscribe", `"uri":"file:///etc/passwd"`, ""},
		{"resources/unsubscribe", `"uri":"file:///etc/passwd"`, ""},
		{"subscriptions/listen", `"notifications":{"resourceSubscriptions":["file:///etc/passwd"]}`, ""},
		{"prompts/get", `"name":"secret"`, "secret"},
		{"completion/complete", `"ref":{"type":"ref/prompt","name":"secret"},"argument":{"name":"a","value":"b"}`, ""},
		{"logging/setLevel", `"level":"debug"`, ""},
		{"tasks/get", `"taskId":"1"`, "1"},
		{"tasks/update", `"taskId":"1"`, "1"},
		{"tasks/cancel", `"taskId":"1"`, "1"},
		{"tasks/list", ``, ""},
		{"sampling/createMessage", `"messages":[],"maxTokens":1`, ""},
		{"elicitation/create", `"message":"x","requestedSchema":{"type":"object"}`, ""},
		{"roots/list", ``, ""},
	} {
		name, meta := cmp.Or(m.field, "-"), "$meta"
		if m.params == "" {
			meta = "$onlymeta"
		}
		all = append(all, Case{ID: "M4", Name: m.method, Want: Refused, Guards: []string{"method", "unknown", "no-permit", "not-in-profile"},
			Body:   `{"jsonrpc":"2.0","id":1,"method":"` + m.method + `","params":{` + meta + m.params + `}}`,
			Header: [][2]string{{"Mcp-Method", m.method}, {"Mcp-Name", name}}})
	}
	return all
}
