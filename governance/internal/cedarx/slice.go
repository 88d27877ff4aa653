package cedarx

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"
)

// A slicer makes small schemas out of one large one.
//
// cedar-go's validator types a policy once for every action of the schema that
// its scope matches, and builds the environments of all others besides. Most of
// them are alike: two actions that apply to the same types, and whose contexts
// have the same type wherever the policy looks, give the same verdict. A slice
// holds one action of each kind, and the others only as far as the hierarchy
// needs them.
type slicer struct {
	schema  *resolved.Schema
	actions []action                  // sorted
	every   []int                     // the places of all
	below   map[types.EntityUID][]int // the places of an action and of those in it
	oneEach []types.EntityUID         // one action of each type, for the wording of errors

	mu    sync.Mutex
	cache map[string]*validate.Validator
}

type action struct {
	resolved.Action
	above []types.EntityUID
	who   string // the types that it applies to
}

func newSlicer(s *resolved.Schema) *slicer {
	x := &slicer{schema: s, below: map[types.EntityUID][]int{}, cache: map[string]*validate.Validator{}}
	for uid, a := range s.Actions {
		a.Entity.UID = uid
		own := action{Action: a, above: x.above(uid)}
		if a.AppliesTo != nil {
			own.who = fmt.Sprint(a.AppliesTo.Principals, a.AppliesTo.Resources)
		}
		x.actions = append(x.actions, own)
	}
	slices.SortFunc(x.actions, func(a, b action) int { return compareUIDs(a.Entity.UID, b.Entity.UID) })
	seen := map[types.EntityType]bool{}
	for i, a := range x.actions {
		uid := a.Entity.UID
		x.every = append(x.every, i)
		x.below[uid] = append(x.below[uid], i)
		for _, above := range a.above {
			x.below[above] = append(x.below[above], i)
		}
		if !seen[uid.Type] {
			seen[uid.Type] = true
			x.oneEach = append(x.oneEach, uid)
		}
	}
	return x
}

// place finds an action.
func (x *slicer) place(uid types.EntityUID) (int, bool) {
	return slices.BinarySearchFunc(x.actions, uid, func(a action, uid types.EntityUID) int { return compareUIDs(a.Entity.UID, uid) })
}

// above returns the ancestors of an action, each once.
func (x *slicer) above(uid types.EntityUID) (out []types.EntityUID) {
	todo := []types.EntityUID{uid}
	for len(todo) > 0 {
		next := todo[0]
		todo = todo[1:]
		for p := range x.schema.Actions[next].Entity.Parents.All() {
			if p != uid && !slices.Contains(out, p) {
				out = append(out, p)
				todo = append(todo, p)
			}
		}
	}
	return out
}

// For returns a validator that says about p what one of the whole schema does.
// Where that one would repeat a mistake for each action of a kind, this one
// names the first.
func (x *slicer) For(p *ast.Policy) *validate.Validator {
	r := readsOf(p)
	r.named = slices.DeleteFunc(r.named, func(e types.EntityUID) bool {
		_, ok := x.schema.Actions[e]
		return !ok
	})
	key := string(r.appendKey(scope(p.Action).AppendKey(nil)))
	x.mu.Lock()
	defer x.mu.Unlock()
	if v, ok := x.cache[key]; ok {
		return v
	}
	// A bundle has few shapes of policies; this bound is against one that has not.
	if len(x.cache) >= maxSlices {
		clear(x.cache)
	}
	v := validate.New(x.slice(x.scope(p.Action), r), validate.WithStrict())
	x.cache[key] = v
	return v
}

const maxSlices = 4096

// scope returns the places of the actions that a policy is about. The validator
// takes "in []" for all of them.
func (x *slicer) scope(n ast.IsActionScopeNode) []int {
	switch s := n.(type) {
	case ast.ScopeTypeEq:
		if i, ok := x.place(s.Entity); ok {
			return []int{i}
		}
		return nil
	case ast.ScopeTypeIn:
		return x.below[s.Entity]
	case ast.ScopeTypeInSet:
		if len(s.Entities) == 0 {
			return x.every
		}
		var all []int
		for _, e := range s.Entities {
			all = append(all, x.below[e]...)
		}
		slices.Sort(all)
		return slices.Compact(all)
	}
	return x.every
}

func compareUIDs(a, b types.EntityUID) int {
	if c := strings.Compare(string(a.Type), string(b.Type)); c != 0 {
		return c
	}
	return strings.Compare(string(a.ID), string(b.ID))
}

// slice makes the schema: one action of each kind in scope as it is; and bare,
// without what it applies to, every action that the policy names and all that
// stand above these.
func (x *slicer) slice(scope []int, r *reads) *resolved.Schema {
	out := *x.schema
	out.Actions = map[types.EntityUID]resolved.Action{}
	kinds := map[string]bool{}
	var kind []byte
	for _, i := range scope {
		a := &x.actions[i]
		if a.AppliesTo == nil {
			continue
		}
		if !r.action { // else the policy can tell every action from every other
			kind = r.context.kind(append(kind[:0], a.who...), a.AppliesTo.Context)
			if kinds[string(kind)] {
				continue
			}
			kinds[string(kind)] = true
		}
		out.Actions[a.Entity.UID] = r.narrow(a.Action)
	}
	bare := func(uid types.EntityUID) {
		if _, has := out.Actions[uid]; has {
			return
		}
		if a, ok := x.schema.Actions[uid]; ok {
			out.Actions[uid] = resolved.Action{Entity: a.Entity}
		}
	}
	for _, uid := range slices.Concat(slices.Collect(maps.Keys(out.Actions)), r.named, x.oneEach) {
		bare(uid)
		if i, ok := x.place(uid); ok {
			for _, a := range x.actions[i].above {
				bare(a)
			}
		}
	}
	return &out
}

// reads is what a policy can see of an action: the paths of the context that it
// reads, the actions that it names, and whether it looks at the action itself.
type reads struct {
	context node
	named   []types.EntityUID // may hold other entities as well
	action  bool
}

// A node is one name in a path of the context. whole is set where a path ends:
// everything below counts then.
type node struct {
	whole  bool
	next   map[string]*node
	sorted []string
}

// names returns the names that come next, sorted.
func (n *node) names() []string {
	if len(n.sorted) != len(n.next) {
		n.sorted = slices.Sorted(maps.Keys(n.next))
	}
	return n.sorted
}

func (n *node) put(path []string) {
	for _, name := range path {
		if n.next == nil {
			n.next = map[string]*node{}
		}
		if n.next[name] == nil {
			n.next[name] = &node{}
		}
		n = n.next[name]
	}
	n.whole = true
}

func readsOf(p *ast.Policy) *reads {
	r := &reads{}
	for _, s := range []ast.IsScopeNode{p.Principal, p.Action, p.Resource} {
		r.named = append(r.named, scope(s).Any...)
	}
	for _, c := range p.Conditions {
		ast.Inspect(ast.NewNode(c.Body), r.visit)
	}
	return r
}

func (r *reads) visit(n ast.IsNode) bool {
	switch n := n.(type) {
	case ast.NodeTypeAccess, ast.NodeTypeHas:
		if path, ok := contextPath(n); ok {
			r.context.put(path)
			return false
		}
	case ast.NodeTypeVariable:
		switch n.Name {
		case "context":
			r.context.put(nil)
		case "action":
			r.action = true
		}
	case ast.NodeValue:
		r.value(n.Value)
	}
	return true
}

func (r *reads) value(v types.Value) {
	switch v := v.(type) {
	case types.EntityUID:
		r.named = append(r.named, v)
	case types.Set:
		for e := range v.All() {
			r.value(e)
		}
	}
}

// contextPath reads context.a.b and context.a has b.
func contextPath(n ast.IsNode) (path []string, ok bool) {
	if has, ok := n.(ast.NodeTypeHas); ok {
		path = append(path, string(has.Value))
		n = has.Arg
	}
	for {
		access, ok := n.(ast.NodeTypeAccess)
		if !ok {
			break
		}
		path = append(path, string(access.Value))
		n = access.Arg
	}
	v, ok := n.(ast.NodeTypeVariable)
	slices.Reverse(path)
	return path, ok && v.Name == "context"
}

// appendKey appends what is the same for policies that see the same, and for
// these only.
func (r *reads) appendKey(b []byte) []byte {
	return r.context.appendKey(appendUIDs(strconv.AppendBool(b, r.action), r.named))
}

func (n *node) appendKey(b []byte) []byte {
	b = binary.AppendUvarint(strconv.AppendBool(b, n.whole), uint64(len(n.next)))
	for _, name := range n.names() {
		b = n.next[name].appendKey(appendText(b, name))
	}
	return b
}

// narrow leaves of an action's context what the policy reads: the validator
// goes through all of it for each policy.
func (r *reads) narrow(a resolved.Action) resolved.Action {
	to := *a.AppliesTo
	if record, ok := r.context.narrow(to.Context).(resolved.RecordType); ok {
		to.Context = record
	}
	a.AppliesTo = &to
	return a
}

func (n *node) narrow(t resolved.IsType) resolved.IsType {
	record, ok := t.(resolved.RecordType)
	if n.whole || !ok {
		return t
	}
	out := resolved.RecordType{}
	for name, next := range n.next {
		if a, ok := record[types.String(name)]; ok {
			a.Type = next.narrow(a.Type)
			out[types.String(name)] = a
		}
	}
	return out
}

// kind appends what is the same for actions between which the policy sees no
// difference.
func (n *node) kind(b []byte, t resolved.IsType) []byte {
	record, ok := t.(resolved.RecordType)
	if n.whole || !ok {
		return appendType(b, t)
	}
	b = append(b, '{')
	for _, name := range n.names() {
		if a, ok := record[types.String(name)]; ok {
			b = n.next[name].kind(appendName(b, name, a.Optional), a.Type)
		}
	}
	return append(b, '}')
}

func appendName(b []byte, name string, optional bool) []byte {
	b = strconv.AppendQuote(b, name)
	return strconv.AppendBool(b, optional)
}

func appendType(b []byte, t resolved.IsType) []byte {
	switch t := t.(type) {
	case resolved.RecordType:
		b = append(b, '{')
		for _, name := range slices.Sorted(maps.Keys(t)) {
			a := t[name]
			b = appendType(appendName(b, string(name), a.Optional), a.Type)
		}
		return append(b, '}')
	case resolved.SetType:
		return append(appendType(append(b, '['), t.Element), ']')
	case resolved.StringType:
		return append(b, 's')
	case resolved.LongType:
		return append(b, 'l')
	case resolved.BoolType:
		return append(b, 'b')
	}
	return fmt.Appendf(b, "%T %v,", t, t)
}
