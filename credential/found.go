package credential

import (
	"maps"
	"slices"
	"strings"
)

// A Sight is one secret in one encoding, found where it should not be. It can be
// logged.
type Sight struct {
	// Ref names the secret; its version is 0 if it was added without one.
	Ref Ref
	// Encoding is "raw", "hex" or "base64", followed by what was around it:
	// "/json", "/percent", and so on from the inside out: "base64/percent/json"
	// is base64 in a URL in a JSON string.
	Encoding string
}

// Found counts what a [Scrubber] found. Nil means nothing.
type Found map[Sight]int

// Names returns the counts by the names of the secrets, or nil if there are
// none.
func (f Found) Names() map[string]int {
	if len(f) == 0 {
		return nil
	}
	names := make(map[string]int, len(f))
	for s, n := range f {
		names[s.Ref.Name] += n
	}
	return names
}

// Canary reports whether a canary is among what was found.
func (f Found) Canary() bool {
	for s := range f {
		if s.Ref.Canary() {
			return true
		}
	}
	return false
}

// Plus returns the counts of f and g together. It may change f.
func (f Found) Plus(g Found) Found {
	if f == nil {
		return maps.Clone(g)
	}
	for s, n := range g {
		f[s] += n
	}
	return f
}

// sorted returns the sights in the order of their names, versions and
// encodings.
func (f Found) sorted() []Sight {
	return slices.SortedFunc(maps.Keys(f), func(a, b Sight) int {
		if c := strings.Compare(a.Ref.Name, b.Ref.Name); c != 0 {
			return c
		}
		if a.Ref.Version != b.Ref.Version {
			return int(int64(a.Ref.Version) - int64(b.Ref.Version))
		}
		return strings.Compare(a.Encoding, b.Encoding)
	})
}
