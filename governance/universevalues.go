package governance

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/governance/internal/argument"
	"github.com/twinward-dev/twinward/governance/internal/cedarx"
)

// typeTexts are what an argument can be, as JSON: what policies say of it, what they
// do not, and null where that is allowed. extra are texts that derived facets
// are about.
func typeTexts(t *argument.Type, key string, known map[string][]cedarx.Mention, extra []string) []string {
	var out []string
	switch t.Kind {
	case argument.KindUnion: // one of its fields
		for _, f := range t.Fields {
			out = append(out, typeTexts(f.Typ, key+"."+f.Name, known, extra)...)
		}
	case argument.KindMap:
		for _, m := range known[key+".keys"] {
			for _, name := range textsOf(m) {
				out = append(out, "{"+quoted(name)+":1}")
			}
		}
		for _, m := range known[key+".json"] {
			for _, v := range textsOf(m) {
				if canonical, err := argument.CanonicalJSON(v); err == nil && strings.HasPrefix(canonical, "{") {
					out = append(out, canonical)
				}
			}
		}
	case argument.KindColumns:
		out = append(out, "[]")
		for _, f := range t.Elem.Fields {
			for _, v := range typeTexts(f.Typ, key+"."+f.Name, known, extra) {
				out = append(out, "["+objectText(t.Elem, f.Name, v)+"]")
			}
		}
	case argument.KindSet:
		out = append(out, "[]")
		one := typeTexts(t.Elem, key, known, extra)
		for _, v := range one {
			out = append(out, "["+v+"]")
		}
		for _, m := range known[key] {
			var all []string
			for _, v := range valuesOf(m) {
				if list := jsonTexts(t.Elem, v); len(list) > 0 {
					all = append(all, list[0])
				}
			}
			if len(all) > 0 {
				out = append(out, "["+strings.Join(all, ",")+"]", "["+strings.Join(append(all, freshText(t.Elem)), ",")+"]")
			}
		}
	default:
		for _, m := range known[key] {
			for _, v := range valuesOf(m) {
				out = append(out, jsonTexts(t, v)...)
			}
			for _, text := range patternTexts(m) {
				out = append(out, quoted(text))
			}
			for _, other := range known[key] { // what matches both
				if m.Op == "like" && other.Op == "like" {
					out = append(out, quoted(strings.Join(m.Parts, strings.Join(other.Parts, "x"))))
				}
			}
		}
		for _, text := range extra {
			out = append(out, quoted(text))
		}
		for _, e := range slices.Sorted(maps.Keys(t.Enum)) {
			if t.Kind == argument.KindString {
				e = quoted(e)
			}
			out = append(out, e)
		}
		if t.Kind == argument.KindBool {
			out = append(out, "true", "false")
		}
	}
	out = append(out, freshText(t))
	if t.Nullable {
		out = append(out, "null")
	}
	return out
}

// objectText writes an object with one member as given and what else it needs.
func objectText(t *argument.Type, name, value string) string {
	var members []string
	for _, f := range t.Fields {
		switch {
		case f.Name == name:
			members = append(members, quoted(f.Name)+":"+value)
		case f.Required:
			members = append(members, quoted(f.Name)+":"+freshText(f.Typ))
		}
	}
	return "{" + strings.Join(members, ",") + "}"
}

// valuesOf are the constants of a mention, a set's one by one.
func valuesOf(m cedarx.Mention) []types.Value {
	if set, ok := m.Value.(types.Set); ok {
		out := slices.Collect(set.All())
		slices.SortFunc(out, func(a, b types.Value) int {
			return strings.Compare(string(a.MarshalCedar()), string(b.MarshalCedar()))
		})
		return out
	}
	if m.Value == nil {
		return nil
	}
	return []types.Value{m.Value}
}

// textsOf are the texts that a mention is about.
func textsOf(m cedarx.Mention) []string {
	out := patternTexts(m)
	for _, v := range valuesOf(m) {
		switch v := v.(type) {
		case types.String:
			out = append(out, string(v))
		case types.Long:
			out = append(out, v.String())
		}
	}
	return out
}

// patternTexts are texts that match a pattern, with nothing and with something
// for its wildcards.
func patternTexts(m cedarx.Mention) []string {
	if m.Op != "like" {
		return nil
	}
	return []string{strings.Join(m.Parts, ""), strings.Join(m.Parts, "x"), strings.Join(m.Parts, "/")}
}

// jsonTexts writes a constant as arguments that reach policy as it, and its
// neighbours; nothing for what they cannot be.
func jsonTexts(t *argument.Type, v types.Value) []string {
	switch v := v.(type) {
	case types.String:
		switch t.Kind {
		case argument.KindText:
			if canonical, err := argument.CanonicalJSON(string(v)); err == nil {
				return []string{canonical}
			}
			return nil
		case argument.KindString:
			return []string{quoted(string(v))}
		}
	case types.Long:
		var out []string
		for _, n := range []types.Long{v, v - 1, v + 1} {
			if t.Kind == argument.KindLong && t.Scale > 0 {
				out = append(out, fmt.Sprintf("%de-%d", n, t.Scale))
			} else if t.Kind == argument.KindLong {
				out = append(out, n.String())
			}
		}
		return out
	case types.Decimal:
		if t.Kind == argument.KindDecimal {
			text := v.String()
			out := []string{text}
			for _, d := range []float64{-0.0001, 0.0001} {
				out = append(out, fmt.Sprintf("%.4f", v.Float()+d))
			}
			return out
		}
	case types.Datetime:
		if t.Kind == argument.KindTime || t.Kind == argument.KindDate {
			layout := time.RFC3339Nano
			if t.Kind == argument.KindDate {
				layout = time.DateOnly
			}
			var out []string
			for _, d := range []time.Duration{0, -time.Millisecond, time.Millisecond} {
				out = append(out, quoted(v.Time().UTC().Add(d).Format(layout)))
			}
			return out
		}
	case types.IPAddr:
		if t.Kind == argument.KindIPv4 || t.Kind == argument.KindIPv6 {
			return []string{quoted(v.Prefix().Addr().String())}
		}
	case types.Boolean:
		if t.Kind == argument.KindBool {
			return []string{fmt.Sprint(bool(v))}
		}
	}
	return nil
}

// freshText is a value that no policy is likely to name.
func freshText(t *argument.Type) string {
	switch t.Kind {
	case argument.KindLong, argument.KindDecimal:
		return "7777"
	case argument.KindBool:
		return "true"
	case argument.KindTime:
		return `"2001-02-03T04:05:06Z"`
	case argument.KindDate:
		return `"2001-02-03"`
	case argument.KindIPv4:
		return `"198.51.100.77"`
	case argument.KindIPv6:
		return `"2001:db8::77"`
	case argument.KindText, argument.KindMap:
		return `{}`
	case argument.KindSet, argument.KindColumns:
		return `[]`
	case argument.KindRecord:
		return objectText(t, "", "")
	case argument.KindUnion:
		if len(t.Fields) > 0 {
			return freshText(t.Fields[0].Typ)
		}
	}
	return quoted(strangerText)
}

func quoted(s string) string {
	text, _ := json.Marshal(s)
	return string(text)
}

// unfolded returns texts of which the facet is the given one.
func (f Facet) unfolded(is string) []string {
	switch f {
	case CleanPath, Folded:
		return []string{is}
	case URLScheme:
		return []string{is + "://" + strangerName + "/"}
	case URLHost:
		return []string{"https://" + is + "/"}
	case URLPort:
		return []string{"https://" + strangerName + ":" + is + "/"}
	case EmailDomains:
		return []string{"a@" + is}
	case SQLVerb:
		return []string{is + " 1"}
	}
	return nil
}

// attrValues are what an attribute of a door can be.
func attrValues(typ string, known []cedarx.Mention) []any {
	var texts []string
	out := []any{}
	for _, m := range known {
		texts = append(texts, textsOf(m)...)
		for _, v := range valuesOf(m) {
			if n, ok := v.(types.Long); ok && typ == "Long" {
				out = append(out, int64(n), int64(n)-1, int64(n)+1)
			}
		}
	}
	switch typ {
	case "Long":
		return append(out, int64(7777))
	case "Bool":
		return []any{true, false}
	case "Set<String>":
		for _, text := range texts {
			out = append(out, []string{text})
		}
		return append(out, texts, append(slices.Clone(texts), strangerText), []string{})
	}
	for _, text := range texts {
		out = append(out, text)
	}
	return append(out, strangerText)
}
