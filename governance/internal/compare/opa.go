package compare

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
)

// rego writes the rule so that OPA can index it: by equality with parts of the
// input.
func (r rule) rego() string {
	set := "permit"
	if r.forbid {
		set = "forbid"
	}
	var body []string
	if r.profile != "" {
		body = append(body, fmt.Sprintf("input.profile == %q", r.profile))
	}
	switch {
	case r.action != "":
		body = append(body, fmt.Sprintf("input.action == %q", r.action))
	case r.server != "":
		body = append(body, fmt.Sprintf("input.group == %q", r.server+":"+r.class))
	case r.class != "":
		body = append(body, fmt.Sprintf("input.class == %q", r.class))
	}
	arg := "input.args." + r.test.arg
	switch r.test.kind {
	case "equal":
		body = append(body, fmt.Sprintf("%s == %q", arg, r.test.values[0]))
	case "other":
		body = append(body, fmt.Sprintf("%s != %q", arg, r.test.values[0]))
	case "in":
		body = append(body, fmt.Sprintf("%s in {%q, %q}", arg, r.test.values[0], r.test.values[1]))
	case "prefix":
		body = append(body, fmt.Sprintf("startswith(%s, %q)", arg, r.test.values[0]))
	case "infix":
		body = append(body, fmt.Sprintf("contains(%s, %q)", arg, r.test.values[0]))
	case "above":
		body = append(body, arg+" > "+strconv.Itoa(r.test.number))
	}
	return fmt.Sprintf("%s contains %q if {\n\t%s\n}\n", set, r.id, strings.Join(body, "\n\t"))
}

type opa struct {
	query    rego.PreparedEvalQuery
	requests []request
	args     []string
	inputs   []ast.Value
}

func newOPA(w world, requests []request) (*opa, error) {
	var text strings.Builder
	text.WriteString("package office\n\n")
	for _, r := range w.rules {
		text.WriteString(r.rego())
	}
	query, err := rego.New(rego.Query("permits = data.office.permit; forbids = data.office.forbid"), rego.Module("office.rego", text.String())).PrepareForEval(background)
	if err != nil {
		return nil, err
	}
	o := &opa{query: query, requests: requests}
	for i, r := range requests {
		o.args = append(o.args, r.args())
		o.inputs = append(o.inputs, o.input(i))
	}
	return o, nil
}

// input is what OPA is asked about, made from the JSON of the arguments.
func (o *opa) input(i int) ast.Value {
	args, err := ast.ValueFromReader(strings.NewReader(o.args[i]))
	if err != nil {
		panic(err)
	}
	r := &o.requests[i]
	text := func(key, value string) [2]*ast.Term {
		return [2]*ast.Term{ast.StringTerm(key), ast.StringTerm(value)}
	}
	return ast.NewObject(text("profile", r.profile), text("action", r.action()), text("group", r.server+":"+r.class), text("class", r.class),
		[2]*ast.Term{ast.StringTerm("args"), ast.NewTerm(args)})
}

func (o *opa) decide(i int) answer { return o.eval(o.inputs[i]) }

// An opaJSON is an opa that begins with JSON.
type opaJSON struct{ *opa }

func (o opaJSON) decide(i int) answer { return o.eval(o.input(i)) }

func (o *opa) eval(input ast.Value) answer {
	rs, err := o.query.Eval(background, rego.EvalParsedInput(input))
	if err != nil || len(rs) != 1 {
		panic(fmt.Sprint("opa: ", rs, err))
	}
	texts := func(name string) (out []string) {
		for _, v := range rs[0].Bindings[name].([]any) {
			out = append(out, v.(string))
		}
		return out
	}
	return answerOf(texts("permits"), texts("forbids"))
}
