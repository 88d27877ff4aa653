package report

import "slices"

// fewest is how many words a [Few] lists.
const fewest = 8

func (f *Few) add(words ...string) {
	for _, w := range words {
		i, found := slices.BinarySearch(f.List, w)
		switch {
		case found || w == "":
		case len(f.List) >= fewest:
			f.More = true
		default:
			f.List = slices.Insert(f.List, i, w)
		}
	}
}

// Limits of a summary's size. What is beyond them is counted under [Others].
const (
	maxAgents      = 10_000
	maxOperations  = 1_000 // of an agent
	maxAuthorities = 1_000 // of an agent
	maxGroups      = 5_000 // of a table
)

// group returns the entry of a map for a key, made if absent; when the map is
// full, the entry of the key that stands for all others.
func group[K comparable, V any](m map[K]*V, limit int, key, others K) (v *V, made bool) {
	if v, ok := m[key]; ok {
		return v, false
	}
	if len(m) >= limit {
		if v, ok := m[others]; ok {
			return v, false
		}
		key = others
	}
	v = new(V)
	m[key] = v
	return v, true
}
