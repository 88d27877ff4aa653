package argument

import (
	"fmt"

	"github.com/cedar-policy/cedar-go/types"
)

// Values that hold others of one type: sets, columns and unions.

// count counts a list before anything is made of it.
func (c *converter) count(path string) (n int, err *Error) {
	ahead := c.cursor
	for ahead.open(); ahead.more(); ahead.skip() {
		if n++; n > MaxSet {
			return n, &Error{path, fmt.Errorf("a list of more than %d", MaxSet), "split the call"}
		}
	}
	return n, nil
}

func (c *converter) set(elem *Type, path string) (types.Value, *Error) {
	count, tooMany := c.count(path)
	if tooMany != nil {
		return nil, tooMany
	}
	var values []types.Value
	if !c.dry {
		values = make([]types.Value, 0, count)
	}
	for c.open(); c.more(); {
		v, err := c.value(elem, path)
		if err != nil {
			return nil, err
		}
		if !c.dry {
			values = append(values, v)
		}
	}
	if c.dry {
		return nil, nil
	}
	return types.NewSet(values...), nil
}

// columns converts a list of objects, each exactly, and then shows policy the
// values of each property. An object without it adds none.
func (c *converter) columns(t *Type, path string) (types.Value, *Error) {
	if _, tooMany := c.count(path); tooMany != nil {
		return nil, tooMany
	}
	// How many values there are of a property shows only once they are made.
	defer func(outer bool) { c.dry = outer }(c.dry)
	c.dry = false
	g := make(gathered, len(t.Fields))
	path += "/*"
	for c.open(); c.more(); {
		rec, err := c.value(t.Elem, path)
		if err != nil {
			return nil, err
		}
		g.add(t, rec.(types.Record))
	}
	rec, ok := g.record(t)
	if !ok {
		return nil, &Error{path, fmt.Errorf("more than %d values of one property", MaxSet), "split the call"}
	}
	return rec, nil
}

// union converts a value to the attribute that its JSON type names.
func (c *converter) union(t *Type, k byte, path string) (types.Value, *Error) {
	name := "number"
	switch k {
	case '"':
		name = "string"
	case '{':
		name = "object"
	case '[':
		name = "array"
	case 't', 'f':
		name = "boolean"
	}
	i, ok := t.ByName[name]
	if !ok {
		return nil, mismatch(path, k, "something else")
	}
	v, err := c.value(t.Fields[i].Typ, path)
	if err != nil || c.dry {
		return nil, err
	}
	return types.NewRecord(types.RecordMap{types.String(name): v}), nil
}

// gathered holds what the columns of a type collect, in the order of its fields.
type gathered []struct {
	values []types.Value
	nested gathered
}

func (g gathered) add(t *Type, rec types.Record) {
	for i := range t.Fields {
		v, ok := rec.Get(types.String(t.Fields[i].Name))
		if !ok {
			continue
		}
		switch v := v.(type) {
		case types.Set:
			for e := range v.All() {
				g[i].values = append(g[i].values, e)
			}
		case types.Record:
			if col := t.Fields[i].Typ; col.Kind == KindColumns {
				if g[i].nested == nil {
					g[i].nested = make(gathered, len(col.Fields))
				}
				g[i].nested.add(col, v)
				continue
			}
			g[i].values = append(g[i].values, v)
		default:
			g[i].values = append(g[i].values, v)
		}
	}
}

// record makes the sets; ok is false when one is too large.
func (g gathered) record(t *Type) (rec types.Record, ok bool) {
	m := make(types.RecordMap, len(t.Fields))
	for i := range t.Fields {
		name, typ := types.String(t.Fields[i].Name), t.Fields[i].Typ
		if typ.Kind != KindColumns {
			if len(g[i].values) > MaxSet {
				return rec, false
			}
			m[name] = types.NewSet(g[i].values...)
			continue
		}
		nested := g[i].nested
		if nested == nil {
			nested = make(gathered, len(typ.Fields))
		}
		if m[name], ok = nested.record(typ); !ok {
			return rec, false
		}
	}
	return types.NewRecord(m), true
}
