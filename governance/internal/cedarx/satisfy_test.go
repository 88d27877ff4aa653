package cedarx

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const worldSchema = `entity User { kind: String }; entity Host;
action "go", "stay" appliesTo { principal: [User], resource: [Host], context: { s: String, n: Long, b: Bool, o?: String } };`

// everyContext are all values that the conditions below can tell apart.
func everyContext() (out []types.Record) {
	for _, s := range []string{"", "a", "ab", "b"} {
		for n := range 4 {
			for _, b := range []bool{false, true} {
				for _, o := range []string{"-", "a", "b"} {
					r := types.RecordMap{"s": types.String(s), "n": types.Long(n), "b": types.Boolean(b)}
					if o != "-" {
						r["o"] = types.String(o)
					}
					out = append(out, types.NewRecord(r))
				}
			}
		}
	}
	return out
}

func randomCondition(r *rand.Rand, depth int) string {
	one := func(of ...string) string { return of[r.IntN(len(of))] }
	if depth == 0 {
		text, number := one(`""`, `"a"`, `"ab"`, `"b"`), fmt.Sprint(r.IntN(4))
		return one("context.s == "+text, text+" == context.s", "context.s != "+text, "["+text+`, "a"].contains(context.s)`, `context.s like "`+one("a*", "*b", "", "*")+`"`,
			"context.n == "+number, "context.n "+one("<", "<=", ">", ">=")+" "+number, number+" "+one("<", "<=", ">", ">=")+" context.n",
			"context.b", "context has o", "(context has o && context.o == "+one(`"a"`, `"b"`, `"c"`)+")", "context.o == "+one(`"a"`, `"c"`),
			one("true", "false"), `principal == User::"u"`, `principal is User`, `principal is Host`, `action == Action::"go"`, `resource == Host::"`+one("h", "i")+`"`, "context.s == context.s", "1 == "+number)
	}
	return one("("+randomCondition(r, depth-1)+" && "+randomCondition(r, depth-1)+")", "("+randomCondition(r, depth-1)+" && "+randomCondition(r, depth-1)+")",
		"("+randomCondition(r, depth-1)+" || "+randomCondition(r, depth-1)+")", "!("+randomCondition(r, depth-1)+")",
		"(if "+randomCondition(r, depth-1)+" then "+randomCondition(r, depth-1)+" else "+randomCondition(r, depth-1)+")")
}

// What is called impossible never applies, whatever is asked.
func TestImpossibleIsCertain(t *testing.T) {
	v, err := NewValidator("schema", worldSchema)
	require.NoError(t, err)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	contexts := everyContext()
	user, host := types.NewEntityUID("User", "u"), types.NewEntityUID("Host", "h")
	entities := types.EntityMap{user: {UID: user, Attributes: types.NewRecord(types.RecordMap{"kind": types.String("x")})}}
	called, missed := map[string]int{}, 0
	for range 600 {
		text := "permit (principal" + []string{"", ` == User::"u"`}[r.IntN(2)] + `, action == Action::"go", resource)`
		for range 1 + r.IntN(3) {
			text += " " + []string{"when", "unless"}[r.IntN(2)] + " { " + randomCondition(r, r.IntN(4)) + " }"
		}
		var p cedar.Policy
		require.NoError(t, p.UnmarshalCedar([]byte(text+";")), text)
		applies := ""
		set := cedar.NewPolicySet()
		set.Add("p", &p)
		for _, c := range contexts {
			if ok, _ := cedar.Authorize(set, entities, cedar.Request{Principal: user, Action: types.NewEntityUID("Action", "go"), Resource: host, Context: c}); ok {
				applies = fmt.Sprint(c)
				break
			}
		}
		byValue := Contradiction(&p) != ""
		byType := len(v.Policy(&p)) == 0 && v.Impossible(&p)
		if byType {
			require.True(t, MayBeImpossible(&p), text)
		}
		require.False(t, byValue && applies != "", "%s applies with %s", text, applies)
		require.False(t, byType && applies != "", "%s applies with %s", text, applies)
		switch {
		case byValue && byType:
			called["both"]++
		case byValue:
			called["value"]++
		case byType:
			called["type"]++
		case applies == "":
			missed++
		}
	}
	t.Logf("called impossible by %v, %d others never apply", called, missed)
	assert.Greater(t, called["value"], 15)
	assert.Greater(t, called["type"]+called["both"], 5)
}
