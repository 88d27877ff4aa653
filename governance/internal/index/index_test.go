package index_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/governance/internal/index"
)

// A world is random policies over random entities. Few names, so that things
// meet; entities may be missing, stand under several others, and in circles.
type world struct {
	entities types.EntityMap
	policies cedar.PolicyMap
	scopes   cedar.PolicyMap // the same policies without conditions
	text     string
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func randomUID(r *rand.Rand) types.EntityUID {
	return types.NewEntityUID(pick[types.EntityType](r, "A", "B", "N::A"), types.String(pick(r, "0", "1", "2", "3")))
}

func randomParents(r *rand.Rand) types.EntityUIDSet {
	var parents []types.EntityUID
	for range r.IntN(3) {
		parents = append(parents, randomUID(r))
	}
	return types.NewEntityUIDSet(parents...)
}

func randomScope(r *rand.Rand, variable string, set bool) string {
	switch r.IntN(6) {
	case 0:
		return fmt.Sprintf("%s == %s", variable, randomUID(r))
	case 1:
		return fmt.Sprintf("%s in %s", variable, randomUID(r))
	case 2:
		if set {
			list := make([]string, r.IntN(4))
			for i := range list {
				list[i] = randomUID(r).String()
			}
			return fmt.Sprintf("%s in [%s]", variable, strings.Join(list, ", "))
		}
		return fmt.Sprintf("%s is %s", variable, randomUID(r).Type)
	case 3:
		if set {
			return variable
		}
		return fmt.Sprintf("%s is %s in %s", variable, randomUID(r).Type, randomUID(r))
	}
	return variable
}

func randomWorld(r *rand.Rand) world {
	w := world{entities: types.EntityMap{}, policies: cedar.PolicyMap{}, scopes: cedar.PolicyMap{}}
	for range r.IntN(12) {
		id := randomUID(r)
		w.entities[id] = types.Entity{UID: id, Parents: randomParents(r)}
	}
	var all strings.Builder
	for i := range r.IntN(200) {
		scope := fmt.Sprintf("%s (%s, %s, %s)", pick(r, "permit", "permit", "forbid"),
			randomScope(r, "principal", false), randomScope(r, "action", true), randomScope(r, "resource", false))
		text := scope
		for range r.IntN(3) {
			text += pick(r, " when ", " unless ") + pick(r, "{ true }", "{ false }", "{ 1 + true == 1 }", "{ context.missing }",
				fmt.Sprintf("{ principal in %s }", randomUID(r)), fmt.Sprintf("{ resource in %s && 1 < \"a\" }", randomUID(r)))
		}
		id := cedar.PolicyID(fmt.Sprintf("p%d", i)) // not in the order of their numbers
		w.policies[id], w.scopes[id] = new(cedar.Policy), new(cedar.Policy)
		for p, text := range map[*cedar.Policy]string{w.policies[id]: text, w.scopes[id]: scope} {
			if err := p.UnmarshalCedar([]byte(text + ";")); err != nil {
				panic(fmt.Sprint(err, "\n", text))
			}
		}
		fmt.Fprintf(&all, "%s: %s;\n", id, text)
	}
	w.text = all.String()
	return w
}

// ask compares the index with all policies on one random request, and returns
// how many policies were found and how many there are.
func (w world) ask(t require.TestingT, r *rand.Rand, x *index.Index) (found, all int) {
	request := cedar.Request{Principal: randomUID(r), Action: randomUID(r), Resource: randomUID(r)}
	store := make(types.EntityMap, len(w.entities)+3)
	for id, e := range w.entities {
		store[id] = e
	}
	for _, id := range []types.EntityUID{request.Principal, request.Action, request.Resource} {
		// A stranger, whose parents only this request knows. Nothing is below it:
		// that is the caller's duty.
		if _, known := store[id]; known || below(w.entities, id) || r.IntN(2) == 0 {
			continue
		}
		e := types.Entity{UID: id, Parents: randomParents(r)}
		for p := range e.Parents.All() {
			if _, known := w.entities[p]; !known { // it might be another stranger
				e.Parents = types.EntityUIDSet{}
				break
			}
		}
		store[id] = e
	}
	var at index.Place
	candidates := find(x, &at, store, request)
	about := slices.Collect(x.About(&at))

	describe := []any{"%+v\n%v\n%s", request, store, w.text}
	require.True(t, slices.IsSortedFunc(candidates, func(a, b index.Policy) int { return strings.Compare(string(a.ID), string(b.ID)) }), describe...)
	decision, diag := cedar.Authorize(candidates, store, request)
	reasons, errs := ids(diag)
	linear, diag := cedar.Authorize(w.policies, store, request)
	linearReasons, linearErrs := ids(diag)
	require.Equal(t, linear, decision, describe...)
	require.Equal(t, linearReasons, reasons, describe...)
	require.Equal(t, linearErrs, errs, describe...)

	// What is found is exactly what the scopes match.
	for id, p := range w.scopes {
		_, diag := cedar.Authorize(cedar.PolicyMap{id: p}, store, request)
		matches := len(diag.Reasons) > 0
		is := func(c index.Policy) bool { return c.ID == id }
		require.Equal(t, matches, slices.ContainsFunc(candidates, is), append([]any{"%s: " + describe[0].(string), id}, describe[1:]...)...)
		if matches {
			require.True(t, slices.ContainsFunc(about, is), describe...)
		}
	}
	return len(candidates), x.Len()
}

// below reports whether anything known stands below id.
func below(entities types.EntityMap, id types.EntityUID) bool {
	for _, e := range entities {
		if e.Parents.Contains(id) {
			return true
		}
	}
	return false
}

func rounds(full int) int {
	switch {
	case os.Getenv("TWINWARD_SOAK") == "1":
		return full
	case os.Getenv("TWINWARD_FULL") == "1":
		return full / 10
	}
	return full / 100
}

func TestIndexIsLinear(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	requests, found, all := 0, 0, 0
	for range rounds(10_000) {
		w := randomWorld(r)
		x := indexed(w.policies, w.entities)
		for range 20 {
			f, a := w.ask(t, r, x)
			requests, found, all = requests+1, found+f, all+a
		}
	}
	t.Logf("%d requests; %d of %d policies found", requests, found, all)
	require.Less(t, found, all/2)
}

func FuzzIndexIsLinear(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Add(uint64(0), uint64(1<<63))
	f.Fuzz(func(t *testing.T, a, b uint64) {
		r := rand.New(rand.NewPCG(a, b))
		w := randomWorld(r)
		x := indexed(w.policies, w.entities)
		for range 8 {
			w.ask(t, r, x)
		}
	})
}

func TestEmpty(t *testing.T) {
	x := index.New(nil, nil)
	e := &types.Entity{UID: types.NewEntityUID("A", "a")}
	var at index.Place
	x.Locate(&at, e, e)
	require.Empty(t, x.Find(nil, e, &at))
	require.Empty(t, slices.Collect(x.About(&at)))
	require.Zero(t, x.Len())
}

// Policies share what is evaluated only if their conditions are the same, and
// not because these look alike.
func TestConditionsThatLookAlike(t *testing.T) {
	var policies []index.Policy
	for _, when := range []string{`ip("1.2.3.4").isIpv4()`, `ip("1.2.3.4").isLoopback()`, `principal is A`, `principal is B`} {
		var p cedar.Policy
		require.NoError(t, p.UnmarshalCedar([]byte(`permit (principal, action, resource) when { `+when+` };`)))
		policies = append(policies, index.Policy{ID: cedar.PolicyID(when), Policy: &p})
	}
	x := index.New(policies, nil)
	e := types.Entity{UID: types.NewEntityUID("A", "a")}
	var at index.Place
	x.Locate(&at, &e, &e)
	found := x.Find(nil, &e, &at)
	require.Len(t, found, len(policies))
	for _, f := range found {
		require.Contains(t, string(f.Policy.MarshalCedar()), string(f.ID))
	}
}
