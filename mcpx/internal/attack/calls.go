package attack

import (
	"fmt"
)

// arguments are about what policy sees of arguments: A3 to A6, D3.
func arguments() []Case {
	var all []Case
	denied := []string{"arguments", "policy-error", "no-permit", "headers"}
	for _, v := range []string{
		`9007199254740993`, `-9007199254740993`, `9007199254740992`, `9223372036854775807`, `12345678901234567890`,
		`1e-7`, `1.0`, `1`, `0.1`, `-0.5`, `100000000000000000000`, `"\u00e9\u0001\ud83d\ude00"`, `"\/"`, `[1,[2,{"a":null}]]`, `{"b":1,"a":[]}`, `""`, `true`,
	} {
		all = append(all, Case{ID: "A3", Name: "arrives as it is: " + v, Want: Allowed, Upstream: true, Tool: "$prefixpost", Args: `{$good,"text":"x","data":` + v + `}`})
	}
	for _, v := range []string{
		`1001`, `5000`, `1e30`, `1e400`, `9223372036854775807`, `9223372036854775808`, `-9223372036854775809`, `18446744073709551615`,
		`1000.5`, `999.00001`, `[5000]`, `{"n":5000}`, `"5000"`, `null`, `true`,
	} {
		all = append(all, Case{ID: "A4", Name: "amount " + v, Want: Refused, Guards: append(denied, "pay"), Upstream: true, Tool: "$prefixpay", Args: `{"amount":` + v + `}`})
	}
	for _, v := range []string{`NaN`, `Infinity`, `-Infinity`, `0x1388`, `05000`, `+5`, `5_0`, `.5`, `5.`} {
		all = append(all, Case{ID: "A4", Name: "amount " + v, Want: Refused, Guards: []string{"strict-json"}, Upstream: true, Tool: "$prefixpay", Args: `{"amount":` + v + `}`})
	}
	all = append(all,
		Case{ID: "A4", Name: "amount 1000", Want: Allowed, Upstream: true, Tool: "$prefixpay", Args: `{"amount":1000}`},
		Case{ID: "A4", Name: "no amount", Want: Refused, Guards: denied, Upstream: true, Tool: "$prefixpay", Args: `{}`})

	for _, v := range []string{`["$value"]`, `{"name":"$value"}`, `{"$value":0}`, `null`, `true`, `5`, `[]`, `{}`, `["x","$value"]`} {
		all = append(all, Case{ID: "A5", Name: "the argument as " + v, Want: Refused, Guards: denied, Argument: true, Old: `$good`, New: `"$key":` + v})
	}
	all = append(all,
		Case{ID: "A5", Name: "without the argument", Want: Refused, Guards: denied, Argument: true, Old: `$good,`, New: ``},
		Case{ID: "A5", Name: "an argument that is not in the schema", Want: Refused, Guards: denied, Upstream: true, Old: `$good`, New: `$good,"extra":1`})
	for _, v := range []string{`[1]`, `"x"`, `null`, `1`, `true`} {
		all = append(all, Case{ID: "A5", Name: "arguments " + v, Want: Refused, Guards: []string{"strict-json"}, Old: `"arguments":$args`, New: `"arguments":` + v})
	}

	for _, v := range []struct{ name, text string }{
		{"plain", `#executive`}, {"escaped", `\u0023executive`}, {"Cyrillic letters", "#ex\u0435\u0441utive"}, {"fullwidth", "\uff03executive"},
		{"zero-width space", `#exec\u200butive`}, {"soft hyphen", `#exec\u00adutive`}, {"capitals", `#EXECUTIVE`}, {"space after", `#executive `},
		{"space before", ` #executive`}, {"tab", `#executive\t`}, {"NUL", `#executive\u0000`}, {"line end", `#engineering\n#executive`},
		{"both", `#engineering,#executive`}, {"path", `#engineering/../#executive`}, {"right to left", "\u202e#evitucexe"},
		{"decomposed", "#exe\u0301cutive"}, {"tags", "#executive\U000e0041"}, {"good with NUL and bad", `#engineering\u0000#executive`},
	} {
		all = append(all, Case{ID: "A6", Name: "the forbidden value, " + v.name, Want: Refused, Guards: append(denied, "no-executive"), Upstream: true, Old: `$good`, New: `"channel":"` + v.text + `"`})
	}
	all = append(all, Case{ID: "A6", Name: "the forbidden value", Want: Refused, Guards: append(denied, "no-executive"), Argument: true, Old: `$good`, New: `$bad`})

	for _, v := range []string{`{{cred:github}}`, `__github_token__`, `${GITHUB_TOKEN}`, `$(cat /etc/passwd)`, `%s%n`, `{{.Secret}}`} {
		all = append(all, Case{ID: "D3", Name: fmt.Sprintf("the text %s stays a text", v), Want: Allowed, Upstream: true, Tool: "$prefixpost", Args: `{$good,"text":` + quote(v) + `}`})
	}
	return all
}

// names are about the tool's name: A7, L1, and P5 as the client may try it.
func names() []Case {
	var all []Case
	guards := []string{"unknown", "arguments", "not-in-profile", "no-permit", "headers", "strict-json", "nothing-destroys"}
	for _, v := range []struct{ name, tool string }{
		{"plain", `$forbidden`}, {"NUL after", `$forbidden\u0000`}, {"space after", `$forbidden `}, {"space before", ` $forbidden`},
		{"tab after", `$forbidden\t`}, {"dot after", `$forbidden.`}, {"zero-width space", `$forbidden\u200b`}, {"tag", "$forbidden\U000e0041"},
		{"path", `$tool/../$forbidden`}, {"two names", `$tool,$forbidden`}, {"NUL between", `$tool\u0000$forbidden`}, {"prefix twice", `$prefix$forbidden`},
		{"slash", `/$forbidden`}, {"query", `$forbidden?x=1`}, {"percent", `$forbidden%00`}, {"empty", ``},
	} {
		all = append(all, Case{ID: "A7", Name: "the forbidden tool, " + v.name, Want: Refused, Guards: guards, Tool: v.tool, Args: `{"id":"1"}`})
	}
	for _, v := range []struct{ name, tool string }{
		{"escaped", `\u0065rase`}, {"capitals", `ERASE`}, {"one capital", `Erase`}, {"fullwidth", "\uff45rase"}, {"Cyrillic letter", "\u0435rase"},
	} {
		all = append(all, Case{ID: "A7", Name: "the forbidden tool, " + v.name, Want: Refused, Guards: guards, Upstream: true, Tool: "$prefix" + v.tool, Args: `{"id":"1"}`})
	}
	for _, v := range []struct{ name, tool string }{
		{"invalid UTF-8", "$tool\xff"}, {"half a surrogate pair", `$tool\ud800`}, {"overlong", "$tool\xc0\x80"},
	} {
		all = append(all, Case{ID: "A7", Name: "a name with " + v.name, Want: Refused, Guards: []string{"strict-json"}, Tool: v.tool})
	}
	all = append(all, Case{ID: "A7", Name: "a name that is a number", Want: Refused, Guards: []string{"strict-json"}, Old: `"name":"$tool"`, New: `"name":7`},
		Case{ID: "A7", Name: "no name", Want: Refused, Guards: append(guards, "strict-json"), Old: `"name":"$tool",`, New: ``})
	for _, v := range []struct{ name, tool string }{
		{"a line of JSON", `x\n{\"outcome\":\"success\"}`}, {"terminal codes", `x\u001b[2K\u001b[31m`}, {"a Unicode line end", `x\u2028y`}, {"10,000 letters", fmt.Sprintf("%010000d", 0)},
	} {
		all = append(all, Case{ID: "L1", Name: "the name holds " + v.name, Want: Refused, Guards: guards, Tool: v.tool})
	}
	return all
}
