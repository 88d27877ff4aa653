package argument

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/twinward-dev/twinward/governance/internal/cedarx"
)

// The facets, by the names that a catalogue calls them. [governance.Facet] says
// what each is.
const (
	facetPath    = "path"
	facetScheme  = "url_scheme"
	facetHost    = "url_host"
	facetPort    = "url_port"
	facetDomains = "email_domains"
	facetVerb    = "sql_verb"
	facetCount   = "count"
	facetSHA256  = "sha256"
	facetFolded  = "folded"
)

// A DerivedFrom is what an operator says of one attribute of context.derived: the
// JSON Pointer of the argument, and the facet.
type DerivedFrom struct{ From, Facet string }

// facets says what each makes, and of what.
var facets = map[string]struct {
	makes string
	takes typeSet
	of    func(s string) (types.Value, error) // those of text
}{
	facetPath:    {"String", isString, cleanPath},
	facetScheme:  {"String", isString, urlFacet(func(u urlParts) (types.Value, error) { return types.String(u.scheme), nil })},
	facetHost:    {"String", isString, urlFacet(func(u urlParts) (types.Value, error) { return types.String(u.host), nil })},
	facetPort:    {"Long", isString, urlFacet(urlParts.number)},
	facetDomains: {"Set<String>", isString, emailDomains},
	facetVerb:    {"String", isString, sqlVerb},
	facetFolded:  {"String", isString, folded},
	facetCount:   {"Long", isArray | isObject, nil},
	facetSHA256:  {"String", 0, nil},
}

// maxDerived bounds the facets of one tool.
const maxDerived = 32

// A Derivation is a Derived, checked against the schema.
type Derivation struct {
	Name     string
	path     []string
	from     string // for messages
	facet    string
	each     bool // over a list: a set
	optional bool
}

func (d *Derivation) cedarType() string {
	makes := facets[d.facet].makes
	if d.each && !strings.HasPrefix(makes, "Set") {
		return "Set<" + makes + ">"
	}
	return makes
}

// DerivedType is the Cedar type of context.derived.
func DerivedType(list []Derivation) string {
	parts := make([]string, len(list))
	for i, d := range list {
		optional := ""
		if d.optional {
			optional = "?"
		}
		parts[i] = cedarx.Quote(d.Name) + optional + ": " + d.cedarType()
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

var derivedName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Derive checks what a catalogue derives against the schema of the tool.
func (tp *Typer) Derive(m map[string]DerivedFrom) (list []Derivation, err error) {
	if len(m) > maxDerived {
		return nil, fmt.Errorf(`"derived" has %d facets, at most %d are allowed`, len(m), maxDerived)
	}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		f, ok := facets[m[name].Facet]
		switch {
		case len(name) > 64 || !derivedName.MatchString(name):
			return nil, fmt.Errorf(`"derived" has the name %q; use letters, digits and _`, name)
		case !ok:
			return nil, fmt.Errorf(`"derived" %q says facet %q; there are %s`, name, m[name].Facet, facetNames())
		}
		d := Derivation{Name: name, from: m[name].From, facet: m[name].Facet}
		if d.from != "" {
			from, ok := strings.CutPrefix(d.from, "/")
			if !ok {
				return nil, fmt.Errorf(`"derived" %q: from is %q, and a JSON Pointer begins with "/"`, name, d.from)
			}
			d.path = strings.Split(from, "/")
		}
		if d.each = slices.Contains(d.path, "*"); d.each && d.facet == facetCount {
			return nil, fmt.Errorf(`"derived" %q: a count is of one list`, name)
		}
		leads, found, err := tp.lead(tp.doc.root, d.path, 0)
		if err != nil {
			return nil, fmt.Errorf(`"derived" %q: %w`, name, err)
		}
		if !leads {
			return nil, fmt.Errorf(`"derived" %q: %q leads to no argument in the inputSchema`, name, d.from)
		}
		if f.takes != 0 && found != 0 && found&f.takes == 0 {
			return nil, fmt.Errorf(`"derived" %q: %q is no value that facet %q is for`, name, d.from, d.facet)
		}
		d.optional = !tp.sure(tp.doc.root, d.path)
		for i, p := range d.path {
			d.path[i] = pointerUnescape.Replace(p)
		}
		list = append(list, d)
	}
	return list, nil
}

var pointerUnescape = strings.NewReplacer("~1", "/", "~0", "~")

func facetNames() string {
	var names []string
	for f := range facets {
		names = append(names, f)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// lead reports whether a path can lead to a value in s, and the types that it
// may have there; 0 is any.
func (tp *Typer) lead(s *schema, path []string, depth int) (leads bool, found typeSet, err error) {
	if s == nil || depth > maxArgsDepth {
		return false, 0, nil
	}
	if len(path) == 0 {
		for _, t := range s.Type {
			found |= typeBits[t]
		}
		if s.Ref == "" || found != 0 {
			return true, found, nil
		}
	}
	next := slices.Concat(s.AllOf, s.AnyOf, s.OneOf)
	if s.Ref != "" {
		to, err := tp.doc.lookup(s.Ref)
		if err != nil {
			return false, 0, err
		}
		next = append(next, to)
	}
	for _, n := range next {
		if leads, found, err = tp.lead(n, path, depth+1); leads || err != nil {
			return leads, found, err
		}
	}
	if len(path) == 0 {
		return true, 0, nil
	}
	if path[0] == "*" {
		if s.Items == nil || s.Items.all == nil {
			return false, 0, nil
		}
		return tp.lead(s.Items.all, path[1:], depth+1)
	}
	return tp.lead(s.Properties[pointerUnescape.Replace(path[0])], path[1:], depth+1)
}

// sure reports whether arguments that pass the schema have a value at path.
func (tp *Typer) sure(s *schema, path []string) bool {
	if len(path) == 0 || path[0] == "*" { // of no elements, the set is empty
		return true
	}
	name := pointerUnescape.Replace(path[0])
	next := s.Properties[name]
	return slices.Contains(s.Required, name) && next != nil && len(next.Type) == 1 && next.Type[0] != "null" && tp.sure(next, path[1:])
}

// Derive computes context.derived from arguments that the conversion
// accepted. What is absent or null has no facet.
func Derive(list []Derivation, src string) (types.Record, *Error) {
	m := make(types.RecordMap, len(list))
	for i := range list {
		d := &list[i]
		var found []types.Value
		present := false
		if err := d.walk(&cursor{src: src}, d.path, &present, &found); err != nil {
			return types.Record{}, &Error{d.from, err, "write it in its plainest form"}
		}
		switch {
		case !present:
		case d.each:
			m[types.String(d.Name)] = types.NewSet(found...)
		default:
			m[types.String(d.Name)] = found[0]
		}
	}
	return types.NewRecord(m), nil
}

// walk reads the value at the cursor, and adds the facet of what path leads to.
func (d *Derivation) walk(c *cursor, path []string, present *bool, found *[]types.Value) error {
	switch k := c.kind(); {
	case k == 'n':
		c.word()
		return nil
	case len(path) == 0:
		*present = true
		v, err := d.compute(c, k)
		if err != nil {
			return err
		}
		if set, ok := v.(types.Set); ok && d.each {
			for e := range set.All() {
				*found = append(*found, e)
			}
			return nil
		}
		*found = append(*found, v)
		return nil
	case path[0] == "*" && k == '[':
		*present = true
		for c.open(); c.more(); {
			if err := d.walk(c, path[1:], present, found); err != nil {
				return err
			}
			if len(*found) > MaxSet {
				return fmt.Errorf("more than %d values", MaxSet)
			}
		}
		return nil
	case path[0] != "*" && k == '{':
		for c.open(); c.more(); {
			if name := c.text(); name != path[0] {
				if foldName(name) == foldName(path[0]) { // which lenient readers take for it
					return fmt.Errorf("differs from %q only in case or look", path[0])
				}
				c.skip()
				continue
			}
			if err := d.walk(c, path[1:], present, found); err != nil {
				return err
			}
		}
		return nil
	}
	return errors.New("has another form than the one that is decided on")
}

func (d *Derivation) compute(c *cursor, k byte) (types.Value, error) {
	switch f := facets[d.facet]; {
	case f.of != nil:
		if k != '"' {
			return nil, errors.New("not a string")
		}
		s := c.text()
		if len(s) > MaxText {
			return nil, fmt.Errorf("a text of %d bytes; at most %d can be decided on", len(s), MaxText)
		}
		return f.of(s)
	case d.facet == facetCount:
		if k != '[' && k != '{' {
			return nil, errors.New("not a list")
		}
		n := 0
		for c.open(); c.more(); n++ {
			if k == '{' {
				c.text()
			}
			c.skip()
		}
		return types.Long(n), nil
	}
	text := ""
	if k == '"' {
		text = c.text()
	} else {
		out, err := c.canonical(nil)
		if err != nil {
			return nil, err
		}
		text = string(out)
	}
	sum := sha256.Sum256([]byte(text))
	return types.String(hex.EncodeToString(sum[:])), nil
}
