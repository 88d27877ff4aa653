package compare

import (
	"fmt"
	"strconv"
	"strings"

	celgo "github.com/google/cel-go/cel"
)

// cel writes the rule as a CEL expression.
func (r rule) cel() string {
	var body []string
	if r.profile != "" {
		body = append(body, fmt.Sprintf("profile == %q", r.profile))
	}
	switch {
	case r.action != "":
		body = append(body, fmt.Sprintf("action == %q", r.action))
	case r.server != "":
		body = append(body, fmt.Sprintf("group == %q", r.server+":"+r.class))
	case r.class != "":
		body = append(body, fmt.Sprintf("class == %q", r.class))
	}
	switch r.test.kind {
	case "equal":
		body = append(body, fmt.Sprintf("%s == %q", r.test.arg, r.test.values[0]))
	case "other":
		body = append(body, fmt.Sprintf("%s != %q", r.test.arg, r.test.values[0]))
	case "in":
		body = append(body, fmt.Sprintf("%s in [%q, %q]", r.test.arg, r.test.values[0], r.test.values[1]))
	case "prefix":
		body = append(body, fmt.Sprintf("%s.startsWith(%q)", r.test.arg, r.test.values[0]))
	case "infix":
		body = append(body, fmt.Sprintf("%s.contains(%q)", r.test.arg, r.test.values[0]))
	case "above":
		body = append(body, r.test.arg+" > "+strconv.Itoa(r.test.number))
	}
	return strings.Join(body, " && ")
}

// A cel is cel-go, one program a rule: it has no index, and nothing to build one
// on.
type cel struct {
	rules    []rule
	programs []celgo.Program
	inputs   []map[string]any
}

func newCEL(w world, requests []request) (*cel, error) {
	env, err := celgo.NewEnv(
		celgo.Variable("profile", celgo.StringType), celgo.Variable("action", celgo.StringType),
		celgo.Variable("group", celgo.StringType), celgo.Variable("class", celgo.StringType),
		celgo.Variable("repo", celgo.StringType), celgo.Variable("path", celgo.StringType), celgo.Variable("count", celgo.IntType),
	)
	if err != nil {
		return nil, err
	}
	c := &cel{rules: w.rules}
	for _, r := range w.rules {
		ast, issues := env.Compile(r.cel())
		if issues.Err() != nil {
			return nil, issues.Err()
		}
		p, err := env.Program(ast, celgo.EvalOptions(celgo.OptOptimize))
		if err != nil {
			return nil, err
		}
		c.programs = append(c.programs, p)
	}
	for _, r := range requests {
		c.inputs = append(c.inputs, map[string]any{
			"profile": r.profile, "action": r.action(), "group": r.server + ":" + r.class, "class": r.class,
			"repo": r.repo, "path": r.path, "count": int64(r.count),
		})
	}
	return c, nil
}

func (c *cel) decide(i int) answer {
	var permits, forbids []string
	for k, p := range c.programs {
		v, _, err := p.Eval(c.inputs[i])
		if err != nil {
			panic(err)
		}
		if v.Value() != true {
			continue
		}
		if c.rules[k].forbid {
			forbids = append(forbids, c.rules[k].id)
		} else {
			permits = append(permits, c.rules[k].id)
		}
	}
	return answerOf(permits, forbids)
}
