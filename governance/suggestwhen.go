package governance

import (
	"fmt"
	"maps"
	"math"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/governance/internal/argument"
	"github.com/twinward-dev/twinward/governance/internal/cedarx"
)

// observedRecord is what was seen of a record.
type observedRecord struct {
	n      int
	fields map[string]*observedField
}

// observedField is what was seen of one attribute: in how many records, and
// which values, as Cedar.
type observedField struct {
	n      int
	values map[string]types.Value
	nested observedRecord
}

// maxDistinct bounds the different values that are kept of one attribute. Of
// more, only that there are more is known, and nothing is demanded of it.
const maxDistinct = 10_000

func (o *observedRecord) add(r types.Record) {
	o.n++
	for name, v := range r.All() {
		if o.fields == nil {
			o.fields = map[string]*observedField{}
		}
		f := o.fields[string(name)]
		if f == nil {
			f = &observedField{values: map[string]types.Value{}}
			o.fields[string(name)] = f
		}
		f.n++
		if inner, ok := v.(types.Record); ok {
			f.nested.add(inner)
			continue
		}
		if len(f.values) < maxDistinct {
			f.values[string(v.MarshalCedar())] = v
		} else {
			f.values[""] = nil
		}
	}
}

// conditions are those of a group, in order.
func (w *suggester) conditions(g *observedGroup) []string {
	var out []string
	if len(g.users) > 0 && len(g.users) <= w.most {
		var list []string
		for _, u := range slices.Sorted(maps.Keys(g.users)) {
			list = append(list, uid(typeUser, u).String())
		}
		out = append(out, oneOfThese(list, "principal"))
	}
	if g.tool == nil {
		names := slices.Sorted(maps.Keys(g.attributes))
		for _, name := range names {
			if f := g.record.fields[name]; f != nil {
				out = append(out, w.field("context", name, "", f, f.n == g.record.n, true)...)
			}
		}
		return out
	}
	out = append(out, w.record("context.args", g.tool.key, g.tool.args, &g.record)...)
	if !g.extra && !g.tool.args.Closed {
		out = append(out, "context.extra.isEmpty()")
	}
	return out
}

// record are the conditions on the fields of a record of the arguments.
func (w *suggester) record(at, key string, t *argument.Type, seen *observedRecord) []string {
	var out []string
	for _, f := range t.Fields {
		optional := !f.Required || f.Typ.Nullable
		o := seen.fields[f.Name]
		if w.free[key+f.Path] {
			continue
		}
		switch {
		case o == nil && optional:
			out = append(out, "!("+at+" has "+named(f.Name)+")")
		case o == nil:
		case f.Typ.Kind == argument.KindRecord:
			inner := strings.Join(w.record(access(at, f.Name), key, f.Typ, &o.nested), " && ")
			out = append(out, present(at, f.Name, inner, o.n == seen.n, optional)...)
		default:
			out = append(out, w.field(at, f.Name, key, o, o.n == seen.n, optional)...)
		}
	}
	return out
}

// field are the conditions on one attribute.
func (w *suggester) field(at, name, key string, f *observedField, always, optional bool) []string {
	return present(at, name, w.value(access(at, name), f), always, optional)
}

// present guards a condition on an attribute that may be absent.
func present(at, name, condition string, always, optional bool) []string {
	has := at + " has " + named(name)
	switch {
	case !optional && condition == "":
		return nil
	case !optional:
		return []string{condition}
	case always && condition == "":
		return []string{has}
	case always:
		return []string{has + " && " + condition}
	case condition == "":
		return nil
	}
	return []string{"(if " + has + " then " + condition + " else true)"}
}

// value is the condition that what was seen of an attribute meets, or "".
func (w *suggester) value(at string, f *observedField) string {
	if _, more := f.values[""]; more || len(f.values) == 0 {
		return ""
	}
	texts := slices.Sorted(maps.Keys(f.values))
	switch f.values[texts[0]].(type) {
	case types.Boolean:
		if len(texts) > 1 {
			return ""
		}
		return at + " == " + texts[0]
	case types.Long:
		if len(texts) == 1 {
			return at + " == " + texts[0]
		}
		low, high := int64(math.MaxInt64), int64(math.MinInt64)
		for _, v := range f.values {
			low, high = min(low, int64(v.(types.Long))), max(high, int64(v.(types.Long)))
		}
		return fmt.Sprintf("%s >= %d && %s <= %d", at, low, at, high)
	case types.Decimal:
		var low, high types.Decimal
		first := true
		for _, v := range f.values {
			d := v.(types.Decimal)
			if first || d.Compare(low) < 0 {
				low = d
			}
			if first || d.Compare(high) > 0 {
				high = d
			}
			first = false
		}
		return fmt.Sprintf("%s.greaterThanOrEqual(%s) && %s.lessThanOrEqual(%s)", at, low.MarshalCedar(), at, high.MarshalCedar())
	case types.Set:
		return w.set(at, f)
	case types.String:
		return w.oneText(at, f, texts)
	case types.IPAddr:
		if len(texts) <= w.most {
			return oneOfThese(texts, at)
		}
	}
	return "" // times, and what is too large to be seen
}

// set: all elements are among those that were seen.
func (w *suggester) set(at string, f *observedField) string {
	elements := map[string]bool{}
	for _, v := range f.values {
		for e := range v.(types.Set).All() {
			if s, ok := e.(types.String); ok && prose(string(s)) {
				return ""
			}
			elements[string(e.MarshalCedar())] = true
		}
	}
	switch {
	case len(elements) == 0:
		return at + ".isEmpty()"
	case len(elements) > w.most:
		return ""
	}
	return "[" + strings.Join(slices.Sorted(maps.Keys(elements)), ", ") + "].containsAll(" + at + ")"
}

// oneText: one of those that were seen, or below the folder that all are in.
func (w *suggester) oneText(at string, f *observedField, texts []string) string {
	var plain []string
	for _, v := range f.values {
		if prose(string(v.(types.String))) {
			return ""
		}
		plain = append(plain, string(v.(types.String)))
	}
	if len(texts) <= w.most {
		return oneOfThese(texts, at)
	}
	prefix := plain[0]
	dots := false
	for _, s := range plain {
		for !strings.HasPrefix(s, prefix) {
			prefix = prefix[:len(prefix)-1]
		}
		dots = dots || strings.Contains(s, "..")
	}
	folder := prefix[:strings.LastIndexByte(prefix, '/')+1]
	if folder == "" || path.Clean(folder) == "/" || strings.HasSuffix(folder, "://") {
		return ""
	}
	out := at + ` like "` + strings.ReplaceAll(strings.Trim(cedarx.Quote(folder), `"`), "*", `\*`) + `*"`
	if !dots {
		out += " && !(" + at + ` like "*..*")`
	}
	return out
}

// prose reports whether a text reads like something that a person or a model
// wrote, of which no two are the same.
func prose(s string) bool {
	return len(s) > 120 || strings.ContainsAny(s, "\n\r") || strings.Count(s, " ") >= 2
}

func oneOfThese(list []string, at string) string {
	if len(list) == 1 {
		return at + " == " + list[0]
	}
	return "[" + strings.Join(list, ", ") + "].contains(" + at + ")"
}

var cedarName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Words that Cedar reads as something else.
var cedarWords = []string{"true", "false", "if", "then", "else", "in", "is", "like", "has", "__cedar"}

func plainName(name string) bool {
	return cedarName.MatchString(name) && !slices.Contains(cedarWords, name)
}

// access writes at.name; named writes name for "has".
func access(at, name string) string {
	if plainName(name) {
		return at + "." + name
	}
	return at + "[" + cedarx.Quote(name) + "]"
}

func named(name string) string {
	if plainName(name) {
		return name
	}
	return cedarx.Quote(name)
}
