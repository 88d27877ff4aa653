package cedarx

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/governance/internal/corpustest"
)

var (
	inContext  = regexp.MustCompile(` in context for .*`)
	actionName = regexp.MustCompile(`Action::"[^"]*"`)
)

// gists are the mistakes, each once, without the action that shows it.
func gists(errs []error) []string {
	var out []string
	for _, err := range errs {
		text := inContext.ReplaceAllString(err.Error(), "")
		out = append(out, text)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// whole validates without slicing.
func (v *Validator) whole(p *cedar.Policy) []error {
	return flatten(v.v.Policy("", foldPolicy(p)))
}

// toolSchema has n tools of a few shapes of arguments on two servers.
func toolSchema(n int) string {
	var b strings.Builder
	b.WriteString(`entity Team; entity User in [Team] { mail?: String }; entity Agent in [Team] { kind?: String, owner?: User } tags String;
entity Server; entity Tool in [Server] { class: String }; entity Host;
action "call"; action "read", "write" in ["call"]; action "a:read", "b:read" in ["read"]; action "a:write", "b:write" in ["write"];
action "connect" appliesTo { principal: [Agent, User], resource: [Host], context: { port?: Long } };
action "nothing" in ["call"];
`)
	shapes := []string{
		"{ path: String }", "{ path?: String, n: Long }", "{ path: Long }", "{}",
		"{ o: { path: String, deep?: { n: Long } }, s: Set<String> }", "{ o?: { path: String }, s: Set<Long> }", "{ n?: Long, who: User }",
	}
	for i := range n {
		group := []string{"a:read", "b:read", "a:write", "b:write"}[i%4]
		principals := []string{"Agent, User", "Agent"}[i/4%2]
		fmt.Fprintf(&b, "action \"%c__t%d\" in [%q] appliesTo { principal: [%s], resource: [Tool], context: { user?: User, args: %s } };\n", group[0], i, group, principals, shapes[i%len(shapes)])
	}
	return b.String()
}

// randomPolicy writes a policy about toolSchema that may be right or wrong.
func randomPolicy(r *rand.Rand) string {
	one := func(of ...string) string { return of[r.IntN(len(of))] }
	number := func(most int) string { return fmt.Sprint(r.IntN(most)) }
	action := func() string {
		return `Action::"` + one("call", "read", "write", "a:read", "b:write", "connect", "nothing", "absent", "a__t"+number(40), "b__t"+number(40)) + `"`
	}
	var cond func(depth int) string
	value := func() string {
		return one(`"x"`, "1", "true", `User::"u"`, "context.args.path", "context.args.n", "context.args.o", "context.args.o.path", "context.args.o.deep.n",
			"context.args.s", "context.user", "context.user.mail", "context.port", "context.args", "context", "principal", "resource", "principal.kind", "resource.class", "action", "["+action()+"]", action())
	}
	cond = func(depth int) string {
		if depth == 0 {
			return one(value()+" == "+value(), value()+" has "+one("path", "n", "o", "deep", "mail", "kind"), value()+" in "+value(), value()+` like "a*"`,
				value()+" < "+value(), value()+".contains("+value()+")", value()+" is "+one("User", "Agent", "Tool", "Nope"), "context has args", "context.args has path", "context.args has o.deep", "true", "false", "action == "+action(), "action in "+action(),
				`principal.hasTag("t")`, `principal.getTag("t") == "x"`)
		}
		return one("("+cond(depth-1)+" && "+cond(depth-1)+")", "("+cond(depth-1)+" || "+cond(depth-1)+")", "!("+cond(depth-1)+")",
			"(if "+cond(depth-1)+" then "+cond(depth-1)+" else "+cond(depth-1)+")", "(if "+cond(0)+" then context.args else context.args) == "+value())
	}
	scope := one("action", "action", "action == "+action(), "action in "+action(), "action in ["+action()+", "+action()+"]", "action in []")
	text := one("permit", "forbid") + " (" + one("principal", "principal is Agent", "principal is User", `principal == Agent::"a"`, `principal in Team::"t"`, `principal == Nope::"x"`) +
		", " + scope + ", " + one("resource", "resource is Tool", "resource is Host", `resource in Server::"s"`, `resource == Tool::"t"`) + ")"
	for range r.IntN(3) {
		text += " " + one("when", "unless") + " { " + cond(r.IntN(3)) + " }"
	}
	return text + ";"
}

// A slice says what the whole schema does, for right and for wrong policies.
func TestSliceSaysTheSame(t *testing.T) {
	v, err := NewValidator("schema", toolSchema(40))
	require.NoError(t, err)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	right, impossible := 0, 0
	for range 1000 {
		text := randomPolicy(r)
		var p cedar.Policy
		require.NoError(t, p.UnmarshalCedar([]byte(text)), text)
		whole, sliced := gists(v.whole(&p)), gists(v.Policy(&p))
		if !usesAction(&p) {
			// What remains is about a place in the context, and the same whichever
			// action shows it.
			require.Equal(t, whole, sliced, text)
		} else {
			require.Equal(t, strip(whole), strip(sliced), text)
		}
		if len(whole) > 0 {
			continue
		}
		right++
		// And by what the whole schema knows, is it impossible?
		f := foldPolicy(&p)
		if len(f.Conditions) > 0 && v.Impossible(&p) {
			impossible++
		}
	}
	assert.Greater(t, right, 30)
	assert.Positive(t, impossible)
	t.Logf("%d of 1000 are right, %d of them impossible", right, impossible)
}

func foldPolicy(p *cedar.Policy) *ast.Policy { return fold((*ast.Policy)(p.AST())) }

func usesAction(p *cedar.Policy) bool { return readsOf(foldPolicy(p)).action }

func strip(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = actionName.ReplaceAllString(s, "Action")
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// The number of environments that a policy is typed in does not grow with the
// tools that are alike.
func TestSliceDoesNotGrow(t *testing.T) {
	for _, text := range []string{
		`permit (principal, action, resource);`,
		`permit (principal, action in Action::"read", resource) when { context.args has path };`,
		`permit (principal, action == Action::"a__t4", resource) when { context.args.o.path == "x" };`,
		`permit (principal, action in [Action::"a:read", Action::"connect"], resource) unless { principal in Team::"x" };`,
	} {
		var sizes []int
		for _, n := range []int{56, 1176} {
			v, err := NewValidator("schema", toolSchema(n))
			require.NoError(t, err)
			var p cedar.Policy
			require.NoError(t, p.UnmarshalCedar([]byte(text)))
			v.Policy(&p)
			r := readsOf(foldPolicy(&p))
			sizes = append(sizes, len(v.s.slice(v.s.scope(foldPolicy(&p).Action), r).Actions))
		}
		assert.Equal(t, sizes[0], sizes[1], text)
		assert.Less(t, sizes[0], 30, text)
	}
}

// The Rust validator's verdicts on the corpus of cedar-go hold for this one,
// though it folds clauses into one conjunction and looks at a part of the
// schema. Were a policy right only as one conjunction, it would show here; the
// corpus of v1.9.0 has none.
func TestVerdictsOfTheCorpus(t *testing.T) {
	valid, wrong := 0, 0
	for _, c := range corpustest.Load(t, 25) {
		v, err := NewValidator(c.Name, c.Schema)
		require.NoError(t, err, c.Name)
		for id, p := range c.Policies.All() {
			want, known := c.Strict[id]
			require.True(t, known, "%s: no verdict about %s", c.Name, id)
			errs := v.Policy(p)
			require.Equal(t, want, len(errs) == 0, "%s %s: %v\n%s", c.Name, id, errs, p.MarshalCedar())
			require.Equal(t, strip(gists(v.whole(p))), strip(gists(errs)), "%s %s", c.Name, id)
			if want {
				valid++
			} else {
				wrong++
			}
		}
	}
	t.Logf("%d valid policies, %d wrong", valid, wrong)
	assert.NotZero(t, valid)
	assert.NotZero(t, wrong)
}

// BenchmarkValidate compares one policy against a catalogue of 10 and of 1,170
// tools, sliced and whole.
func BenchmarkValidate(b *testing.B) {
	var p cedar.Policy
	require.NoError(b, p.UnmarshalCedar([]byte(`permit (principal in Team::"t", action == Action::"a__t4", resource) when { context.args.o.path == "x" && context.args.s.contains("y") };`)))
	var wide cedar.Policy
	require.NoError(b, wide.UnmarshalCedar([]byte(`forbid (principal, action in Action::"call", resource) when { context.args has path && principal has kind };`)))
	for _, n := range []int{10, 1170} {
		v, err := NewValidator("schema", toolSchema(n))
		require.NoError(b, err)
		for name, p := range map[string]*cedar.Policy{"one": &p, "group": &wide} {
			b.Run(fmt.Sprintf("tools=%d/%s/sliced", n, name), func(b *testing.B) {
				for b.Loop() {
					v.Policy(p)
				}
			})
			b.Run(fmt.Sprintf("tools=%d/%s/first", n, name), func(b *testing.B) {
				for b.Loop() {
					clear(v.s.cache) // as for the first policy of its shape
					v.Policy(p)
				}
			})
			b.Run(fmt.Sprintf("tools=%d/%s/whole", n, name), func(b *testing.B) {
				for b.Loop() {
					v.whole(p)
				}
			})
		}
	}
}
