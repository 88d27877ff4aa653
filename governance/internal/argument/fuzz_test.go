package argument

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twinward-dev/twinward/governance/internal/cedarx"
)

const fuzzSchema = `{
  "type": "object",
  "properties": {
    "s": {"type": "string"}, "i": {"type": "integer"}, "n": {"type": "number"}, "id": {"type": "number"},
    "usd": {"type": "number"}, "geo": {"type": "number"}, "b": {"type": "boolean"}, "e": {"enum": ["open", "closed"]},
    "dt": {"type": "string", "format": "date-time"}, "d": {"type": "string", "format": "date"},
    "ip": {"type": "string", "format": "ipv4"}, "ip6": {"type": "string", "format": "ipv6"}, "body": {"type": "string"},
    "ss": {"type": "array", "items": {"type": "string"}}, "is": {"type": "array", "items": {"type": "integer"}},
    "o": {"type": "object", "properties": {"x": {"type": "string"}, "y": {"type": "integer"}}, "required": ["x"], "additionalProperties": false},
    "objs": {"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string"}, "l": {"type": "array", "items": {"type": "integer"}}, "o": {"type": "object", "properties": {"x": {"type": "number"}}}}}},
    "u": {"type": ["string", "number", "object", "array", "null"]}, "us": {"type": "array", "items": {"type": ["string", "integer"]}},
    "map": {"type": "object", "additionalProperties": {"type": "string"}}, "any": true, "ns": {"type": ["string", "null"]}
  }
}`

var fuzzPins = map[string]string{"id": "long", "usd": "scaled(2)", "geo": "text", "body": "large"}

// FuzzArgs: what the strict check accepts, encoding/json reads with the same
// values, the canonical form means the same as the source, and what policy sees
// is all of it, exactly: written as JSON again it is what was sent, but for the
// order of lists.
func FuzzArgs(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"s":"a","i":1,"n":1.5,"b":true,"ss":["b","a","b"],"o":{"x":"a"}}`, `{"any":[1,{"a":null},"\u00e9"]}`, `{"s":"a","\u0073":"b"}`,
		`{"i":1e2,"n":-0.0001,"id":4.0,"usd":-19.99,"geo":1.23456789e-5}`, `{"s":"\ud83d\ude00","body":"\u0061"}`, `{"zzz":[[[1]]]}`, `{"ns":null}`, ` {"s" : "x"} `,
		`{"dt":"2024-02-29T23:59:59.5+01:00","d":"2024-02-29","ip":"10.0.0.1","ip6":"2001:db8::1"}`,
		`{"objs":[{"k":"a","l":[2,1]},{"o":{"x":1.5}},{"k":null,"zz":1}],"us":["1",1,"1"],"u":{"a":1}}`, `{"u":[1],"map":{"b":"1","a":"2"},"e":"open"}`,
	} {
		f.Add(seed)
	}
	at := typed(f, fuzzSchema, fuzzPins)
	f.Fuzz(func(t *testing.T, src string) {
		if CheckStrict([]byte(src)) != nil {
			return
		}
		want := decoded(t, src)
		canon, err := CanonicalJSON(src)
		if err != nil {
			require.ErrorIs(t, err, errNumberSize)
		} else {
			require.True(t, sameJSON(want, decoded(t, canon)), "%s became %s", src, canon)
			again, err := CanonicalJSON(canon)
			require.NoError(t, err)
			require.Equal(t, canon, again)
		}
		a, argErr := Convert(at, src, nil)
		requireSliced(t, at, src, a, argErr)
		if argErr == nil {
			requireSame(t, at, want, a)
		}
	})
}

// decoded reads JSON as encoding/json does.
func decoded(t testing.TB, src string) (v any) {
	d := json.NewDecoder(strings.NewReader(src))
	d.UseNumber()
	require.NoError(t, d.Decode(&v), "accepted what encoding/json refuses")
	return v
}

// requireSame writes what policy sees and what was sent in one form.
func requireSame(t testing.TB, at *Type, sent any, seen Values) {
	t.Helper()
	s := sentence{nulls: map[string]bool{}, extra: map[string]bool{}}
	want := s.sent(at, sent, "")
	require.Equal(t, want, asSeen(at, seen.Args))
	set := func(v types.Set) map[string]bool {
		m := map[string]bool{}
		for e := range v.All() {
			m[string(e.(types.String))] = true
		}
		return m
	}
	require.Equal(t, s.nulls, set(seen.Nulls))
	require.Equal(t, s.extra, set(seen.Extra))
}

// A sentence tells what was sent, from what encoding/json made of it.
type sentence struct{ nulls, extra map[string]bool }

func (s *sentence) sent(t *Type, v any, path string) string {
	switch t.Kind {
	case KindSet:
		var all []string
		for _, e := range v.([]any) {
			all = append(all, s.sent(t.Elem, e, path))
		}
		return asSet(all)
	case KindRecord:
		return s.members(t, v.(map[string]any), path, func(f Field, e any) string { return s.sent(f.Typ, e, f.Path) })
	case KindColumns:
		return s.columns(t.Elem, v.([]any), path+"/*")
	case KindUnion:
		name := jsonType(v)
		return "{" + name + ":" + s.sent(t.Fields[t.ByName[name]].Typ, v, path) + "}"
	case KindMap:
		var keys []string
		for k := range v.(map[string]any) {
			keys = append(keys, fmt.Sprintf("%q", k))
		}
		return "{json:" + plain(v) + " keys:" + asSet(keys) + "}"
	case KindTime:
		at, err := time.Parse(time.RFC3339Nano, v.(string))
		if err != nil {
			return err.Error()
		}
		return at.UTC().Format(time.RFC3339Nano)
	case KindDate:
		return v.(string) + "T00:00:00Z"
	case KindIPv4, KindIPv6:
		ip, err := types.ParseIPAddr(v.(string))
		if err != nil {
			return err.Error()
		}
		return ip.String()
	case kindLarge:
		text, ok := v.(string)
		if !ok {
			text = plain(v)
		}
		sum := sha256.Sum256([]byte(text))
		return fmt.Sprintf("{length:%d sha256:%q}", len(text), hex.EncodeToString(sum[:]))
	}
	return plain(v)
}

func (s *sentence) members(t *Type, m map[string]any, path string, show func(Field, any) string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		i, known := t.ByName[name]
		switch {
		case !known:
			s.extra[join(path, name)] = true
		case m[name] == nil:
			s.nulls[join(path, name)] = true
		default:
			parts = append(parts, name+":"+show(t.Fields[i], m[name]))
		}
	}
	return "{" + strings.Join(parts, " ") + "}"
}

// columns is what a list of objects shows: for each property, the set of what
// the objects have.
func (s *sentence) columns(elem *Type, list []any, path string) string {
	if elem.Kind == KindMap {
		var texts, keys []string
		for _, v := range list {
			texts = append(texts, plain(v))
			for k := range v.(map[string]any) {
				keys = append(keys, fmt.Sprintf("%q", k))
			}
		}
		return "{json:" + asSet(texts) + " keys:" + asSet(keys) + "}"
	}
	got := make([][]any, len(elem.Fields))
	for _, v := range list {
		if elem.Kind == KindUnion {
			i := elem.ByName[jsonType(v)]
			got[i] = append(got[i], v)
			continue
		}
		s.members(elem, v.(map[string]any), path, func(f Field, e any) string {
			i := elem.ByName[f.Name]
			got[i] = append(got[i], e)
			return ""
		})
	}
	var parts []string
	for i, f := range elem.Fields {
		text := ""
		switch ft := f.Typ; ft.Kind {
		case KindRecord, KindUnion, KindMap:
			text = s.columns(ft, got[i], f.Path)
		case KindColumns, KindSet:
			var flat []any
			for _, v := range got[i] {
				flat = append(flat, v.([]any)...)
			}
			if ft.Kind == KindColumns {
				text = s.columns(ft.Elem, flat, f.Path+"/*")
			} else {
				text = s.sent(ft, flat, f.Path)
			}
		default:
			text = s.sent(&Type{Kind: KindSet, Elem: ft}, got[i], f.Path)
		}
		parts = append(parts, f.Name+":"+text)
	}
	slices.Sort(parts)
	return "{" + strings.Join(parts, " ") + "}"
}

func jsonType(v any) string {
	switch v.(type) {
	case string:
		return "string"
	case json.Number:
		return "number"
	case bool:
		return "boolean"
	case []any:
		return "array"
	}
	return "object"
}

func asSet(all []string) string {
	slices.Sort(all)
	return "[" + strings.Join(slices.Compact(all), " ") + "]"
}

// plain is decoded JSON with sorted names and numbers as exact fractions.
func plain(v any) string {
	switch v := v.(type) {
	case json.Number:
		r, ok := new(big.Rat).SetString(v.String())
		if !ok {
			return "no number: " + v.String()
		}
		return r.RatString()
	case string:
		return fmt.Sprintf("%q", v)
	case []any:
		var all []string
		for _, e := range v {
			all = append(all, plain(e))
		}
		return "[" + strings.Join(all, ",") + "]"
	case map[string]any:
		var all []string
		for _, k := range slices.Sorted(maps.Keys(v)) {
			all = append(all, fmt.Sprintf("%q:%s", k, plain(v[k])))
		}
		return "{" + strings.Join(all, ",") + "}"
	}
	return fmt.Sprint(v)
}

// asSeen writes what policy sees in the form of sent.
func asSeen(t *Type, v types.Value) string {
	switch v := v.(type) {
	case types.Record:
		var parts []string
		for _, k := range slices.Sorted(v.Keys()) {
			e, _ := v.Get(k)
			var ft *Type
			if t.Kind == kindLarge {
				ft = &Type{Kind: KindString}
			} else {
				ft = t.Fields[t.ByName[string(k)]].Typ
			}
			parts = append(parts, string(k)+":"+asSeen(ft, e))
		}
		return "{" + strings.Join(parts, " ") + "}"
	case types.Set:
		var all []string
		for e := range v.All() {
			all = append(all, asSeen(t.Elem, e))
		}
		return asSet(all)
	case types.String:
		if t.Kind != KindText {
			return fmt.Sprintf("%q", string(v))
		}
		var e any
		d := json.NewDecoder(strings.NewReader(string(v)))
		d.UseNumber()
		if err := d.Decode(&e); err != nil {
			return err.Error()
		}
		return plain(e)
	case types.Long:
		r := new(big.Rat).SetInt64(int64(v))
		for range t.Scale {
			r.Quo(r, big.NewRat(10, 1))
		}
		return r.RatString()
	case types.Decimal:
		return plain(json.Number(v.String()))
	case types.Datetime:
		return time.UnixMilli(v.Milliseconds()).UTC().Format(time.RFC3339Nano)
	}
	return v.String()
}

// conforms reports whether a Cedar value is of the type that the schema says.
func conforms(t *Type, v types.Value) bool {
	switch t.Kind {
	case KindText, KindString:
		_, ok := v.(types.String)
		return ok
	case KindLong:
		_, ok := v.(types.Long)
		return ok
	case KindDecimal:
		_, ok := v.(types.Decimal)
		return ok
	case KindBool:
		_, ok := v.(types.Boolean)
		return ok
	case KindTime, KindDate:
		_, ok := v.(types.Datetime)
		return ok
	case KindIPv4, KindIPv6:
		_, ok := v.(types.IPAddr)
		return ok
	case KindSet:
		set, ok := v.(types.Set)
		if !ok {
			return false
		}
		for e := range set.All() {
			if !conforms(t.Elem, e) {
				return false
			}
		}
		return true
	case kindLarge:
		rec, ok := v.(types.Record)
		return ok && rec.Len() == 2
	}
	rec, ok := v.(types.Record)
	if !ok {
		return false
	}
	for k, e := range rec.All() {
		i, ok := t.ByName[string(k)]
		if !ok || !conforms(t.Fields[i].Typ, e) {
			return false
		}
	}
	for _, f := range t.Fields {
		if _, ok := rec.Get(types.String(f.Name)); !ok && f.Required && !f.Typ.Nullable {
			return false
		}
	}
	return true
}

// A subject is what a tool's schema makes of arguments.
type subject struct {
	schema  string
	args    *Type
	derived []Derivation
}

func newSubject(schema string, derived map[string]DerivedFrom) (*subject, error) {
	at, tp, err := NewType([]byte(schema), nil)
	if err != nil {
		return nil, err
	}
	list, err := tp.Derive(derived)
	return &subject{schema, at, list}, err
}

// anySubject takes any schema. Its Cedar type parses, or there is a reason why
// not and it is nil.
func anySubject(t *testing.T, schema string) *subject {
	t.Helper()
	sub, err := newSubject(schema, nil)
	if err != nil {
		return nil
	}
	var b strings.Builder
	b.WriteString(`entity E; action "a" appliesTo { principal: E, resource: E, context: { args: `)
	sub.args.CedarType(&b)
	_, err = cedarx.NewValidator("schema", b.String()+" } };")
	require.NoError(t, err, schema)
	return sub
}

// accepts converts arguments. Those that are accepted fit the whole inputSchema,
// are of their Cedar types, and are seen as sent.
func (sub *subject) accepts(t *testing.T, args string) bool {
	t.Helper()
	if CheckStrict([]byte(args)) != nil {
		return false
	}
	a, argErr := Convert(sub.args, args, nil)
	requireSliced(t, sub.args, args, a, argErr)
	if argErr != nil {
		return false
	}
	require.True(t, conforms(sub.args, a.Args), "%s\n%s\nis seen as %s", sub.schema, args, show(a.Args))
	requireSame(t, sub.args, decoded(t, args), a)
	whole, _, err := compileRule(sub.schema)
	require.NoError(t, err)
	if why := whole.breaks(args); why != "" && a.Nulls.Len() == 0 && !strings.Contains(why, errTooManySteps.Error()) {
		require.Fail(t, "accepted", "%s\n%s\n%s", sub.schema, args, why)
	}
	return true
}

// FuzzSchema: no schema breaks the compiler, and the conversion never accepts
// what the schema does not allow.
func FuzzSchema(f *testing.F) {
	f.Add(openSchema, `{"s":"a","objs":[{"k":"x"}],"u":1}`)
	f.Add(fuzzSchema, `{"us":["a",1],"map":{"a":"b"}}`)
	f.Add(`{"type":"object","properties":{"a":{"anyOf":[{"type":"object","properties":{"x":{"const":"1"}}},{"type":"object","properties":{"x":{"const":"2"},"y":{"$ref":"#/$defs/d"}}}]}},"$defs":{"d":{"type":["integer","null"],"minimum":1}}}`, `{"a":{"x":"2","y":1}}`)
	f.Add(`{"type":"object","properties":{"":{"type":"string"},"\u0000\"\\\n":{"type":"integer"},"__entity":{"type":"string"}},"required":["zz"],"additionalProperties":false}`, `{"":"","zz":1}`)
	f.Add(`{"type":"object","properties":{"t":{"$ref":"#"}},"patternProperties":{"^x":{"type":"string"}},"if":{"required":["t"]},"then":{"maxProperties":1}}`, `{"t":{"t":{}},"x":"y"}`)
	f.Fuzz(func(t *testing.T, schema, args string) {
		if sub := anySubject(t, schema); sub != nil {
			sub.accepts(t, args)
		}
	})
}

// Random schemas of all keywords, and arguments that often fit.
func TestConversionHolds(t *testing.T) {
	t.Parallel()
	r := seeded(t)
	value, schema := schemas(r)
	accepted := 0
	for range rounds(20_000) {
		props := map[string]any{}
		for _, name := range []string{"a", "b", "c"} {
			props[name] = schema(0)
		}
		root := map[string]any{"type": "object", "properties": props, "$defs": map[string]any{"d": map[string]any{"type": pick(r, "string", "integer", "array")}}}
		if r.IntN(4) == 0 {
			root["required"] = []string{"a"}
		}
		if r.IntN(4) == 0 {
			root["additionalProperties"] = schema(2)
		}
		text, err := json.Marshal(root)
		require.NoError(t, err)
		sub := anySubject(t, string(text))
		require.NotNil(t, sub, "%s", text)
		for range 10 {
			args := map[string]any{}
			for _, name := range []string{"a", "b", "c", "ab"} {
				if r.IntN(2) == 0 {
					args[name] = value(0)
				}
			}
			src, err := json.Marshal(args)
			require.NoError(t, err)
			if sub.accepts(t, string(src)) {
				accepted++
			}
		}
	}
	t.Logf("%d accepted", accepted)
	assert.Positive(t, accepted)
}
